package rules

import (
	"fmt"
	"regexp"
	"slices"
	"sync"

	"buf.build/go/protovalidate"
	pvcel "buf.build/go/protovalidate/cel"
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/reflect/protoreflect"

	"penstock/schemas"
)

const (
	// maxWork is how much constraints may have to do for one payload, in characters
	// looked at by one state of a pattern; that is some seconds at most. Of what they
	// build in loops it is the bytes, and so fewer.
	maxWork  = 1_000_000_000
	maxBuilt = 100_000_000
	// maxLoops is how deep the loops of a constraint nest.
	maxLoops = 3
)

// work is what the constraints of a schema may have to do, which their library does
// not bound. What could grow beyond all bounds is refused when it is compiled: in its
// loops an expression goes over what the message holds, and what it builds there
// is no longer than what it is built of. So the size of a message bounds the rest.
type work struct {
	depth   int  // of the loops
	longest int  // list that an expression has of its own to go over
	states  int  // of the patterns
	builds  bool // texts, in loops
}

// constraintsParser reads the expressions of constraints.
var constraintsParser = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(cel.Lib(pvcel.NewLibrary()), cel.ParserExpressionSizeLimit(maxExpr))
})

// rules adds what lies in rules as a message: expressions, and patterns.
func (w *work) rules(m protoreflect.Message) (err error) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		each := func(v protoreflect.Value) {
			switch {
			case err != nil || f.IsMap():
			case f.Message() != nil:
				err = w.rules(v.Message())
			case f.Name() == "expression" || f.Name() == "cel_expression":
				err = w.expression(v.String())
			case f.Name() == "pattern":
				err = w.pattern(v.String())
			}
		}
		if f.IsList() {
			for i := range v.List().Len() {
				each(v.List().Get(i))
			}
		} else {
			each(v)
		}
		return err == nil
	})
	return err
}

// predefined adds the rules that a file defines for its own use.
func (w *work) predefined(extensions protoreflect.ExtensionDescriptors, messages protoreflect.MessageDescriptors) error {
	for i := range extensions.Len() {
		rules, err := protovalidate.ResolvePredefinedRules(extensions.Get(i))
		if err == nil && rules != nil {
			err = w.rules(rules.ProtoReflect())
		}
		if err != nil {
			return err
		}
	}
	for i := range messages.Len() {
		if err := w.predefined(messages.Get(i).Extensions(), messages.Get(i).Messages()); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) pattern(text string) error {
	if len(text) > maxExpr {
		return fmt.Errorf("expected a pattern of at most %d bytes, found %d", maxExpr, len(text))
	}
	p, err := patternOf(text)
	if err != nil {
		return fmt.Errorf("pattern %q: %w", text, err)
	}
	w.states = max(w.states, p.states)
	return nil
}

func (w *work) expression(text string) error {
	env, err := constraintsParser()
	if err != nil {
		return err
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return issues.Err()
	}
	if err := w.walk(parsed.NativeRep().Expr(), 0); err != nil {
		return fmt.Errorf("expression %q: %w", text, err)
	}
	return nil
}

// walk adds an expression that lies in so many loops.
func (w *work) walk(e ast.Expr, depth int) error {
	var parts []ast.Expr
	switch e.Kind() {
	case ast.CallKind:
		c := e.AsCall()
		if c.IsMemberFunction() {
			parts = append(parts, c.Target())
		}
		parts = append(parts, c.Args()...)
		if err := w.call(c); err != nil {
			return err
		}
		if depth > 0 && (c.FunctionName() == "format" || c.FunctionName() == "join" || c.FunctionName() == operators.Add && c.Args()[1].Kind() != ast.ListKind) {
			w.builds = true
		}
	case ast.ListKind:
		parts = e.AsList().Elements()
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			parts = append(parts, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
	case ast.StructKind:
		for _, f := range e.AsStruct().Fields() {
			parts = append(parts, f.AsStructField().Value())
		}
	case ast.SelectKind:
		parts = append(parts, e.AsSelect().Operand())
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		if !w.held(c.IterRange()) {
			return fmt.Errorf("expected a loop over what the message holds, or over a part of it, found one over what the expression makes: its cost has no bound; write it apart")
		}
		if depth++; depth > maxLoops {
			return fmt.Errorf("expected at most %d loops within each other, found more", maxLoops)
		}
		w.depth = max(w.depth, depth)
		if err := w.walk(c.IterRange(), depth-1); err != nil {
			return err
		}
		parts = append(parts, c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result())
	}
	for _, part := range parts {
		if err := w.walk(part, depth); err != nil {
			return err
		}
	}
	return nil
}

// held says whether e is no larger than the message: a part of it, those of a part
// that a filter leaves, a part of each, or a list that stands in the expression.
func (w *work) held(e ast.Expr) bool {
	switch e.Kind() {
	case ast.IdentKind:
		return true
	case ast.SelectKind:
		return w.held(e.AsSelect().Operand())
	case ast.ListKind:
		elements := e.AsList().Elements()
		w.longest = max(w.longest, len(elements))
		return !slices.ContainsFunc(elements, func(e ast.Expr) bool { return !w.held(e) })
	case ast.LiteralKind:
		return true
	case ast.CallKind:
		c := e.AsCall()
		switch c.FunctionName() {
		case operators.Index, operators.OptIndex, "getField":
			return w.held(c.Args()[0])
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		step := c.LoopStep()
		if step.Kind() == ast.CallKind && step.AsCall().FunctionName() == operators.Conditional {
			step = step.AsCall().Args()[1]
		}
		if step.Kind() != ast.CallKind || step.AsCall().FunctionName() != operators.Add {
			return false
		}
		args := step.AsCall().Args()
		return args[0].Kind() == ast.IdentKind && args[0].AsIdent() == c.AccuVar() &&
			args[1].Kind() == ast.ListKind && w.held(args[1]) && w.held(c.IterRange())
	}
	return false
}

// longPrecision is a number with more digits than anybody needs.
var longPrecision = regexp.MustCompile(`%\.\d{3}`)

// call adds a function, of which some do more than they are given to do.
func (w *work) call(c ast.CallExpr) error {
	text := func(e ast.Expr) (string, bool) {
		if e.Kind() != ast.LiteralKind {
			return "", false
		}
		s, ok := e.AsLiteral().(types.String)
		return string(s), ok
	}
	args := c.Args()
	switch c.FunctionName() {
	case "matches":
		pattern, ok := text(args[len(args)-1])
		if !ok {
			return fmt.Errorf("expected a pattern as text in matches, found another expression")
		}
		return w.pattern(pattern)
	case "replace":
		from, ok1 := text(args[0])
		to, ok2 := text(args[min(1, len(args)-1)])
		if !ok1 || !ok2 || len(to) > len(from) {
			return fmt.Errorf("expected replace with two texts, the second of which is no longer, found another: its cost has no bound")
		}
	case "join":
		if len(args) == 0 {
			return nil
		}
		if between, ok := text(args[0]); !ok || len(between) > 10 {
			return fmt.Errorf("expected join with a text of at most 10 bytes, found another expression")
		}
	case "format":
		if format, ok := text(c.Target()); !ok || longPrecision.MatchString(format) {
			return fmt.Errorf("expected format of a text, with at most two digits of precision, found another")
		}
	}
	return nil
}

// admits says whether what constraints have to do for a payload is bounded.
func (w work) admits(payload []byte, m protoreflect.Message) error {
	limit := float64(maxWork)
	if w.builds {
		limit = maxBuilt
	}
	if w.of(len(payload), len(payload), len(payload)) <= limit {
		return nil
	}
	longest, text := sizes(m)
	if w.of(len(payload), longest, text) <= limit {
		return nil
	}
	return &schemas.ValueError{Violations: []schemas.Violation{{
		Expected: "a value whose constraints are not too much work to check", Found: fmt.Sprintf("lists of up to %d and texts of up to %d bytes", longest, text),
		Hint: "take it apart, or write the loops and patterns of its constraints simpler",
	}}}
}

// of is the work for a payload of so many bytes, with lists of up to so many entries
// and texts of so many bytes. All messages in it together are no longer than it is, and
// so are the innermost loops over what they hold.
func (w work) of(length, longest, text int) float64 {
	n := float64(length) * float64(max(w.states, 1))
	for level := range w.depth {
		if level == 0 {
			n *= float64(max(text, w.longest, 1))
		} else {
			n *= float64(max(longest, w.longest, 1))
		}
	}
	return n
}

// sizes returns the most entries of a list or map, and the most bytes of a text.
func sizes(m protoreflect.Message) (longest, text int) {
	add := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch f.Kind() {
		case protoreflect.StringKind:
			text = max(text, len(v.String()))
		case protoreflect.BytesKind:
			text = max(text, len(v.Bytes()))
		case protoreflect.MessageKind, protoreflect.GroupKind:
			l, t := sizes(v.Message())
			longest, text = max(longest, l), max(text, t)
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			longest = max(longest, v.List().Len())
			for i := range v.List().Len() {
				add(f, v.List().Get(i))
			}
		case f.IsMap():
			longest = max(longest, v.Map().Len())
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				if s, ok := k.Interface().(string); ok {
					text = max(text, len(s))
				}
				add(f.MapValue(), v)
				return true
			})
		default:
			add(f, v)
		}
		return true
	})
	return longest, text
}
