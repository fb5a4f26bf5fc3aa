package consumers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/rules"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
)

// What a filter does not want is done with, what it cannot judge is set aside,
// and a tombstone passes.
func TestFilter(t *testing.T) {
	filter, err := rules.Filter(`message == "late" ? [true][9] : message != "no"`)
	if err != nil {
		t.Fatal(err)
	}
	in := records(0, "yes", "no", "late", "yes", "no")
	in[3].Value = nil
	src := &script{batches: [][]stream.Record{in}}
	dlq := &nowhere{}
	var offsets []int64
	var next int64
	err = within(t, time.Minute, src, sinkFunc(func(_ context.Context, b Batch) error {
		for _, m := range b.Messages {
			offsets = append(offsets, m.Offset)
		}
		next = b.Next
		return nil
	}), Config{Group: "g", DeadLetters: dlq, Between: Evaluate(Expressions{Filter: filter})})
	if err != nil || !slices.Equal(offsets, []int64{0, 3}) || next != 5 {
		t.Errorf("stored %v up to %d, %v", offsets, next, err)
	}
	if len(dlq.letters) != 1 {
		t.Fatalf("got %d dead letters, want 1", len(dlq.letters))
	}
	reason, _ := dlq.letters[0].Header(stream.HeaderReason)
	text, _ := dlq.letters[0].Header(stream.HeaderError)
	if string(reason) != "expression-failed" || !strings.Contains(string(text), "filter: evaluate expression: ") {
		t.Errorf("got reason %s: %s", reason, text)
	}
}

// What map makes is of the schema that it is to be of, and of no other; while that
// is not known the batch waits.
func TestMap(t *testing.T) {
	to, err := avro.Format{}.Parse(`{"type":"record","name":"R","fields":[{"name":"id","type":"int"}]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	expression, err := rules.Map(`{"id": message == "seven" ? 7 : message, "seen": offset}`)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rules.Map(`{"id": message == "seven" ? 7 : message}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		expression *rules.Expression
		want       string
		dead       string
	}{
		"fits":        {short, "7 of 9", `/id: expected 32-bit integer, found string "eight"`},
		"not a field": {expression, "", `/seen`},
	} {
		t.Run(name, func(t *testing.T) {
			src := &script{batches: [][]stream.Record{records(0, "seven", "eight")}}
			dlq := &nowhere{}
			var got []string
			asked := 0
			err := within(t, time.Minute, src, sinkFunc(func(_ context.Context, b Batch) error {
				for _, m := range b.Messages {
					if m.Schema != to {
						t.Errorf("it is of schema %v", m.Schema)
					}
					got = append(got, fmt.Sprintf("%v of %d", m.Data.(map[string]any)["id"], m.SchemaID))
				}
				return nil
			}), Config{Group: "g", DeadLetters: dlq, Between: Evaluate(Expressions{Map: c.expression, To: func(context.Context) (schemas.Registered, error) {
				if asked++; asked == 1 {
					return schemas.Registered{}, errDown
				}
				return schemas.Registered{ID: 9, Schema: to}, nil
			}})})
			if s := strings.Join(got, ","); err != nil || s != c.want {
				t.Errorf("stored %q, %v, want %q", s, err, c.want)
			}
			if len(dlq.letters) == 0 {
				t.Fatal("no dead letters")
			}
			text, _ := dlq.letters[len(dlq.letters)-1].Header(stream.HeaderError)
			if !strings.Contains(string(text), c.dead) {
				t.Errorf("got %s, want %s", text, c.dead)
			}
		})
	}
}

// Where records cannot be set aside, one that cannot be judged ends the run.
func TestFilterEndsTheRun(t *testing.T) {
	filter, err := rules.Filter(`message.x == 1`)
	if err != nil {
		t.Fatal(err)
	}
	src := &script{batches: [][]stream.Record{records(0, "a")}}
	err = within(t, time.Minute, src, sinkFunc(func(context.Context, Batch) error { return nil }), Config{Between: Evaluate(Expressions{Filter: filter})})
	var why *Reason
	if !errors.As(err, &why) || why.Code != ExpressionFailed {
		t.Errorf("got %v", err)
	}
}

// cellSink is a Sink that takes cells where it can get them.
type cellSink struct{ sinkFunc }

func (cellSink) TakesCells(schemas.Schema) bool { return true }

// flat is a registry of one flat schema.
type flat struct{ schema schemas.Schema }

func (f flat) Schema(context.Context, schemas.ID) (schemas.Schema, error) { return f.schema, nil }

// What an expression is to see is decoded also for a sink that would take cells.
func TestFilterBeforeCells(t *testing.T) {
	schema, err := avro.Format{}.Parse(`{"type":"record","name":"R","fields":[{"name":"id","type":"int"}]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := rules.Filter(`message.id == 2`)
	if err != nil {
		t.Fatal(err)
	}
	var in []stream.Record
	for i := range 3 {
		value, err := schema.AppendEncode(schemas.AppendHeader(nil, 7), map[string]any{"id": i + 1})
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, stream.Record{Topic: "t", Offset: int64(i), Value: value})
	}
	for _, between := range []Between{nil, Evaluate(Expressions{Filter: filter})} {
		src := &script{batches: [][]stream.Record{in}}
		var offsets []int64
		cells := 0
		err := within(t, time.Minute, src, cellSink{func(_ context.Context, b Batch) error {
			for _, m := range b.Messages {
				offsets = append(offsets, m.Offset)
				cells += len(m.Cells)
			}
			return nil
		}}, Config{Registry: flat{schema}, Between: between})
		if between == nil && (err != nil || len(offsets) != 3 || cells != 3) {
			t.Errorf("without an expression: %v stored with %d cells, %v", offsets, cells, err)
		}
		if between != nil && (err != nil || !slices.Equal(offsets, []int64{1})) {
			t.Errorf("stored %v, %v", offsets, err)
		}
	}
}
