package federated

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"penstock/stream"
)

// Encoder is a Publisher that says which record it would publish. With it, and a Broker
// that is a stream.Resumer, an Aggregator publishes models behind a fence: once another has
// taken the topic over, nothing that it publishes is written.
type Encoder interface {
	Encode(ctx context.Context, topic string, key []byte, value any) (stream.Record, error)
}

const (
	// fenceName is the input, to the broker, that models are published as.
	fenceName = "federated"
	// fencedBytes is about how much of a model is written at a time, in one transaction
	// of Kafka or one batch of JetStream.
	fencedBytes = 4 << 20
)

// takeOver shuts out whoever has published models before: what it has not published by
// now is not written, and all that it has can be read. It does nothing where the broker has no
// means for that.
func (a *Aggregator) takeOver(ctx context.Context) error {
	broker, ok := a.config.Broker.(stream.Resumer)
	if _, encodes := a.config.Publisher.(Encoder); !ok || !encodes || a.fence != nil || a.above.shard() {
		return nil // a shard's models are notes to itself, and two processes may take them
	}
	fence, _, err := broker.Resume(ctx, a.config.Models, fenceName)
	if errors.Is(err, stream.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take topic %q over: %w", a.config.Models, err)
	}
	a.fence = fence
	return nil
}

// letGo has the next model published after taking over anew.
func (a *Aggregator) letGo() {
	if a.fence != nil {
		_ = a.fence.Close() // it holds nothing that could be lost
		a.fence = nil
	}
}

// publish publishes m. The error is ErrReread if another aggregator has taken over.
func (a *Aggregator) publish(ctx context.Context, m Model) error {
	if a.fence == nil {
		n, err := publishModel(ctx, a.config.Publisher, a.config.Models, m, a.config.Piece)
		a.seen += n // or something else is there, which is then looked at
		return err
	}
	err := a.commit(ctx, m)
	if err == nil {
		return nil
	}
	if some := (*stream.BatchError)(nil); !errors.As(err, &some) {
		a.letGo()
	}
	if errors.Is(err, stream.ErrFenced) {
		a.pending = nil
		return a.reread(fmt.Errorf("publish model of round %d: another aggregator has taken over: %w", m.Round, ErrReread))
	}
	return publishing(fmt.Sprintf("model of round %d", m.Round), err)
}

// commit writes the records of m behind the fence.
func (a *Aggregator) commit(ctx context.Context, m Model) error {
	var out []stream.Record
	size, most := 0, cmp.Or(a.config.fenced, fencedBytes)
	write := func() error {
		err := a.fence.Commit(ctx, out, stream.Position{Next: m.Round})
		if err == nil {
			a.seen = out[len(out)-1].Offset + 1
			out, size = nil, 0
		}
		return err
	}
	for key, value := range modelSender(nil, a.config.Models, m, a.config.Piece).records(m.value()) {
		r, err := a.config.Publisher.(Encoder).Encode(ctx, a.config.Models, []byte(key), value)
		if err != nil {
			return err
		}
		if len(out) > 0 && (size+len(r.Value) > most || len(out) == stream.MaxCommit) {
			if err := write(); err != nil {
				return err
			}
		}
		out, size = append(out, r), size+len(r.Value)
	}
	return write()
}

// reread lets go what was read for the round, and returns err, which wraps ErrReread.
func (a *Aggregator) reread(err error) error {
	for number := range a.parts {
		a.drop(number)
	}
	return err
}
