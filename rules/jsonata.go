package rules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"regexp/syntax"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/blues/jsonata-go"
	"github.com/blues/jsonata-go/jlib"
	"github.com/blues/jsonata-go/jparse"
	"github.com/blues/jsonata-go/jtypes"

	"penstock/schemas"
)

const (
	// maxGrown bounds what one evaluation makes: names, items and bytes of text.
	maxGrown = 10_000_000
	// maxCalls bounds the calls of functions that the expression defines, and
	// so how deep they call each other.
	maxCalls = 10_000
	// maxBound is the largest number at an end of a range.
	maxBound = 10_000
	// maxTime is what an evaluation may take.
	maxTime = time.Second
	// ours is how the functions that expressions are given to count begin.
	ours = "penstock"
)

// jsonataLock is held by an evaluation: the library keeps the context and the
// name of a call in the function called, which all evaluations share.
var jsonataLock sync.Mutex

// jsonataProgram is a compiled expression that counts what it does. The library
// has no limits, and a function that calls itself ends the process; so what
// grows a value goes through a function that fails when there is too much.
type jsonataProgram struct {
	expr  *jsonata.Expr
	meter *meter
}

func compileJSONata(text string) (p *jsonataProgram, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("compile expression: %v", r)
		}
	}()
	node, err := jparse.Parse(text)
	var bad *jparse.Error
	if errors.As(err, &bad) && bad.Type == jparse.ErrPathLiteral {
		node, err = jparse.Parse(quotedNames(text))
	}
	if err != nil {
		return nil, fmt.Errorf("compile expression: %w", err)
	}
	var c counting
	node = c.node(node)
	if c.err != nil {
		return nil, fmt.Errorf("compile expression: %w", c.err)
	}
	// The library evaluates text alone, which must read as what was written.
	counted := node.String()
	if again, err := jparse.Parse(counted); err != nil || !reflect.DeepEqual(node, again) {
		return nil, errors.New("compile expression: it cannot be run within limits; write it in a simpler way")
	}
	p = &jsonataProgram{meter: &meter{}}
	if p.expr, err = jsonata.Compile(counted); err != nil {
		return nil, fmt.Errorf("compile expression: %w", err)
	}
	return p, p.expr.RegisterExts(p.meter.functions())
}

// quotedNames writes a step of a path that is in quotes, which JSONata took for
// a name after 1.5, as the name it is.
func quotedNames(text string) string {
	var b strings.Builder
	afterDot := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c != '\'' && c != '"' && c != '`' {
			if c != ' ' {
				afterDot = c == '.' && (i == 0 || text[i-1] != '.')
			}
			b.WriteByte(c)
			continue
		}
		end := i + 1
		for end < len(text) && text[end] != c {
			if text[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(text) {
			return text
		}
		if inner := text[i+1 : end]; afterDot && c != '`' && !strings.ContainsAny(inner, "`\\") {
			b.WriteString("`" + inner + "`")
		} else {
			b.WriteString(text[i : end+1])
		}
		i, afterDot = end, false
	}
	return b.String()
}

// counting rewrites a tree so that it counts.
type counting struct {
	err error
}

func (c *counting) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func call(name string, args ...jparse.Node) jparse.Node {
	return &jparse.FunctionCallNode{Func: &jparse.VariableNode{Name: ours + name}, Args: args}
}

func (c *counting) name(name string) {
	if strings.HasPrefix(name, ours) {
		c.fail("expected no variable that begins with %s, found $%s", ours, name)
	}
}

func (c *counting) nodes(ns []jparse.Node) {
	for i := range ns {
		ns[i] = c.node(ns[i])
	}
}

// grown rewrites the nodes, and has what they give counted.
func (c *counting) grown(ns []jparse.Node) {
	for i := range ns {
		ns[i] = c.counted(ns[i])
	}
}

func (c *counting) counted(n jparse.Node) jparse.Node {
	switch n := n.(type) {
	case *jparse.NumberNode, *jparse.BooleanNode, *jparse.NullNode, *jparse.NameNode, *jparse.PlaceholderNode:
		return n
	}
	return call("Grown", c.node(n))
}

func (c *counting) pairs(o *jparse.ObjectNode) {
	for i := range o.Pairs {
		o.Pairs[i][0], o.Pairs[i][1] = c.node(o.Pairs[i][0]), c.counted(o.Pairs[i][1])
	}
}

func (c *counting) node(n jparse.Node) jparse.Node {
	switch n := n.(type) {
	case nil, *jparse.StringNode, *jparse.NumberNode, *jparse.BooleanNode, *jparse.NullNode, *jparse.NameNode, *jparse.PlaceholderNode,
		*jparse.WildcardNode:
	case *jparse.VariableNode:
		c.name(n.Name)
	case *jparse.RegexNode:
		c.pattern(n)
	case *jparse.DescendentNode:
		return call("Grown", n)
	case *jparse.PathNode:
		for i, step := range n.Steps {
			n.Steps[i] = c.step(step, i == 0)
		}
	case *jparse.NegationNode:
		n.RHS = c.node(n.RHS)
	case *jparse.RangeNode:
		n.LHS, n.RHS = call("Bound", c.node(n.LHS)), call("Bound", c.node(n.RHS))
	case *jparse.ArrayNode:
		for i, item := range n.Items {
			if _, isRange := item.(*jparse.RangeNode); isRange {
				n.Items[i] = c.node(item)
			} else {
				n.Items[i] = c.counted(item)
			}
		}
	case *jparse.ObjectNode:
		c.pairs(n)
	case *jparse.GroupNode:
		n.Expr = c.node(n.Expr)
		c.pairs(n.ObjectNode)
	case *jparse.BlockNode:
		c.nodes(n.Exprs)
	case *jparse.ConditionalNode:
		n.If, n.Then, n.Else = c.node(n.If), c.node(n.Then), c.node(n.Else)
	case *jparse.AssignmentNode:
		c.name(n.Name)
		n.Value = c.counted(n.Value)
	case *jparse.PredicateNode:
		n.Expr = c.node(n.Expr)
		c.nodes(n.Filters)
	case *jparse.SortNode:
		n.Expr = c.node(n.Expr)
		for i := range n.Terms {
			n.Terms[i].Expr = c.node(n.Terms[i].Expr)
		}
	case *jparse.LambdaNode:
		c.lambda(n)
	case *jparse.TypedLambdaNode:
		c.lambda(n.LambdaNode)
	case *jparse.ObjectTransformationNode:
		n.Pattern, n.Updates, n.Deletes = c.node(n.Pattern), c.node(n.Updates), c.node(n.Deletes)
	case *jparse.PartialNode:
		n.Func = c.node(n.Func)
		c.grown(n.Args)
	case *jparse.FunctionCallNode:
		n.Func = c.node(n.Func)
		c.nodes(n.Args)
		return call("Grown", n)
	case *jparse.FunctionApplicationNode:
		// The library adds the left side to the arguments each time it
		// evaluates one of these.
		if f, ok := n.RHS.(*jparse.FunctionCallNode); ok {
			return c.node(&jparse.FunctionCallNode{Func: f.Func, Args: append([]jparse.Node{n.LHS}, f.Args...)})
		}
		n.LHS, n.RHS = c.node(n.LHS), c.node(n.RHS)
		return call("Grown", &jparse.BlockNode{Exprs: []jparse.Node{n}})
	case *jparse.NumericOperatorNode:
		n.LHS, n.RHS = c.node(n.LHS), c.node(n.RHS)
	case *jparse.ComparisonOperatorNode:
		n.LHS, n.RHS = c.node(n.LHS), c.node(n.RHS)
	case *jparse.BooleanOperatorNode:
		n.LHS, n.RHS = c.node(n.LHS), c.node(n.RHS)
	case *jparse.StringConcatenationNode:
		n.LHS, n.RHS = c.node(n.LHS), c.node(n.RHS)
		return call("Grown", n)
	default:
		c.fail("it has a part that cannot be run within limits: %s", n)
	}
	return n
}

// step rewrites a step of a path, which is evaluated for each item that the one
// before it gave; a variable that comes first is read once.
func (c *counting) step(n jparse.Node, first bool) jparse.Node {
	switch n := n.(type) {
	case *jparse.NameNode, *jparse.WildcardNode, *jparse.ArrayNode, *jparse.ObjectNode:
		return c.node(n) // it gives no more than it is given, or counts itself
	case *jparse.VariableNode:
		if first {
			return c.node(n)
		}
	case *jparse.PredicateNode:
		n.Expr = c.step(n.Expr, first)
		c.nodes(n.Filters)
		return n
	}
	return c.counted(n)
}

func (c *counting) lambda(n *jparse.LambdaNode) {
	for _, name := range n.ParamNames {
		c.name(name)
	}
	n.Body = &jparse.BlockNode{Exprs: []jparse.Node{call("Called"), call("Grown", c.node(n.Body))}}
}

// maxStates bounds a pattern, each state of which costs time for each character.
const maxStates = 100

func (c *counting) pattern(n *jparse.RegexNode) {
	if parsed, err := syntax.Parse(n.Value.String(), syntax.Perl); err != nil {
		c.fail("%w", err)
	} else if prog, err := syntax.Compile(parsed.Simplify()); err != nil {
		c.fail("%w", err)
	} else if len(prog.Inst) > maxStates {
		c.fail("expected a pattern of at most %d states, found %d", maxStates, len(prog.Inst))
	}
}

// meter counts what one evaluation does.
type meter struct {
	grown, calls int // left
	until        time.Time
}

func (m *meter) reset() {
	m.grown, m.calls, m.until = maxGrown, maxCalls, time.Now().Add(maxTime)
}

func (m *meter) grow(n int) error {
	if m.grown -= n; m.grown < 0 {
		return errors.New("the expression makes more than its limit of data")
	}
	if time.Now().After(m.until) {
		return fmt.Errorf("the expression takes longer than %v", maxTime)
	}
	return nil
}

// functions are those that count, and those of the library whose results may be
// as large as the product of what they are given.
func (m *meter) functions() map[string]jsonata.Extension {
	undefined := jtypes.ArgUndefined(0)
	return map[string]jsonata.Extension{
		ours + "Grown": {
			Func: func(v reflect.Value) (any, error) {
				left := m.grown
				measure(v, &left, maxDepth)
				if err := m.grow(m.grown - left); err != nil {
					return nil, err
				}
				return v.Interface(), nil
			},
			UndefinedHandler: undefined,
		},
		ours + "Bound": {
			Func: func(n float64) (float64, error) {
				if n > maxBound || n < -maxBound {
					return 0, fmt.Errorf("expected a range within %d, found %v", maxBound, n)
				}
				return n, m.grow(2 * maxBound)
			},
			UndefinedHandler: undefined,
		},
		ours + "Called": {Func: func() (bool, error) {
			if m.calls--; m.calls < 0 {
				return false, fmt.Errorf("the expression calls functions more than %d times", maxCalls)
			}
			return true, m.grow(1)
		}},
		"pad": {
			Func: func(s string, width int, chars jtypes.OptionalString) (string, error) {
				if width > maxBound || width < -maxBound {
					return "", fmt.Errorf("expected a width within %d, found %d", maxBound, width)
				}
				return jlib.Pad(s, width, chars), m.grow(maxBound)
			},
			UndefinedHandler:   undefined,
			EvalContextHandler: func(args []reflect.Value) bool { return len(args) > 0 && jtypes.IsNumber(args[0]) },
		},
		"join": {
			Func: func(values reflect.Value, separator jtypes.OptionalString) (string, error) {
				left := m.grown
				measure(values, &left, maxDepth)
				if err := m.grow((m.grown - left) * (1 + len(separator.String))); err != nil {
					return "", err
				}
				return jlib.Join(values, separator)
			},
			UndefinedHandler: undefined,
		},
		"replace": {
			Func: func(src string, pattern, by jlib.StringCallable, limit jtypes.OptionalInt) (string, error) {
				left := m.grown
				measure(reflect.Value(by), &left, maxDepth)
				if err := m.grow((1 + len(src)) * (1 + m.grown - left)); err != nil {
					return "", err
				}
				return jlib.Replace(src, pattern, by, limit)
			},
			UndefinedHandler:   undefined,
			EvalContextHandler: func(args []reflect.Value) bool { return len(args) == 2 || len(args) == 3 && jtypes.IsNumber(args[2]) },
		},
	}
}

// measure takes the size of v off what is left, and stops when nothing is.
func measure(v reflect.Value, left *int, depth int) {
	if *left--; *left < 0 || !v.IsValid() {
		return
	}
	if depth == 0 {
		*left = -1
		return
	}
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		measure(v.Elem(), left, depth)
	case reflect.String:
		*left -= v.Len()
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && *left >= 0; i++ {
			measure(v.Index(i), left, depth-1)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next() && *left >= 0; {
			measure(it.Key(), left, depth-1)
			measure(it.Value(), left, depth-1)
		}
	}
}

func (p *jsonataProgram) run(_ context.Context, s *Set, r *rule, v any) (out any, _ []schemas.Violation, err error) {
	in, err := toJSONata(v, maxDepth)
	if err != nil {
		return nil, nil, err
	}
	result, err := p.eval(in)
	if err != nil {
		if s.fields.tagged {
			err = errNotShown
		}
		return nil, nil, err
	}
	if out, err = fromJSONata(result, maxDepth); err != nil {
		return nil, nil, err
	}
	if r.Kind == "CONDITION" {
		if !holds(s.fields.values.toCEL(nil, out)) {
			return nil, []schemas.Violation{r.unmet()}, nil
		}
		return v, nil, nil
	}
	return out, nil, nil
}

func (p *jsonataProgram) eval(v any) (out any, err error) {
	jsonataLock.Lock()
	defer jsonataLock.Unlock()
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("evaluate expression: %v", r)
		}
	}()
	p.meter.reset()
	out, err = p.expr.Eval(v)
	switch {
	case errors.Is(err, jsonata.ErrUndefined):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("evaluate expression: %w", err)
	}
	return out, nil
}

// opaque is a value that JSON does not have, which expressions can only pass on.
type opaque struct{ value any }

// toJSONata returns v as the library takes it.
func toJSONata(v any, depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("expected at most %d levels, found more", maxDepth)
	}
	switch v := v.(type) {
	case []byte, time.Time, time.Duration, *big.Rat:
		return opaque{v}, nil
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, nil
		}
		return strconv.ParseFloat(string(v), 64)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var err error
			if out[i], err = toJSONata(item, depth-1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, item := range v {
			var err error
			if out[name], err = toJSONata(item, depth-1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// fromJSONata returns a result as a value of a schema.
func fromJSONata(v any, depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("convert result: expected at most %d levels", maxDepth)
	}
	switch v := v.(type) {
	case nil, bool, string, int32, int64, uint32, uint64, float32, float64:
		return v, nil
	case int:
		return int64(v), nil
	case opaque:
		return v.value, nil
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Pointer, reflect.Interface:
		if r.IsNil() {
			return nil, nil
		}
	case reflect.Slice:
		out := make([]any, r.Len())
		for i := range out {
			var err error
			if out[i], err = fromJSONata(r.Index(i).Interface(), depth-1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case reflect.Map:
		out := make(map[string]any, r.Len())
		for it := r.MapRange(); it.Next(); {
			item, err := fromJSONata(it.Value().Interface(), depth-1)
			if err != nil {
				return nil, err
			}
			out[it.Key().String()] = item
		}
		return out, nil
	}
	return nil, fmt.Errorf("convert result: expected a value that a record can hold, found %T", v)
}
