package producers

import (
	"context"
	"errors"
	"strings"
	"testing"

	"penstock/rules"
	"penstock/schemas"
	"penstock/stream"
)

// contracts is a registry whose schema has rules.
type contracts struct {
	registry
	contract []byte
}

func (c *contracts) Newest(ctx context.Context, subject string) (schemas.Registered, error) {
	id, s, err := c.Latest(ctx, subject)
	return schemas.Registered{ID: id, Schema: s, Contract: c.contract, Subject: subject, Version: 1}, err
}

// Rules for writing are run: they change what is written, and who does not pass
// is refused, set aside or both.
func TestRules(t *testing.T) {
	reg := &contracts{
		registry{subjects: []string{"orders-value"}, schemas: []schemas.Schema{order(t)}},
		[]byte(`{"ruleSet":{"domainRules":[
			{"name":"upper","kind":"TRANSFORM","type":"CEL","mode":"WRITE","expr":"message.id == 'change' ? {'id': 'a', 'amount': 1.5, 'note': dyn(null)} : message"},
			{"name":"positive","kind":"CONDITION","type":"CEL","mode":"WRITE","expr":"message.amount > 0.0"},
			{"name":"named","kind":"CONDITION","type":"CEL","mode":"WRITE","expr":"message.id != ''","onFailure":"DLQ","params":{"dlq.topic":"unnamed"}}]}}`),
	}
	type Order struct {
		ID     string  `avro:"id"`
		Amount float64 `avro:"amount"`
		Note   *string `avro:"note"`
	}
	var pub publisher
	p := New(&pub, reg, Config{})
	for range 2 { // the second time with rules that are compiled
		pub.records = nil
		err := p.Publish(t.Context(),
			Event{Topic: "orders", Value: value("change")},
			Event{Topic: "orders", Value: Order{"change", 9, nil}},
			Event{Topic: "orders", Value: map[string]any{"id": "b", "amount": -1.0}},
			Event{Topic: "orders", Value: map[string]any{"id": "", "amount": 1.0}},
			Event{Topic: "orders"},
		)
		var failed *stream.BatchError
		if !errors.As(err, &failed) || len(failed.Errs) != 2 {
			t.Fatalf("got %v, want two refused", err)
		}
		for i, name := range map[int]string{2: "positive", 3: "named"} {
			var rule *rules.Error
			if !errors.As(failed.Errs[i], &rule) || rule.Rule.Name != name || !errors.As(failed.Errs[i], new(*schemas.ValueError)) {
				t.Errorf("event %d: %v, want that rule %q refuses it", i, failed.Errs[i], name)
			}
		}
		if len(pub.records) != 4 {
			t.Fatalf("%d records, want 4", len(pub.records))
		}
		for i := range 2 {
			if string(pub.records[i].Value) != string(encoded(t, "a")) {
				t.Errorf("event %d was written as %q", i, pub.records[i].Value)
			}
		}
		letter := pub.records[2]
		if why, _ := letter.Header(stream.HeaderError); letter.Topic != "unnamed" || string(letter.Value) != `{"amount":1,"id":""}` || !strings.Contains(string(why), "named") {
			t.Errorf("the dead letter: %s %s %s", letter.Topic, letter.Value, why)
		}
	}
	// A queue takes the dead letter as well.
	pub.records = nil
	a := p.Async(AsyncConfig{})
	var rule *rules.Error
	if err := a.Send(t.Context(), Event{Topic: "orders", Value: map[string]any{"id": "", "amount": 1.0}}, func(Place, error) { t.Error("told") }); !errors.As(err, &rule) {
		t.Errorf("Send: %v", err)
	}
	if err := a.Close(t.Context()); err != nil || len(pub.records) != 1 || pub.records[0].Topic != "unnamed" {
		t.Errorf("Close: %v; records %v", err, pub.records)
	}
	reg.contract = []byte(`{"ruleSet":{"domainRules":[{"name":"x","kind":"CONDITION","type":"CEL","mode":"WRITE","expr":"("}]}}`)
	if err := p.Publish(t.Context(), Event{Topic: "orders", Value: value("a")}); err == nil || !strings.Contains(err.Error(), "compile expression") {
		t.Errorf("rules that make no sense: %v", err)
	}
}
