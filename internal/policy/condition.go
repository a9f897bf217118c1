package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

// Bounds of a condition beyond its length.
const (
	maxCost          = 20_000 // CEL cost units per evaluation
	maxNodes         = 1_000  // after the expansion of macros
	maxDepth         = 32     // of nested expressions
	maxLoops         = 2      // of nested all, exists, map, filter
	maxRegexProgram  = 500    // instructions
	maxWhenProblems  = 20     // reported for one condition
	longestErrorText = 300    // bytes of one of CEL's messages
)

// language is what all conditions are written in. It is a constant in all but
// syntax: immutable, safe for concurrent use, and made at first use as it takes
// longer to make than to compile a condition with.
var language = sync.OnceValues(func() (*vocabulary, error) { return newVocabulary(objects()) })

// vocabulary is a CEL environment and the objects that are its variables.
type vocabulary struct {
	env       *cel.Env
	variables map[string]*object
}

func newVocabulary(oo []*object) (*vocabulary, error) {
	v := &vocabulary{variables: make(map[string]*object)}
	options := []cel.EnvOption{
		cel.EagerlyValidateDeclarations(true),
		cel.EnableMacroCallTracking(), // to show clauses as they were written
		cel.ParserRecursionLimit(maxDepth),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegexProgram),
		cel.ASTValidators(
			cel.ValidateComprehensionNestingLimit(maxLoops),
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
			sense{},
		),
	}
	for _, o := range oo {
		options = append(options, cel.Types(o))
		if o.variable != "" {
			options = append(options, cel.Variable(o.variable, o.Type))
			v.variables[o.variable] = o
		}
	}
	env, err := cel.NewEnv(append(append(options, ext.Network()), termFunctions()...)...)
	v.env = env
	return v, err
}

// condition is a compiled CEL expression of type bool.
type condition struct {
	// closures are zero for an expression that they cannot evaluate. What they
	// cannot answer (elsewhere) the program does, which is made when it is first
	// asked where there is nothing in it that could fail to be made.
	closures chain
	program  func() (cel.Program, error)
	source   *ast.SourceInfo // to say where an evaluation failed
	within   sizes           // for which closures answer

	// For those who ask why.
	tree    *ast.AST // checked and linked
	parts   anatomy  // of tree
	origins map[int64]origin
	reads   reading
}

// compileCondition compiles text. Without terms it may refer to any by name, and
// has no value where it does.
func compileCondition(text string, terms *Terms) (*condition, []*Error) {
	tree, origins, problems := checkCondition(text, terms, nil)
	if len(problems) > 0 {
		return nil, problems
	}
	v, err := language()
	if err != nil {
		return nil, refuseWhen("make CEL environment: %v", err)
	}
	c, problems := v.plan(tree)
	if c != nil {
		c.origins = origins
	}
	return c, problems
}

// checkCondition checks and links text, which is in the conditions of a path.
func checkCondition(text string, terms *Terms, path []string) (*cel.Ast, map[int64]origin, []*Error) {
	tree, problems := checkAlone(text)
	if len(problems) > 0 || terms == nil {
		return tree, nil, problems
	}
	origins, problems := link(tree.NativeRep(), terms, path)
	return tree, origins, problems
}

// checkAlone checks text wherever its references lead.
func checkAlone(text string) (*cel.Ast, []*Error) {
	if len(text) > MaxWhenLength {
		return nil, refuseWhen("%d bytes: more than %d", len(text), MaxWhenLength)
	}
	if !utf8.ValidString(text) {
		return nil, refuseWhen("is not UTF-8")
	}
	v, err := language()
	if err != nil {
		return nil, refuseWhen("make CEL environment: %v", err)
	}
	return v.check(text)
}

func (v *vocabulary) compile(text string) (*condition, []*Error) {
	tree, problems := v.check(text)
	if len(problems) > 0 {
		return nil, problems
	}
	return v.plan(tree)
}

func (v *vocabulary) check(text string) (*cel.Ast, []*Error) {
	tree, issues := v.env.Compile(text)
	if problems := located(issues); len(problems) > 0 {
		return nil, problems
	}
	switch t := tree.OutputType(); {
	case t.IsExactType(cel.DynType):
		return nil, refuseWhen("may be of any type; say which, as in principal.claims.verified == true")
	case !t.IsExactType(cel.BoolType):
		return nil, refuseWhen("is of type %s, not bool", cel.FormatCELType(t))
	}
	return tree, nil
}

func (v *vocabulary) plan(tree *cel.Ast) (*condition, []*Error) {
	within, problems := affordable(v.env, tree)
	if problems != nil {
		return nil, problems
	}
	c := v.condition(tree.NativeRep(), within)
	if !c.closures.plain() {
		if _, err := c.program(); err != nil {
			return nil, refuseWhen("plan: %v", err)
		}
	}
	return c, nil
}

// condition returns as a condition what costs no more than maxCost for sizes.
func (v *vocabulary) condition(tree *ast.AST, within sizes) *condition {
	c := &condition{source: tree.SourceInfo(), tree: tree, within: within}
	if within != (sizes{}) {
		c.closures = v.closures(tree, within)
	}
	c.program = sync.OnceValues(func() (cel.Program, error) {
		return v.env.PlanProgram(tree, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	})
	return c
}

// affordable returns the largest sizes for which tree costs no more than
// maxCost, or none, and refuses a tree that costs more whatever the sizes.
func affordable(env *cel.Env, tree *cel.Ast) (sizes, []*Error) {
	for _, within := range allSizes {
		estimate, err := env.EstimateCost(tree, within)
		switch {
		case err != nil:
			return sizes{}, refuseWhen("estimate cost: %v", err)
		case estimate.Min > maxCost:
			return sizes{}, refuseWhen("costs at least %d to evaluate: more than %d", estimate.Min, maxCost)
		case estimate.Max <= maxCost:
			return within, nil
		}
	}
	return sizes{}, nil
}

// refuseWhen is the one problem of a condition that has no better place than
// its beginning.
func refuseWhen(format string, args ...any) []*Error {
	return []*Error{{Field: "when", Reason: fmt.Sprintf(format, args...), Line: 1, Column: 1}}
}

// located turns what CEL found into problems with positions.
func located(issues *cel.Issues) []*Error {
	var problems []*Error
	for _, e := range issues.Errors() {
		if len(problems) == maxWhenProblems {
			break
		}
		reason := strings.TrimSuffix(e.Message, " (in container '')")
		if len(reason) > longestErrorText {
			reason = strings.ToValidUTF8(reason[:longestErrorText], "") + "..."
		}
		problems = append(problems, &Error{
			Field:  "when",
			Reason: reason,
			Line:   max(e.Location.Line(), 1),
			Column: max(e.Location.Column(), 0) + 1,
		})
	}
	return problems
}

// holds evaluates c. An error means that there is no answer.
func (c *condition) holds(in *Input) (bool, error) {
	if c == nil {
		return true, nil
	}
	if c.closures.terms != nil {
		switch holds, x := c.closures.holds((*facts)(in), nil); {
		case x == answered:
			return holds, nil
		case x != elsewhere:
			return false, x
		}
	}
	return c.ask(in)
}

// ask has CEL's library evaluate c.
func (c *condition) ask(in *Input) (bool, error) {
	program, err := c.program()
	if err != nil {
		return false, err
	}
	out, _, err := program.Eval((*facts)(in))
	if err != nil {
		return false, err
	}
	answer, ok := out.(types.Bool)
	if !ok {
		return false, errNoAnswer
	}
	return bool(answer), nil
}

var errNoAnswer = errors.New("condition is neither true nor false")

// failure says where evaluation ended with err. It does not repeat CEL's text,
// which quotes values of the request.
func (c *condition) failure(err error) string {
	var cancelled interpreter.EvalCancelledError
	if errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded {
		return fmt.Sprintf("condition costs more than %d to evaluate", maxCost)
	}
	if node := failedAt(err); node != 0 {
		at := c.source.GetStartLocation(node)
		if at.Line() > 0 {
			return fmt.Sprintf("condition has no value at line %d, column %d", at.Line(), at.Column()+1)
		}
	}
	return "condition has no value"
}

// failedAt returns the ID of the node that has no value, or 0.
func failedAt(err error) int64 {
	var value *types.Err
	var own fault
	switch {
	case errors.As(err, &own):
		return int64(own)
	case errors.As(err, &value):
		return value.NodeID()
	}
	return 0
}

// sense refuses what type-checks and could still never work.
type sense struct{}

// Name implements cel.ASTValidator.
func (sense) Name() string { return "sallyport.validator.sense" }

// Validate implements cel.ASTValidator.
func (sense) Validate(_ *cel.Env, _ cel.ValidatorConfig, tree *ast.AST, issues *cel.Issues) {
	for _, e := range ast.MatchDescendants(ast.NavigateAST(tree), ast.AllMatcher()) {
		if at, reason := nonsense(e); reason != "" {
			issues.ReportErrorAtID(at, "%s", reason)
		}
		if at, reason := nonsenseTerm(e); reason != "" {
			issues.ReportErrorAtID(at, "%s", reason)
		}
	}
}

// nonsense returns what is wrong with e alone, and the node to point at.
func nonsense(e ast.NavigableExpr) (at int64, reason string) {
	switch e.Kind() {
	case ast.StructKind:
		return e.ID(), "objects cannot be made in a condition"
	case ast.CallKind:
		return nonsenseCall(e.AsCall())
	}
	if parent, ok := e.Parent(); isObject(e.Type()) && !(ok && parent.Kind() == ast.SelectKind) {
		return e.ID(), "has no value of its own: name one of its fields"
	}
	return 0, ""
}

func nonsenseCall(call ast.CallExpr) (at int64, reason string) {
	args := call.Args()
	switch name := call.FunctionName(); {
	case name == "matches":
		pattern := args[len(args)-1] // in both forms
		return pattern.ID(), nonsensePattern(pattern)
	case strings.HasPrefix(name, "get") && call.IsMemberFunction() && len(args) > 0:
		return args[0].ID(), nonsenseZone(args[0])
	}
	return 0, ""
}

// nonsensePattern leaves the size of a valid pattern to RegexProgramSizeLimit.
func nonsensePattern(pattern ast.Expr) string {
	if pattern.Kind() != ast.LiteralKind {
		return "the pattern of matches must be a literal"
	}
	if _, err := regexp.Compile(fmt.Sprint(pattern.AsLiteral().Value())); err != nil {
		return err.Error()
	}
	return ""
}
