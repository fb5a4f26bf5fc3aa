package rules

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"

	"penstock/schemas"
)

const (
	// maxCost bounds one evaluation, in the units of CEL's cost model: an
	// operation is about one, ten characters read or written are another. It is
	// some tens of milliseconds.
	maxCost = 1_000_000
	// maxSteps bounds what the functions that boundedIn watches do in one
	// evaluation: characters written, and characters compared with each state
	// of a pattern. It is some tenths of a second.
	maxSteps = 20_000_000
	// stepsName is the variable, which no expression can name, of the steps left.
	stepsName = "steps left"
)

// environment is what expressions may name. It is immutable, and takes too long
// to make to have one for each schema.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return newEnvironment(
		cel.Variable("message", cel.DynType),
		cel.Variable("value", cel.DynType),
		cel.Variable("name", cel.StringType),
		cel.Variable("fullName", cel.StringType),
		cel.Variable("typeName", cel.StringType),
		cel.Variable("tags", cel.ListType(cel.StringType)),
	)
})

// newEnvironment is one with our functions, the time, and those variables.
func newEnvironment(variables ...cel.EnvOption) (*cel.Env, error) {
	options := append(functionsOfConfluent(), cel.Variable("now", cel.TimestampType), cel.ParserExpressionSizeLimit(maxExpr), ext.Strings())
	return cel.NewEnv(append(options, variables...)...)
}

// celProgram is a compiled expression with its guard, which may be nil.
type celProgram struct {
	guard, expr cel.Program
}

func compileCEL(text string) (celProgram, error) {
	var p celProgram
	env, err := environment()
	if err != nil {
		return p, err
	}
	if guard, expr, ok := strings.Cut(text, ";"); ok {
		text = expr
		if strings.TrimSpace(guard) != "" {
			if p.guard, err = programOf(env, guard); err != nil {
				return p, err
			}
		}
	}
	p.expr, err = programOf(env, text)
	return p, err
}

func programOf(env *cel.Env, text string) (cel.Program, error) {
	p, _, err := compiledIn(env, text)
	return p, err
}

// compiledIn compiles an expression, and says what it gives.
func compiledIn(env *cel.Env, text string) (p cel.Program, gives *cel.Type, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, gives, err = nil, nil, fmt.Errorf("compile expression: %v", r)
		}
	}()
	ast, issues := env.Compile(text)
	if bad := issues.Errors(); len(bad) > 0 {
		return nil, nil, fmt.Errorf("compile expression: %w", &SyntaxError{
			bad[0].Location.Line(), max(bad[0].Location.Column(), 0) + 1, strings.TrimSuffix(bad[0].Message, " (in container '')"),
		})
	}
	p, err = env.Program(ast, cel.CostLimit(maxCost), cel.CustomDecoratorV2(boundedIn(env)))
	if err != nil {
		return nil, nil, fmt.Errorf("compile expression: %w", err)
	}
	return p, ast.OutputType(), nil
}

// boundedIn has functions pay beforehand that do far more than they are given:
// CEL's cost model counts what they did when they are done, and of a pattern the
// length alone.
func boundedIn(env *cel.Env) interpreter.InterpretableDecoratorV2 {
	return func(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
		call, ok := i.(interpreter.InterpretableCall)
		if !ok {
			return i, nil
		}
		switch call.Function() {
		case "matches":
			m := &matching{InterpretableCall: call}
			if pattern, ok := call.Args()[1].(interpreter.InterpretableConst); ok {
				text, ok := pattern.Value().(types.String)
				if !ok {
					return i, nil
				}
				var err error
				if m.constant, err = patternOf(string(text)); err != nil {
					return nil, err
				}
			}
			return m, nil
		case "replace", "join":
			bindings, err := env.Functions()[call.Function()].Bindings()
			if err != nil {
				return nil, err
			}
			for _, b := range bindings {
				if b.Operator == call.Function() {
					return &building{call, b.Function}, nil
				}
			}
			return nil, fmt.Errorf("function %s has no binding", call.Function())
		}
		return i, nil
	}
}

// pay takes steps off what is left of the evaluation's.
func pay(frame *interpreter.ExecutionFrame, function string, steps int) ref.Val {
	if s, ok := frame.ResolveName(stepsName); ok {
		left := s.(*int)
		if *left -= steps; *left >= 0 {
			return nil
		}
	}
	return types.NewErr("%s would take too long", function)
}

// evaluated evaluates the arguments of a call.
func evaluated(call interpreter.InterpretableCall, frame *interpreter.ExecutionFrame) ([]ref.Val, ref.Val) {
	args := make([]ref.Val, len(call.Args()))
	for i, arg := range call.Args() {
		if args[i] = arg.Exec(frame); types.IsUnknownOrError(args[i]) {
			return nil, args[i]
		}
	}
	return args, nil
}

// building is a call whose result can be as large as the product of what it is
// given.
type building struct {
	interpreter.InterpretableCall
	do functions.FunctionOp
}

func (b *building) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args, bad := evaluated(b, frame)
	if bad != nil {
		return bad
	}
	size := 1
	for _, arg := range args {
		n := 1
		switch v := arg.(type) {
		case types.String:
			n += len(v)
		case traits.Lister:
			for it := v.Iterator(); it.HasNext() == types.True; n++ {
				if s, ok := it.Next().(types.String); ok {
					n += len(s)
				}
			}
		}
		if size *= n; size > maxSteps {
			break
		}
	}
	if bad := pay(frame, b.Function(), size); bad != nil {
		return bad
	}
	return b.do(args...)
}

// matching is a match of a text with a pattern.
type matching struct {
	interpreter.InterpretableCall
	constant *pattern // nil if it is not one
}

// pattern is a compiled pattern and how many states it can be in, each of which
// costs a step for each character.
type pattern struct {
	*regexp.Regexp
	states int
}

func patternOf(text string) (*pattern, error) {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	return &pattern{re, len(prog.Inst)}, nil
}

func (m *matching) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args, bad := evaluated(m, frame)
	if bad != nil {
		return bad
	}
	text, isText := args[0].(types.String)
	written, isPattern := args[1].(types.String)
	if !isText || !isPattern {
		return types.NoSuchOverloadErr()
	}
	p := m.constant
	if p == nil {
		if bad := pay(frame, m.Function(), 1000*(1+len(written))); bad != nil {
			return bad
		}
		var err error
		if p, err = patternOf(string(written)); err != nil {
			return types.WrapErr(err)
		}
	}
	if bad := pay(frame, m.Function(), p.states*(1+len(text))); bad != nil {
		return bad
	}
	return types.Bool(p.MatchString(string(text)))
}

// scope is what the variables of an expression stand for.
type scope struct {
	message ref.Val
	steps   int // left
	// The others are nil outside of fields.
	value    ref.Val
	member   *member
	typeName string
}

func (s *scope) Parent() interpreter.Activation { return nil }

func (s *scope) ResolveName(name string) (any, bool) {
	switch name {
	case "message":
		return s.message, true
	case "now":
		return types.Timestamp{Time: time.Now().UTC()}, true
	case stepsName:
		return &s.steps, true
	}
	if s.member == nil {
		return nil, false
	}
	switch name {
	case "value":
		return s.value, true
	case "name":
		return s.member.name, true
	case "fullName":
		return s.member.fullName, true
	case "typeName":
		return s.typeName, true
	case "tags":
		return s.member.tags, true
	}
	return nil, false
}

// eval evaluates the expression; applies is false if the guard is not true.
func (p celProgram) eval(s *scope) (result ref.Val, applies bool, err error) {
	s.steps = maxSteps
	if p.guard != nil {
		v, _, err := p.guard.Eval(s)
		if err != nil {
			return nil, false, fmt.Errorf("evaluate guard: %w", err)
		}
		if v != types.True {
			return nil, false, nil
		}
	}
	result, _, err = p.expr.Eval(s)
	if err != nil {
		return nil, false, fmt.Errorf("evaluate expression: %w", err)
	}
	return result, true, nil
}

// holds reports whether a condition that came to v is met. Confluent's clients
// take whatever is not zero or empty for true.
func holds(v ref.Val) bool {
	switch v := v.(type) {
	case types.Bool:
		return bool(v)
	case types.Null:
		return false
	}
	if z, ok := v.(traits.Zeroer); ok {
		return !z.IsZeroValue()
	}
	return true
}

// run runs the program on a record as a whole.
func (p celProgram) run(_ context.Context, s *Set, r *rule, v any) (any, []schemas.Violation, error) {
	root := s.schema.Model()
	if _, isPayload := v.([]byte); isPayload {
		root = nil
	}
	c := s.fields.values
	result, applies, err := p.eval(&scope{message: c.toCEL(root, v)})
	switch {
	case err != nil:
		if s.fields.tagged {
			err = errNotShown
		}
		return nil, nil, err
	case !applies:
		return v, nil, nil
	case r.Kind == "CONDITION":
		if holds(result) {
			return v, nil, nil
		}
		return nil, []schemas.Violation{r.unmet()}, nil
	}
	out, err := c.fromCEL(root, result, maxDepth)
	return out, nil, err
}

// errNotShown stands for an error of an evaluation that may quote what is
// tagged.
var errNotShown = errors.New("the expression failed on this record; why is not shown, since fields are tagged")
