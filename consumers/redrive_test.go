package consumers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
	"penstock/stream/nats"
)

// learning is a registry that comes to know its schema.
type learning struct{ schema schemas.Schema }

func (l *learning) Schema(context.Context, schemas.ID) (schemas.Schema, error) {
	if l.schema == nil {
		return nil, schemas.ErrNoSchema
	}
	return l.schema, nil
}

type nowhere struct{}

func (nowhere) Write(context.Context, consumers.Batch) error { return nil }

// losing is a Resumer that loses the answers of some commits.
type losing struct {
	stream.Resumer
	lose int
}

type losingTx struct {
	stream.Transactor
	l *losing
}

func (l *losing) Resume(ctx context.Context, topic, input string) (stream.Transactor, stream.Position, error) {
	tx, at, err := l.Resumer.Resume(ctx, topic, input)
	return losingTx{tx, l}, at, err
}

func (t losingTx) Commit(ctx context.Context, out []stream.Record, in stream.Position) error {
	err := t.Transactor.Commit(ctx, out, in)
	if t.l.lose--; t.l.lose >= 0 {
		return errors.Join(err, errors.New("the answer was lost"))
	}
	return err
}

func TestRedrive(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := nats.OpenDir(ctx, t.TempDir(), nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	const n = 700 // more than lie on a shelf
	for _, topic := range []string{"t", "t.g.dlq"} {
		if err := b.Create(ctx, topic, 1); err != nil {
			t.Fatal(err)
		}
	}
	records := make([]stream.Record, n)
	for i := range records {
		// The last is no string, whatever is known of its schema.
		records[i] = stream.Record{Topic: "t", Key: []byte{byte(i)}, Value: append(schemas.AppendHeader(nil, 1), 2, 'a')}
		records[i].Headers = []stream.Header{{Key: "n", Value: fmt.Append(nil, i)}}
	}
	records[n-1].Value = records[n-1].Value[:6]
	if err := b.Publish(ctx, records...); err != nil {
		t.Fatal(err)
	}
	reg := &learning{}
	// read consumes a topic to its end, and sets aside what cannot pass if the
	// topic is not that of dead letters.
	read := func(topic, group string, want int) (letters []consumers.Letter) {
		t.Helper()
		src, err := b.Open(ctx, stream.Subscription{Topic: topic, Group: group})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		for len(letters) < want {
			records, ack, err := src.Fetch(ctx, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if err := ack(ctx, nil); err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				letters = append(letters, consumers.ReadLetter(r))
			}
		}
		return letters
	}
	setAside := func(want int) {
		t.Helper()
		src, err := b.Open(ctx, stream.Subscription{Topic: "t", Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		ctx, cancel := context.WithCancel(ctx)
		done := 0
		err = consumers.Run(ctx, src, nowhere{}, consumers.Config{
			Group: "g", Registry: reg, DeadLetters: b, InFlight: 1,
			Hooks: consumers.Hooks{DeadLetter: func(stream.Record, *consumers.Reason) {
				if done++; done == want {
					cancel()
				}
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	setAside(n)
	letters := read("t.g.dlq", "first", n)

	broker := &losing{Resumer: b}
	r := &consumers.Redriver{Broker: broker, Decoder: consumers.NewDecoder(reg, schemas.Limits{}), Pipeline: "t.g.dlq"}
	redrive := func(letters []consumers.Letter, want map[consumers.Outcome]int) {
		t.Helper()
		verdicts, err := r.Redrive(ctx, letters)
		if err != nil {
			t.Fatal(err)
		}
		got := map[consumers.Outcome]int{}
		for _, v := range verdicts {
			got[v.Outcome]++
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("verdicts (-want +got):\n%s", diff)
		}
	}
	redrive(letters, map[consumers.Outcome]int{consumers.StillRefused: n})
	var err2 error
	if reg.schema, err2 = (avro.Format{}).Parse(`"string"`, nil); err2 != nil {
		t.Fatal(err2)
	}
	r.DryRun = true
	redrive(letters, map[consumers.Outcome]int{consumers.WouldRedrive: n - 1, consumers.StillRefused: 1})
	r.DryRun = false
	broker.lose = 1
	if _, err := r.Redrive(ctx, letters[:10]); err == nil {
		t.Fatal("the answer of a commit was lost, and nothing said of it")
	}
	redrive(letters[:20], map[consumers.Outcome]int{consumers.Redriven: 10, consumers.RedrivenOnce: 10})
	redrive(append(letters, letters[600]), map[consumers.Outcome]int{consumers.Redriven: n - 21, consumers.RedrivenOnce: 21, consumers.StillRefused: 1})

	// Each came once, in order, as it was.
	back := read("t", "second", 2*n-1)[n:]
	if len(back) != n-1 {
		t.Fatalf("%d records came back, want %d", len(back), n-1)
	}
	for i, l := range back {
		if number, _ := l.Header("n"); string(number) != fmt.Sprint(i) || !cmp.Equal(l.Value, records[i].Value) || !cmp.Equal(l.Key, records[i].Key) {
			t.Fatalf("record %d came back as %+v", i, l.Record)
		}
		if _, ok := l.Header(stream.HeaderReason); ok || l.Attempt != 1 {
			t.Fatalf("record %d came back with headers %v", i, l.Headers)
		}
	}

	// One that is set aside again is redriven again, but not for ever.
	again := back[0]
	again.From = consumers.Origin{Topic: "t", Offset: letters[0].From.Offset}
	redrive([]consumers.Letter{again}, map[consumers.Outcome]int{consumers.Redriven: 1})
	again.Attempt = 3
	made := consumers.ReadLetter(stream.Record{Topic: "t.dlq", Headers: []stream.Header{{Key: stream.HeaderTopic, Value: []byte("t")}}})
	redrive([]consumers.Letter{again, made}, map[consumers.Outcome]int{consumers.TooOften: 1, consumers.NeverAnywhere: 1})
}
