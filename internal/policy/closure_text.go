package policy

import (
	"regexp"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

func startsWith(a, b code) code { return texts2(a, b, strings.HasPrefix) }

func endsWith(a, b code) code { return texts2(a, b, strings.HasSuffix) }

func contains(a, b code) code { return texts2(a, b, strings.Contains) }

// texts2 compiles what is true or false of two texts.
func texts2(a, b code, of func(a, b string) bool) code {
	v, w := textOf(a), textOf(b)
	if v == nil || w == nil {
		return code{}
	}
	return code{flag: pair(v, w, of)}
}

// matches presumes what sense makes sure of: the pattern is a literal.
func matches(a, pattern code) code {
	text, literal := textOf(a), pattern.literal
	p, ok := literal.(string)
	if !ok || text == nil {
		return code{}
	}
	compiled, err := regexp.Compile(p)
	if err != nil {
		return code{}
	}
	return code{flag: func(f *facts, s *scope) (bool, fault) {
		v, x := text(f, s)
		return x == answered && compiled.MatchString(v), x
	}}
}

func toText(c code) code {
	if c.any != nil {
		return code{text: asType[string](c.any)}
	}
	if c.text == nil {
		return code{}
	}
	return c
}

// converted returns c as CEL's library converts it, if c is the literal text
// of a T.
func converted[T any](c code, to *types.Type, value func(ref.Val) (T, bool)) (fn[T], any) {
	text, ok := c.literal.(string)
	if !ok {
		return nil, nil
	}
	v, ok := value(types.String(text).ConvertToType(to))
	if !ok {
		return nil, nil
	}
	return constant(v), v
}
