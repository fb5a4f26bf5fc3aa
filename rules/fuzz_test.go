package rules_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"penstock/rules"
	"penstock/schemas"
)

// FuzzExpression: whatever an expression says, it is compiled and run within
// bounds, and changes nothing of the record that came in. Without its bounds an
// evaluation would end the process, or never.
func FuzzExpression(f *testing.F) {
	for _, expr := range []string{
		"message.name.matches('a+') && size(message.list) > 0", "value == null; 'a'", "message.list.map(x, x + 'a').join(',').replace('a', 'b')",
		"typeName == 'STRING'; value + fullName + tags.join('')", "{'name': message.name, 'list': [1, 1u, 1.0, null, now]}", "'%s %d'.format([message, 1])",
		"$merge([$sift($, function($v, $k) {$k != 'a'}), {'b': $.'a'}])", "($f := function($x) { $x = 0 ? 1 : $f($x - 1) }; $f(3))", "list.(name)[0] ~> $uppercase()",
		"$map(list, function($v, $i) { $v & $string($i) })", "**.a^(>b).{'c': $sum(d)}", "$ ~> |$|{'x': [1..3]}, ['y']|", "$replace(name, /(a)(b)?/, '$1')", "$f(?, 2)",
	} {
		f.Add(expr)
	}
	schema := parse(f, person)
	f.Fuzz(func(t *testing.T, expr string) {
		in := record{
			"name": "abab", "age": json.Number("7"), "list": []any{"a", json.Number("1.5"), nil, true, record{"a": []any{"b"}}},
			"home": record{"street": "s", "city": "c"}, "phones": []any{"1", "2"},
		}
		before, _ := json.Marshal(in)
		var set rules.RuleSet
		for _, kind := range []string{"CONDITION", "TRANSFORM"} {
			for _, of := range []string{"CEL", "CEL_FIELD", "JSONATA"} {
				set.DomainRules = append(set.DomainRules, rules.Rule{Name: "r", Kind: kind, Type: of, Expr: expr, OnFailure: "NONE"})
			}
		}
		for _, r := range set.DomainRules {
			compiled, err := rules.Compile(schema, rules.Definition{RuleSet: &rules.RuleSet{DomainRules: []rules.Rule{r}}})
			if err != nil {
				t.Fatal(err)
			}
			out, err := compiled.Write(context.Background(), in)
			if err == nil && out == nil {
				t.Fatalf("%s %s: a record became null", r.Kind, r.Type)
			}
			if _, err := schema.AppendEncode(nil, out); err != nil {
				_ = err.Error()
			}
		}
		if after, _ := json.Marshal(in); string(after) != string(before) {
			t.Fatalf("the record that came in was changed to %s", after)
		}
	})
}

// FuzzConstraints looks at payloads: each passes or is a misfit.
func FuzzConstraints(f *testing.F) {
	c, s := constraintsOf(f, constrained)
	for _, change := range []string{"", "id", "part"} {
		v := fitting()
		switch change {
		case "id":
			v["id"] = "x"
		case "part":
			v["part"] = fitting()
		}
		payload, err := s.AppendEncode(nil, v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Add([]byte("\x3a\x08\x0a\x01\x6b\x0d\x01\x02\x03\x04"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		err := c.Check(payload)
		if err != nil && !errors.As(err, new(*schemas.ValueError)) {
			t.Fatal(err)
		}
		if _, unread := s.Decode(payload); unread != nil && err == nil {
			t.Fatalf("it passes, and cannot be read: %v", unread)
		}
	})
}
