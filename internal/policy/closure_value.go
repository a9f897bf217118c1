package policy

import (
	"unicode/utf8"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

func constant[T any](v T) fn[T] { return func(*facts, *scope) (T, fault) { return v, answered } }

func literalOf(v ref.Val) code {
	switch v := v.(type) {
	case types.Bool:
		return code{flag: constant(bool(v)), literal: bool(v)}
	case types.Int:
		return code{whole: constant(int64(v)), literal: int64(v)}
	case types.Double:
		return code{number: constant(float64(v)), literal: float64(v)}
	case types.String:
		return code{text: constant(string(v)), literal: string(v)}
	case types.Null:
		return code{null: true}
	}
	return code{}
}

// list compiles a list of texts, or of whole numbers that are literals.
func (c *closures) list(l ast.ListExpr) code {
	texts, wholes := []string{}, []int64{}
	var elements []fn[string]
	for _, e := range l.Elements() {
		element := c.compile(e)
		switch v := element.literal.(type) {
		case string:
			texts = append(texts, v)
		case int64:
			wholes = append(wholes, v)
		}
		if element.text != nil {
			elements = append(elements, element.text)
		}
	}
	switch {
	case len(l.OptionalIndices()) > 0:
	case len(elements) == l.Size() && len(texts) < l.Size():
		return code{elements: elements}
	case len(texts) == l.Size():
		return code{texts: constant(texts), literal: texts}
	case len(wholes) == l.Size():
		return code{wholes: constant(wholes), literal: wholes}
	}
	return code{}
}

// selected compiles a.b and has(a.b).
func (c *closures) selected(s ast.SelectExpr, at fault) code {
	of, name := c.compileAt(s.Operand(), at), s.FieldName()
	key := code{text: constant(name), literal: name}
	switch {
	case of.object != nil && s.IsTestOnly():
		known := of.object.typed[name].known
		return code{flag: func(f *facts, _ *scope) (bool, fault) { return known(f), answered }}
	case of.object != nil:
		out := c.field(of.object.typed[name], at)
		out.get, out.at = &of.object.typed[name].getters, at
		return out
	case s.IsTestOnly() && of.any != nil:
		return code{flag: hasKey(of.any, name)}
	case s.IsTestOnly():
		return member(key, of)
	}
	return c.element(of, key, at)
}

// hasKey answers has(a.b) where only the evaluation tells what a is.
func hasKey(of fn[any], name string) fn[bool] {
	return func(f *facts, s *scope) (bool, fault) {
		v, x := of(f, s)
		if x != answered {
			return false, x
		}
		m, ok := v.(map[string]any)
		if !ok {
			return false, elsewhere
		}
		_, ok = m[name]
		return ok, answered
	}
}

// field reads a field of the facts.
func (c *closures) field(f *field, at fault) code {
	most := c.sizes
	switch {
	case f.of != nil:
		return code{object: f.of}
	case f.flag != nil:
		return code{flag: read(f.flag, at)}
	case f.whole != nil:
		return code{whole: read(f.whole, at)}
	case f.number != nil:
		return code{number: read(f.number, at)}
	case f.moment != nil:
		return code{moment: read(f.moment, at)}
	case f.span != nil:
		return code{span: read(f.span, at)}
	case f.address != nil:
		return code{address: read(f.address, at)}
	case f.always != nil:
		return code{text: readText(f.always, int(most.text))}
	case f.text != nil:
		return code{text: readSized(f.text, at, func(v string) bool { return len(v) <= int(most.text) })}
	case f.texts != nil:
		return code{texts: readSized(f.texts, at, func(v []string) bool { return len(v) <= int(most.items) })}
	case f.labels != nil:
		return code{labels: readSized(f.labels, at, func(v map[string]string) bool { return len(v) <= int(most.items) })}
	case f.document != nil:
		return code{document: readDocument(f.document, at, int(most.items))}
	case f.header != nil:
		return code{header: readSized(f.header, at, func(v headers) bool { return len(v) <= int(most.items) })}
	}
	return code{}
}

func read[T any](get func(*facts) (T, bool), at fault) fn[T] {
	return func(f *facts, _ *scope) (T, fault) {
		v, known := get(f)
		if !known {
			return v, at
		}
		return v, answered
	}
}

func readText(get func(*facts) string, most int) fn[string] {
	return func(f *facts, _ *scope) (string, fault) {
		if v := get(f); len(v) <= most {
			return v, answered
		}
		return "", elsewhere
	}
}

func readDocument(get func(*facts) (map[string]any, bool), at fault, most int) fn[map[string]any] {
	return func(f *facts, _ *scope) (map[string]any, fault) {
		v, known := get(f)
		switch {
		case !known:
			return nil, at
		case len(v) > most:
			return nil, elsewhere
		}
		return v, answered
	}
}

func readSized[T any](get func(*facts) (T, bool), at fault, fits func(T) bool) fn[T] {
	return func(f *facts, _ *scope) (T, fault) {
		v, known := get(f)
		switch {
		case !known:
			return v, at
		case !fits(v):
			return v, elsewhere
		}
		return v, answered
	}
}

// index compiles a[b].
func (c *closures) index(of, key ast.Expr, at fault) code {
	return c.element(c.branch(of, at), c.branch(key, at), at)
}

func (c *closures) element(of, key code, at fault) code {
	most := c.sizes
	switch {
	case of.document != nil && key.literal != nil && key.text != nil:
		name, _ := key.literal.(string)
		return code{any: named(of.document, name, at, most), get: of.get, at: at, name: name}
	case of.document != nil && key.text != nil:
		return code{any: keyed(of.document, key.text, at, most.admit)}
	case of.labels != nil && key.text != nil:
		return code{text: keyed(of.labels, key.text, at, most.admitText)}
	case of.header != nil && key.text != nil:
		return code{text: headed(of.header, key.text, at, most)}
	case of.texts != nil && key.whole != nil:
		return code{text: indexed(of.texts, key.whole, at, most.admitText)}
	case of.any != nil && key.text != nil:
		return code{any: keyed(asType[map[string]any](of.any), key.text, at, most.admit)}
	case of.any != nil && key.whole != nil:
		return code{any: indexed(asType[[]any](of.any), key.whole, at, most.admit)}
	}
	return code{}
}

// asType leaves all else to CEL's library.
func asType[T any](of fn[any]) fn[T] {
	return func(f *facts, s *scope) (T, fault) {
		v, x := of(f, s)
		t, ok := v.(T)
		if x == answered && !ok {
			x = elsewhere
		}
		return t, x
	}
}

func keyed[V any](of fn[map[string]V], key fn[string], at fault, admit func(V) (V, fault)) fn[V] {
	return func(f *facts, s *scope) (V, fault) {
		var none V
		m, x := of(f, s)
		if x != answered {
			return none, x
		}
		k, x := key(f, s)
		if x != answered {
			return none, x
		}
		v, ok := m[k]
		if !ok {
			return none, at
		}
		return admit(v)
	}
}

// named is keyed for a claim that the condition names.
func named(of fn[map[string]any], name string, at fault, most sizes) fn[any] {
	return func(f *facts, s *scope) (any, fault) {
		m, x := of(f, s)
		if x != answered {
			return nil, x
		}
		v, ok := m[name]
		if !ok {
			return nil, at
		}
		return most.admit(v)
	}
}

func headed(of fn[headers], key fn[string], at fault, most sizes) fn[string] {
	return func(f *facts, s *scope) (string, fault) {
		h, x := of(f, s)
		if x != answered {
			return "", x
		}
		k, x := key(f, s)
		if x != answered {
			return "", x
		}
		v, ok := h.first(k)
		if !ok {
			return "", at
		}
		return most.admitText(v)
	}
}

func indexed[V any](of fn[[]V], key fn[int64], at fault, admit func(V) (V, fault)) fn[V] {
	return func(f *facts, s *scope) (V, fault) {
		var none V
		list, x := of(f, s)
		if x != answered {
			return none, x
		}
		i, x := key(f, s)
		if x != answered {
			return none, x
		}
		if i < 0 || i >= int64(len(list)) {
			return none, at
		}
		return admit(list[i])
	}
}

func size(of code) code {
	switch {
	case of.text != nil:
		return code{whole: measured(of.text, utf8.RuneCountInString)}
	case of.texts != nil:
		return code{whole: measured(of.texts, func(v []string) int { return len(v) })}
	case of.labels != nil:
		return code{whole: measured(of.labels, func(v map[string]string) int { return len(v) })}
	case of.document != nil:
		return code{whole: measured(of.document, func(v map[string]any) int { return len(v) })}
	case of.header != nil:
		return code{whole: measured(of.header, func(v headers) int { return len(v) })}
	case of.any != nil:
		return code{whole: measuredAny(of.any)}
	}
	return code{}
}

func measured[T any](of fn[T], length func(T) int) fn[int64] {
	return func(f *facts, s *scope) (int64, fault) {
		v, x := of(f, s)
		if x != answered {
			return 0, x
		}
		return int64(length(v)), answered
	}
}

func measuredAny(of fn[any]) fn[int64] {
	return func(f *facts, s *scope) (int64, fault) {
		v, x := of(f, s)
		if x != answered {
			return 0, x
		}
		switch v := v.(type) {
		case string:
			return int64(utf8.RuneCountInString(v)), answered
		case []any:
			return int64(len(v)), answered
		case map[string]any:
			return int64(len(v)), answered
		}
		return 0, elsewhere
	}
}
