package policy

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"cel.dev/cel-go/common/ast"
)

// fn is an expression of type T, compiled. It keeps nothing of the facts and
// is safe for concurrent use.
type fn[T any] func(*facts, *scope) (T, fault)

// fault says why an expression has no value: where it is positive, it is the
// ID of the node at which evaluation failed. It absorbs and is absorbed as
// CEL's errors are; elsewhere is not, and ends the evaluation.
type fault int64

const (
	answered  fault = 0
	elsewhere fault = -1 // only CEL's library can tell
)

// Error implements error. The place is told by condition.failure.
func (fault) Error() string { return "condition has no value" }

// scope holds the variable of a loop.
type scope struct {
	outer *scope
	text  string
	any   any
}

var scopes = sync.Pool{New: func() any { return new(scope) }}

func enter(outer *scope) *scope {
	s, ok := scopes.Get().(*scope)
	if !ok {
		s = new(scope)
	}
	s.outer = outer
	return s
}

func (s *scope) leave() {
	*s = scope{}
	scopes.Put(s)
}

// code is a compiled expression: the function of its type is set, and no
// other. The zero code is an expression that closures cannot evaluate.
type code struct {
	flag     fn[bool]
	whole    fn[int64]
	number   fn[float64]
	text     fn[string]
	moment   fn[time.Time]
	span     fn[time.Duration]
	address  fn[netip.Addr]
	network  fn[netip.Prefix]
	texts    fn[[]string]
	elements []fn[string] // of a list that is written out
	wholes   fn[[]int64]
	labels   fn[map[string]string]
	document fn[map[string]any]
	header   fn[headers]
	any      fn[any] // a JSON value, of a type known when it is evaluated
	null     bool
	object   *object // of which fields are read
	literal  any     // the value, if it is known
	term     *term   // the same as flag, if it has such a form
	chain    *chain  // likewise

	// What a term reads: get, if it is a field or a named claim of one.
	get  *getters
	at   fault
	name string
}

// reads returns the getters of the field that c is, or of which it is a claim.
// It is never nil.
func (c code) reads() *getters {
	if c.get == nil {
		return &getters{}
	}
	return c.get
}

// closures compiles one condition.
type closures struct {
	variables map[string]*object
	sizes     sizes
	scopes    []variable // of the loops around what is compiled, outermost first
}

// variable is that of a loop: text or, if not, of any type.
type variable struct {
	name string
	text bool
}

// closures returns tree as closures that give the answers of CEL's library, or
// the zero chain if an operator is beyond them. It presumes that tree
// costs no more than maxCost as long as nothing is larger than within says,
// and leaves what is larger to the library.
func (v *vocabulary) closures(tree *ast.AST, within sizes) chain {
	c := &closures{variables: v.variables, sizes: within}
	whole := c.compile(tree.Expr())
	if whole.chain != nil {
		return *whole.chain
	}
	if t := c.termOf(whole); t != nil {
		return chain{terms: []term{*t}}
	}
	return chain{}
}

func (c *closures) compile(e ast.Expr) code { return c.compileAt(e, fault(e.ID())) }

// branch compiles an operand of a[b] and a ? b : c, which fails as part of the
// whole if it is a chain itself.
func (c *closures) branch(e ast.Expr, at fault) code {
	switch e.Kind() {
	case ast.SelectKind: // has(a.b) as well
		return c.compileAt(e, at)
	case ast.CallKind:
		if name := e.AsCall().FunctionName(); name == "_[_]" || name == "_?_:_" {
			return c.compileAt(e, at)
		}
	}
	return c.compile(e)
}

// compileAt compiles e so that a missing key or field is reported at at: the
// whole of a chain like principal.claims.a.b fails as one.
func (c *closures) compileAt(e ast.Expr, at fault) code {
	switch e.Kind() {
	case ast.LiteralKind:
		return literalOf(e.AsLiteral())
	case ast.IdentKind:
		return c.ident(e.AsIdent())
	case ast.SelectKind:
		return c.selected(e.AsSelect(), at)
	case ast.ListKind:
		return c.list(e.AsList())
	case ast.ComprehensionKind:
		return c.loop(e.AsComprehension())
	case ast.CallKind:
		return c.call(e, at)
	}
	return code{}
}

func (c *closures) ident(name string) code {
	for i, v := range slices.Backward(c.scopes) {
		if v.name == name {
			return v.read(len(c.scopes) - 1 - i)
		}
	}
	return code{object: c.variables[name]}
}

// read returns the variable of the loop that is so many loops further out.
func (v variable) read(outwards int) code {
	find := func(s *scope) *scope {
		for range outwards {
			s = s.outer
		}
		return s
	}
	switch {
	case v.text && outwards == 0:
		return code{text: func(_ *facts, s *scope) (string, fault) { return s.text, answered }}
	case v.text:
		return code{text: func(_ *facts, s *scope) (string, fault) { return find(s).text, answered }}
	}
	return code{any: func(_ *facts, s *scope) (any, fault) { return find(s).any, answered }}
}

// operators are the functions and operators that closures can evaluate, by
// CEL's name. Each returns the zero code for operands it does not take.
var operators = map[string]func(c *closures, at fault, args []code) code{
	"_==_": func(_ *closures, _ fault, args []code) code { return equal(args[0], args[1]) },
	"_!=_": func(_ *closures, _ fault, args []code) code { return not(equal(args[0], args[1])) },
	"_<_":  func(_ *closures, _ fault, args []code) code { return compared(less, args[0], args[1]) },
	"_<=_": func(_ *closures, _ fault, args []code) code { return compared(lessEqual, args[0], args[1]) },
	"_>_":  func(_ *closures, _ fault, args []code) code { return compared(greater, args[0], args[1]) },
	"_>=_": func(_ *closures, _ fault, args []code) code { return compared(greaterEqual, args[0], args[1]) },

	"!_":   func(_ *closures, _ fault, args []code) code { return not(args[0]) },
	"@in":  func(_ *closures, _ fault, args []code) code { return member(args[0], args[1]) },
	"size": func(_ *closures, _ fault, args []code) code { return size(args[0]) },

	"_+_": func(c *closures, at fault, args []code) code { return c.add(at, args[0], args[1]) },
	"_-_": func(_ *closures, at fault, args []code) code { return subtract(at, args[0], args[1]) },
	"_*_": func(_ *closures, at fault, args []code) code { return multiply(at, args[0], args[1]) },
	"_/_": func(_ *closures, at fault, args []code) code { return divide(at, args[0], args[1]) },
	"_%_": func(_ *closures, at fault, args []code) code { return remainder(at, args[0], args[1]) },
	"-_":  func(_ *closures, at fault, args []code) code { return negate(at, args[0]) },

	"int":       func(_ *closures, at fault, args []code) code { return toWhole(at, args[0]) },
	"double":    func(_ *closures, _ fault, args []code) code { return toNumber(args[0]) },
	"string":    func(_ *closures, _ fault, args []code) code { return toText(args[0]) },
	"timestamp": func(_ *closures, _ fault, args []code) code { return toMoment(args[0]) },
	"duration":  func(_ *closures, _ fault, args []code) code { return toSpan(args[0]) },

	"startsWith": func(_ *closures, _ fault, args []code) code { return startsWith(args[0], args[1]) },
	"endsWith":   func(_ *closures, _ fault, args []code) code { return endsWith(args[0], args[1]) },
	"contains":   func(_ *closures, _ fault, args []code) code { return contains(args[0], args[1]) },
	"matches":    func(_ *closures, _ fault, args []code) code { return matches(args[0], args[1]) },

	"ip":         func(_ *closures, at fault, args []code) code { return toAddress(at, args[0]) },
	"cidr":       func(_ *closures, _ fault, args []code) code { return toNetwork(args[0]) },
	"containsIP": func(_ *closures, at fault, args []code) code { return containsIP(at, args[0], args[1]) },
}

func (c *closures) call(e ast.Expr, at fault) code {
	call := e.AsCall()
	switch name := call.FunctionName(); name {
	case "_&&_", "_||_":
		return c.logic(name, e)
	case setFunction:
		return c.inSet(call)
	case "_[_]":
		return c.index(call.Args()[0], call.Args()[1], at)
	case "_?_:_":
		of := call.Args()
		return choice(c.compile(of[0]), c.branch(of[1], at), c.branch(of[2], at))
	}
	args := make([]code, 0, 3)
	if call.IsMemberFunction() {
		args = append(args, c.compile(call.Target()))
	}
	for _, a := range call.Args() {
		args = append(args, c.compile(a))
	}
	// A failure of the call itself is at the call, whatever is made of it.
	here := fault(e.ID())
	if operator, ok := operators[call.FunctionName()]; ok {
		return operator(c, here, args)
	}
	if len(args) == 1 {
		if out := addressProperty(call.FunctionName(), args[0]); out.flag != nil || out.whole != nil {
			return out
		}
	}
	return timePart(call.FunctionName(), args)
}
