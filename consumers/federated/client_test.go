package federated

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"penstock/consumers"
	"penstock/stream"
	"penstock/stream/memory"
)

// modelBatch is a batch of the models topic.
func modelBatch(t *testing.T, r registry, models ...Model) consumers.Batch {
	t.Helper()
	b := consumers.Batch{Topic: "models"}
	for _, m := range models {
		payload, err := r[1].AppendEncode(nil, m.value())
		if err != nil {
			t.Fatal(err)
		}
		data, err := r[1].Decode(payload)
		if err != nil {
			t.Fatal(err)
		}
		b.Messages = append(b.Messages, consumers.Message{Record: stream.Record{Offset: b.Next}, Data: data})
		b.Next++
	}
	return b
}

func someModel(round int64) Model {
	p := []Tensor{{Name: "w", Shape: []int{1}, Values: []float32{float32(round)}}}
	return Model{Round: round, Rounds: 3, Hash: hashOf(p), Clients: []string{"c0", "c1"}, Parameters: p}
}

func TestClientAnswersTheNewestModelOnce(t *testing.T) {
	broker := memory.New()
	if err := broker.Create(t.Context(), "updates", 1); err != nil {
		t.Fatal(err)
	}
	p := &publisher{registry: newRegistry(t), to: broker}
	var trained []int64
	c, err := NewClient(ClientConfig{Name: "c0", Updates: "updates", Publisher: p, Train: func(_ context.Context, m Model) (Trained, error) {
		trained = append(trained, m.Round)
		p := []Tensor{{Name: "w", Shape: []int{1}, Values: []float32{float32(len(trained))}}}
		return Trained{Parameters: p, Samples: 5, Loss: 0.5, Steps: 7}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	write := func(want error, models ...Model) {
		t.Helper()
		b := modelBatch(t, p.registry, models...)
		for i := range b.Messages {
			b.Messages[i].Offset += next
		}
		if err := c.Write(t.Context(), b); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		} else if err == nil {
			next += b.Next
		}
	}
	p.fail = []failure{after}
	write(errConnection, someModel(0), someModel(1))
	write(nil, someModel(0), someModel(1)) // sent again as it is
	write(nil, someModel(1))
	write(nil, someModel(0))
	write(nil, someModel(2))
	write(ErrFinished, someModel(3))
	write(ErrFinished)

	got := values(t, broker, "updates")
	if len(got) != 3 || !bytes.Equal(got[0], got[1]) {
		t.Errorf("published %x", got)
	}
	if u := c.update; u.Samples != 5 || u.Loss != 0.5 || u.Steps != 7 {
		t.Errorf("sent %+v", u)
	}
	if len(trained) != 2 || trained[0] != 1 || trained[1] != 2 {
		t.Errorf("trained for rounds %v", trained)
	}
}

func TestClientStops(t *testing.T) {
	r := newRegistry(t)
	training := errors.New("no examples")
	train := func(context.Context, Model) (Trained, error) { return Trained{}, training }
	c, err := NewClient(ClientConfig{Name: "c9", Updates: "updates", Publisher: &publisher{}, Train: train})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), modelBatch(t, r, someModel(0))); !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), `"c9"`) {
		t.Errorf("a client nobody expects: %v", err)
	}
	c, _ = NewClient(ClientConfig{Name: "c0", Updates: "updates", Publisher: &publisher{}, Train: train})
	if err := c.Write(t.Context(), modelBatch(t, r, someModel(0))); !errors.Is(err, training) {
		t.Errorf("a training that fails: %v", err)
	}
	var bad *stream.BatchError
	if err := c.Write(t.Context(), consumers.Batch{Messages: []consumers.Message{{Record: stream.Record{Offset: 1}, Data: "x"}}}); !errors.As(err, &bad) {
		t.Errorf("a record that is no model: %v", err)
	}
	if _, err := NewClient(ClientConfig{}); err == nil {
		t.Error("a client without anything")
	}
}

// failing is a Publisher that fails with err.
type failing struct{ err error }

func (f failing) Publish(context.Context, string, []byte, any) error { return f.err }

// The index in the publisher's BatchError is not that of a message.
func TestPublishFailuresNameNoMessage(t *testing.T) {
	r := newRegistry(t)
	for inner, stops := range map[error]bool{errConnection: false, stream.ErrTooLarge: true} {
		c, err := NewClient(ClientConfig{
			Name: "c0", Updates: "updates", Publisher: failing{&stream.BatchError{Errs: map[int]error{0: inner}}},
			Train: func(context.Context, Model) (Trained, error) { return Trained{Samples: 1}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Write(t.Context(), modelBatch(t, r, someModel(0)))
		var bad *stream.BatchError
		if errors.As(err, &bad) || !errors.Is(err, inner) || errors.Is(err, consumers.ErrStop) != stops {
			t.Errorf("got %v", err)
		}
	}
}

// pieceBatches are records of models in pieces, of which the second batch ends one and
// begins the next.
func pieceBatches(t *testing.T, r registry, models ...Model) (batches []consumers.Batch) {
	t.Helper()
	var all []consumers.Message
	for _, m := range models {
		for record := range split(m.value(), 4) {
			payload, err := r[1].AppendEncode(nil, record)
			if err != nil {
				t.Fatal(err)
			}
			data, err := r[1].Decode(payload)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, consumers.Message{Record: stream.Record{Offset: int64(len(all))}, Data: data})
		}
	}
	half := len(all) / len(models) / 2
	for i := half; len(all) > 0; i += 2 * half {
		n := min(len(all), 2*half)
		if len(batches) == 0 {
			n = half
		}
		batches = append(batches, consumers.Batch{Topic: "models", Messages: all[:n], First: all[0].Offset, Next: all[n-1].Offset + 1})
		all = all[n:]
	}
	return batches
}

// A batch that ends a model and begins another may come again: the model is not lost.
func TestModelThatComesAgainInPieces(t *testing.T) {
	broker := memory.New()
	if err := broker.Create(t.Context(), "updates", 1); err != nil {
		t.Fatal(err)
	}
	p := &publisher{registry: newRegistry(t), to: broker, fail: []failure{before}}
	c, err := NewClient(ClientConfig{Name: "c0", Updates: "updates", Publisher: p, Train: func(_ context.Context, m Model) (Trained, error) {
		return Trained{Parameters: m.Parameters, Samples: 1}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	large := func(round int64) Model {
		m := someModel(round)
		m.Parameters = []Tensor{{Name: "w", Shape: []int{4}, Values: []float32{1, 2, 3, float32(round)}}}
		m.Hash = hashOf(m.Parameters)
		return m
	}
	for i, b := range pieceBatches(t, p.registry, large(0), large(1)) {
		err := c.Write(t.Context(), b)
		if i == 1 {
			if !errors.Is(err, errConnection) {
				t.Fatal(err)
			}
			err = c.Write(t.Context(), b)
		}
		if err != nil {
			t.Errorf("batch %d: %v", i, err)
		}
	}
	if n := len(values(t, broker, "updates")); n != 2 {
		t.Errorf("expected answers to both models, found %d", n)
	}
}

// The pieces of a model have the hash that they say.
func TestModelOfOtherPieces(t *testing.T) {
	j := NewJoiner()
	defer j.Close()
	m := someModel(0)
	m.Parameters = []Tensor{{Name: "w", Shape: []int{4}, Values: []float32{1, 2, 3, 4}}}
	m.Hash = hashOf(m.Parameters)
	m.State = map[string][]float64{"momentum": {1, 2, 3, 4}}
	var err error
	for record := range split(m.value(), 16) {
		piece := record["piece"].(map[string]any)
		if piece["index"].(int32) == 1 {
			piece["data"] = append([]byte{9}, piece["data"].([]byte)[1:]...)
		}
		if _, _, err = j.Model(record); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "expected pieces with hash") {
		t.Errorf("got %v", err)
	}
}
