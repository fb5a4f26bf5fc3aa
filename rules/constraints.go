package rules

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"penstock/schemas"
)

// constraintsFile defines the options in which a Protobuf schema says what its values
// have to be like (Protovalidate).
const constraintsFile = "buf/validate/validate.proto"

const (
	// maxMessages is how many messages may lie within one that has constraints.
	maxMessages = 10_000
	// maxLevels is how deep messages may nest in a payload.
	maxLevels = 100
	// maxNamed is how many violations of constraints are named.
	maxNamed = 100
)

// Constraints are those that a Protobuf schema carries as options of
// buf/validate/validate.proto, compiled. They are immutable and safe for concurrent
// use; nil has none.
type Constraints struct {
	message   protoreflect.MessageDescriptor
	validator protovalidate.Validator
	// tagged says that a field has tags, so that no text that an expression has
	// made is shown: there may be values in it.
	tagged bool
	work   work
}

// ConstraintsOf compiles the constraints of a schema, or returns nil if it has none.
// The error is for constraints that cannot be compiled.
func ConstraintsOf(s schemas.Schema) (_ *Constraints, err error) {
	described, ok := s.(interface {
		MessageDescriptor() protoreflect.MessageDescriptor
	})
	if !ok || described.MessageDescriptor() == nil {
		return nil, nil
	}
	c := &Constraints{message: described.MessageDescriptor()}
	files := &protoregistry.Files{}
	if !gather(files, c.message.ParentFile(), map[string]bool{}) {
		return nil, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("compile constraints: %v", p)
		}
	}()
	messages, found, err := c.work.constrained(c.message)
	if err == nil && found {
		files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
			if f.Path() != constraintsFile {
				err = c.work.predefined(f.Extensions(), f.Messages())
			}
			return err == nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("compile constraints: %w", err)
	}
	if !found {
		return nil, nil
	}
	c.tagged = hasTags(s.Model(), map[*schemas.Node]bool{})
	c.validator, err = protovalidate.New(
		protovalidate.WithExtensionTypeResolver(dynamicpb.NewTypes(files)),
		protovalidate.WithMessageDescriptors(messages...),
		protovalidate.WithDisableLazy(),
	)
	if err != nil {
		return nil, fmt.Errorf("compile constraints: %w", err)
	}
	// What cannot be compiled is told when a message is first looked at.
	var faulty *protovalidate.CompilationError
	for _, m := range messages {
		if err := c.validator.Validate(dynamicpb.NewMessage(m)); errors.As(err, &faulty) {
			return nil, fmt.Errorf("compile constraints: message %s: %w", m.FullName(), faulty)
		}
	}
	return c, nil
}

// gather adds a file and what it imports to files, and says whether the file of
// constraints is among that.
func gather(files *protoregistry.Files, file protoreflect.FileDescriptor, seen map[string]bool) (found bool) {
	if seen[file.Path()] {
		return false
	}
	seen[file.Path()] = true
	for i := range file.Imports().Len() {
		found = gather(files, file.Imports().Get(i).FileDescriptor, seen) || found
	}
	_ = files.RegisterFile(file) // the compiler has found its names to be its own
	return found || file.Path() == constraintsFile
}

// constrained returns the messages that may lie in a message, itself the first, and
// whether any of them has constraints, which it adds.
func (w *work) constrained(first protoreflect.MessageDescriptor) (all []protoreflect.MessageDescriptor, found bool, err error) {
	seen := map[protoreflect.FullName]bool{first.FullName(): true}
	all = []protoreflect.MessageDescriptor{first}
	for n := 0; n < len(all); n++ {
		if len(all) > maxMessages {
			return nil, false, fmt.Errorf("expected at most %d messages within %s, found more", maxMessages, first.FullName())
		}
		m := all[n]
		own, err := protovalidate.ResolveMessageRules(m)
		if err == nil && own != nil {
			found, err = true, w.rules(own.ProtoReflect())
		}
		for i := 0; err == nil && i < m.Oneofs().Len(); i++ {
			var of *validate.OneofRules
			of, err = protovalidate.ResolveOneofRules(m.Oneofs().Get(i))
			found = found || of != nil
		}
		for i := 0; err == nil && i < m.Fields().Len(); i++ {
			f := m.Fields().Get(i)
			var of *validate.FieldRules
			if of, err = protovalidate.ResolveFieldRules(f); err == nil && of != nil {
				found, err = true, w.rules(of.ProtoReflect())
			}
			if inner := f.Message(); inner != nil && !seen[inner.FullName()] {
				seen[inner.FullName()] = true
				all = append(all, inner)
			}
		}
		if err != nil {
			return nil, false, fmt.Errorf("message %s: %w", m.FullName(), err)
		}
	}
	return all, found, nil
}

func hasTags(n *schemas.Node, seen map[*schemas.Node]bool) bool {
	if n == nil || seen[n] {
		return false
	}
	seen[n] = true
	return slices.ContainsFunc(n.Fields, func(f schemas.Field) bool { return len(f.Tags) > 0 || hasTags(f.Node, seen) }) ||
		slices.ContainsFunc(n.Branches, func(b *schemas.Node) bool { return hasTags(b, seen) }) || hasTags(n.Items, seen)
}

// Check looks at a payload of the schema's message. What does not keep to the
// constraints is a *schemas.ValueError, which names up to 100 places.
func (c *Constraints) Check(payload []byte) (err error) {
	if c == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = misfit("", "a value that the constraints of its schema can be asked about", "one at which they fail", fmt.Sprint(p))
		}
	}()
	m := dynamicpb.NewMessage(c.message)
	if err := (proto.UnmarshalOptions{RecursionLimit: maxLevels}).Unmarshal(payload, m); err != nil {
		return misfit("", "an encoding of message "+string(c.message.FullName()), "another", err.Error())
	}
	if err := c.work.admits(payload, m); err != nil {
		return err
	}
	err = c.validator.Validate(m)
	var broken *protovalidate.ValidationError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &broken):
		return misfit("", "a value that the constraints of its schema can be asked about", "one at which they fail", err.Error())
	}
	out := &schemas.ValueError{}
	for _, v := range broken.Violations {
		if len(out.Violations) == maxNamed {
			break
		}
		out.Violations = append(out.Violations, c.violation(v))
	}
	return out
}

func misfit(pointer, expected, found, hint string) error {
	return &schemas.ValueError{Violations: []schemas.Violation{{Pointer: pointer, Expected: expected, Found: found, Hint: hint}}}
}

// violation puts a violation in our words.
func (c *Constraints) violation(v *protovalidate.Violation) schemas.Violation {
	rule, message := v.Proto.GetRuleId(), v.Proto.GetMessage()
	out := schemas.Violation{
		Pointer: pointerOf(v), Expected: expected(message), Found: found(v),
		Hint: fmt.Sprintf("change the value, or the constraint %q of the schema", rule),
	}
	// The text of a rule that is not the schema's own is about the rule alone.
	d := v.RuleDescriptor
	own := d == nil || d.IsExtension() || d.Name() == "cel" || d.Name() == "cel_expression"
	switch {
	case rule == "required":
		out.Expected = "a value"
	case message == "" || c.tagged && own:
		out.Expected = fmt.Sprintf("a value that keeps to the constraint %q", rule)
	}
	return out
}

// expected makes what was expected of a constraint's text.
func expected(message string) string {
	for _, form := range [][2]string{{"must be ", "a value that is "}, {"must ", "a value that must "}, {"does not match ", "a value that matches "}} {
		if rest, ok := strings.CutPrefix(message, form[0]); ok {
			return form[1] + rest
		}
	}
	return "a value of which holds: " + message
}

// pointerOf is a violation's place as a JSON pointer.
func pointerOf(v *protovalidate.Violation) string {
	var b strings.Builder
	for _, e := range v.Proto.GetField().GetElements() {
		b.WriteString("/" + schemas.EscapePointer(e.GetFieldName()))
		switch {
		case e.HasIndex():
			b.WriteString("/" + strconv.FormatUint(e.GetIndex(), 10))
		case e.HasStringKey():
			b.WriteString("/" + schemas.EscapePointer(e.GetStringKey()))
		case e.HasIntKey():
			b.WriteString("/" + strconv.FormatInt(e.GetIntKey(), 10))
		case e.HasUintKey():
			b.WriteString("/" + strconv.FormatUint(e.GetUintKey(), 10))
		case e.HasBoolKey():
			b.WriteString("/" + strconv.FormatBool(e.GetBoolKey()))
		}
	}
	return b.String()
}

// found describes what lies there.
func found(v *protovalidate.Violation) string {
	if !v.FieldValue.IsValid() {
		if len(v.Proto.GetField().GetElements()) > 0 {
			return "nothing"
		}
		return "one of other fields"
	}
	switch value := v.FieldValue.Interface().(type) {
	case protoreflect.EnumNumber:
		if f := v.FieldDescriptor; f != nil && f.Enum() != nil {
			if symbol := f.Enum().Values().ByNumber(value); symbol != nil {
				return schemas.Describe(string(symbol.Name()))
			}
		}
		return schemas.Describe(int32(value))
	case protoreflect.List:
		return fmt.Sprintf("array of %d", value.Len())
	case protoreflect.Map:
		return fmt.Sprintf("object of %d fields", value.Len())
	case protoreflect.Message:
		return foundMessage(value)
	default:
		return schemas.Describe(value)
	}
}

func foundMessage(m protoreflect.Message) string {
	if !m.IsValid() {
		return "nothing"
	}
	number := func(name protoreflect.Name) int64 { return m.Get(m.Descriptor().Fields().ByName(name)).Int() }
	switch m.Descriptor().FullName() {
	case "google.protobuf.Timestamp":
		return schemas.Describe((&timestamppb.Timestamp{Seconds: number("seconds"), Nanos: int32(number("nanos"))}).AsTime())
	case "google.protobuf.Duration":
		return schemas.Describe((&durationpb.Duration{Seconds: number("seconds"), Nanos: int32(number("nanos"))}).AsDuration())
	}
	return "object of other fields"
}
