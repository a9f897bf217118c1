package policy

import "slices"

// member compiles a in b.
func member(a, b code) code {
	switch known := b.literal.(type) {
	case []string:
		if len(known) == 0 { // whatever a is, as CEL's library has it
			return code{flag: constant(false)}
		}
		out := code{flag: oneOf(a, known)}
		if a.reads().always == nil || len(known) > few {
			return out
		}
		return asTerm(out, a, term{kind: termOneOf, texts: known})
	case []int64:
		return code{flag: oneOfWhole(a, known)}
	}
	switch key := textOf(a); {
	case b.elements != nil && a.text != nil:
		return code{flag: oneOfElements(a.text, b.elements)}
	case b.texts != nil && a.text != nil:
		return code{flag: pair(a.text, b.texts, func(v string, list []string) bool { return slices.Contains(list, v) })}
	case b.texts != nil && a.any != nil:
		return code{flag: pair(a.any, b.texts, func(v any, list []string) bool {
			text, ok := v.(string)
			return ok && slices.Contains(list, text)
		})}
	case b.any != nil:
		out := code{flag: inAny(a, b.any)}
		if text, known := a.literal.(string); known && b.reads().document != nil && b.name != "" {
			return asTerm(out, b, term{kind: termClaimHas, text: text})
		}
		return out
	case key == nil:
	case b.document != nil:
		return code{flag: pair(key, b.document, inMap[any])}
	case b.labels != nil:
		return code{flag: pair(key, b.labels, inMap[string])}
	case b.header != nil:
		return code{flag: pair(key, b.header, func(name string, h headers) bool { _, ok := h.first(name); return ok })}
	}
	return code{}
}

// textOf leaves what is no text at evaluation to CEL's library.
func textOf(c code) fn[string] {
	if c.any != nil {
		return asType[string](c.any)
	}
	return c.text
}

func inMap[V any](key string, m map[string]V) bool {
	_, ok := m[key]
	return ok
}

// few are quicker found by looking at each.
const few = 8

// oneOf compiles a in ["x", "y"].
func oneOf(a code, texts []string) fn[bool] {
	if len(texts) <= few && a.text != nil {
		return func(f *facts, s *scope) (bool, fault) {
			v, x := a.text(f, s)
			return x == answered && slices.Contains(texts, v), x
		}
	}
	found := func(v string) bool { return slices.Contains(texts, v) }
	if len(texts) > few {
		set := make(map[string]struct{}, len(texts))
		for _, t := range texts {
			set[t] = struct{}{}
		}
		found = func(v string) bool { _, ok := set[v]; return ok }
	}
	switch {
	case a.text != nil:
		return func(f *facts, s *scope) (bool, fault) {
			v, x := a.text(f, s)
			return x == answered && found(v), x
		}
	case a.any != nil:
		return func(f *facts, s *scope) (bool, fault) {
			v, x := a.any(f, s)
			text, ok := v.(string)
			return x == answered && ok && found(text), x
		}
	}
	return nil
}

// oneOfElements compiles a in [b, c]. All elements have to have a value.
func oneOfElements(a fn[string], elements []fn[string]) fn[bool] {
	return func(f *facts, s *scope) (bool, fault) {
		v, x := a(f, s)
		if x != answered {
			return false, x
		}
		found := false
		for _, element := range elements {
			w, x := element(f, s)
			if x != answered {
				return false, x
			}
			found = found || v == w
		}
		return found, answered
	}
}

// oneOfWhole compiles a in [1, 2].
func oneOfWhole(a code, wholes []int64) fn[bool] {
	switch {
	case a.whole != nil:
		return func(f *facts, s *scope) (bool, fault) {
			v, x := a.whole(f, s)
			return x == answered && slices.Contains(wholes, v), x
		}
	case a.any != nil:
		return func(f *facts, s *scope) (bool, fault) {
			v, x := a.any(f, s)
			number, ok := numeralOf(v)
			return x == answered && ok && slices.ContainsFunc(wholes, func(w int64) bool { return number.equal(wholeNumeral(w)) }), x
		}
	}
	return nil
}

// inAny compiles a in b where only the evaluation tells what b is.
func inAny(a code, b fn[any]) fn[bool] {
	switch {
	case a.text != nil && a.literal != nil:
		text, _ := a.text(nil, nil)
		return func(f *facts, s *scope) (bool, fault) {
			v, x := b(f, s)
			if x != answered {
				return false, x
			}
			return textInAny(text, v)
		}
	case a.text != nil:
		return pairOr(a.text, b, textInAny)
	case a.any != nil:
		return pairOr(a.any, b, func(v, list any) (bool, fault) {
			if text, ok := v.(string); ok {
				return textInAny(text, list)
			}
			return inList(v, list)
		})
	}
	return nil
}

func textInAny(text string, in any) (bool, fault) {
	switch in := in.(type) {
	case map[string]any:
		return inMap(text, in), answered
	case []any:
		return textInList(text, in)
	}
	return false, elsewhere
}

func textInList(text string, in []any) (bool, fault) {
	for _, w := range in {
		v, ok := w.(string)
		switch {
		case ok && v == text:
			return true, answered
		case !ok && !isJSON(w):
			return false, elsewhere
		}
	}
	return false, answered
}

// isJSON reports whether v is of a type that claims have.
func isJSON(v any) bool {
	switch v.(type) {
	case nil, bool, float64, int64, string, []any, map[string]any:
		return true
	}
	return false
}

func inList(v, in any) (bool, fault) {
	list, ok := in.([]any)
	if !ok {
		return false, elsewhere
	}
	for _, w := range list {
		if equal, x := sameJSON(v, w); equal || x != answered {
			return equal, x
		}
	}
	return false, answered
}
