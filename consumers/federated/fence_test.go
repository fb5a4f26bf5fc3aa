package federated

import (
	"context"
	"errors"
	"testing"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// encoder is a publisher that says what it would publish.
type encoder struct{ *publisher }

func (e encoder) Encode(_ context.Context, topic string, key []byte, value any) (stream.Record, error) {
	payload, err := e.registry[1].AppendEncode(schemas.AppendHeader(nil, 1), value)
	return stream.Record{Topic: topic, Key: key, Value: payload}, err
}

// fencing is a broker whose commits fail as the publications of a publisher do.
type fencing struct {
	stream.Broker
	publisher *publisher
	pause     func() // is called once, before a commit
	taking    func() // is called once, before something is taken over
}

func (f *fencing) Resume(ctx context.Context, topic, name string) (stream.Transactor, stream.Position, error) {
	once(&f.taking)
	tx, at, err := f.Broker.(stream.Resumer).Resume(ctx, topic, name)
	return &behindFence{tx, f}, at, err
}

func once(f *func()) {
	if do := *f; do != nil {
		*f = nil
		do()
	}
}

type behindFence struct {
	stream.Transactor
	f *fencing
}

func (x *behindFence) Commit(ctx context.Context, out []stream.Record, in stream.Position) error {
	once(&x.f.pause)
	how := x.f.publisher.outcome()
	if how == before {
		return errors.Join(errConnection, x.Close())
	}
	err := x.Transactor.Commit(ctx, out, in)
	if err == nil && how == after {
		err = errors.Join(errConnection, x.Close())
	}
	return err
}

// fence has models published behind a fence, piece by piece.
func (tr *training) fence() *fencing {
	f := &fencing{Broker: tr.broker, publisher: tr.publisher}
	tr.config.Broker, tr.config.Publisher, tr.config.fenced = f, encoder{tr.publisher}, 1
	return f
}

// An aggregator that stops between its look at the models topic and its publication, and
// goes on when another has published newer models, publishes nothing, and goes on from the
// newest; and so does one that has not taken over yet, whose look comes after that.
func TestAStoppedAggregatorPublishesNoOlderModel(t *testing.T) {
	for _, when := range []string{"before it publishes", "between pieces", "before it takes over"} {
		t.Run(when, func(t *testing.T) {
			tr := newTraining(t, 1, 3)
			f := tr.fence()
			if when == "between pieces" {
				tr.config.Piece = 8
			}
			offset := int64(-1)
			write := func(a *Aggregator) error {
				offset++
				msg := message(t, tr.publisher.registry, "c0", updateOf("c0", a.Model()).value())
				msg.Offset = offset
				return a.Write(t.Context(), consumers.Batch{Topic: "updates", First: offset, Next: offset + 1, Messages: []consumers.Message{msg}})
			}
			slow, other := open(t, tr.config), open(t, tr.config)
			claim(t, slow)
			meanwhile := func() {
				offset = -1
				claim(t, other)
				for range 2 {
					if err := write(other); err != nil {
						t.Fatal(err)
					}
				}
			}
			switch when {
			case "before it publishes":
				f.pause = meanwhile
			case "between pieces":
				f.pause = func() { f.pause = meanwhile }
			default:
				f.taking = meanwhile
			}
			err := write(slow)
			if when == "before it takes over" {
				if err != nil {
					t.Fatal(err)
				}
			} else if !errors.Is(err, ErrReread) || len(slow.parts) > 0 {
				t.Fatalf("the slow one: %v, with %d partitions", err, len(slow.parts))
			}
			if starts := claim(t, slow); starts[id(0)] != 2 || slow.Model().Round != 2 {
				t.Errorf("it goes on at %v, in round %d", starts, slow.Model().Round)
			}
			for slow.Model().Round < 3 {
				offset = slow.Model().Round - 1
				if err := write(slow); err != nil && !errors.Is(err, ErrFinished) {
					t.Fatal(err)
				}
			}
			if models := tr.models(); len(models) != 4 {
				t.Errorf("%d models", len(models))
			}
			for i, m := range tr.models() {
				if m.Round != int64(i) {
					t.Errorf("model %d is of round %d", i, m.Round)
				}
			}
		})
	}
}

// Of two aggregators that begin a training, one publishes the first model.
func TestATrainingBeginsOnce(t *testing.T) {
	tr := newTraining(t, 2, 1)
	f := tr.fence()
	f.pause = func() { open(t, tr.config) }
	open(t, tr.config)
	if models := tr.models(); len(models) != 1 {
		t.Errorf("%d models", len(models))
	}
}
