// Package federated is federated learning over a log: clients publish what they
// made of a global model, the Aggregator counts each once and publishes what a
// strategy makes of them, the weighted mean for instance, as the next model.
//
// # The log
//
// There are two topics. Updates are keyed by the client's name, so that those
// of one client lie in one partition; any number of partitions will do. Models
// lie in a topic of one partition, and each carries everything that the next
// round needs: whose updates are expected, and where to go on in the updates.
// The aggregator has no other store. At its start it reads the last model.
//
// # What holds
//
// Where all clients have to answer, which updates a model is made of is a function
// of the log alone: of each client the first valid update of the round. Where a
// quorum or a deadline may end a round, the decision is made once and lies on the
// log with the model that it led to, in one record: the updates, where they lie, and
// why no more were waited for. Either way they are added by partition and, within
// it, by offset. What a strategy keeps from round
// to round is part of the model. So an aggregator that is killed
// at any instant and started again publishes the same models, byte for byte,
// and one that was published already is not published again.
//
// One aggregator at a time works on a training, since it needs all partitions of the
// updates topic: Lead sees to that, and another stands by. The one that takes over goes on
// from the newest model. One that was stopped, and does not know that another has taken over,
// publishes nothing: models are published behind a fence, which the broker keeps (Encoder).
// Where it has none, on a stream of JetStream that Penstock did not make, such a one may still
// publish an older model behind a newer one, and a model whose publication had a lost
// answer may lie on the topic twice, the same to the byte.
package federated

import (
	"context"
	"errors"
	"fmt"

	"penstock/consumers"
	"penstock/stream"
)

// ErrFinished is wrapped in the error that ends the run of an Aggregator and of
// a Client when the last model has been published.
var ErrFinished = fmt.Errorf("the training is finished: %w", consumers.ErrStop)

// Publisher publishes a value that fits the schema of its topic, and returns
// when it is durable.
type Publisher interface {
	Publish(ctx context.Context, topic string, key []byte, value any) error
}

// Broker is what an Aggregator asks of a stream.Broker, to read the last model.
type Broker interface {
	Ranges(ctx context.Context, topic string) ([]stream.Range, error)
	Open(ctx context.Context, s stream.Subscription) (stream.SourceCloser, error)
}

// Reason says in a word why an update was refused.
type Reason string

// The reasons.
const (
	Malformed     Reason = "malformed"      // it is no update, or it contradicts itself
	UnknownClient Reason = "unknown-client" // the training does not expect this client
	Revoked       Reason = "revoked"        // the client was revoked
	Quarantined   Reason = "quarantined"    // the client is under quarantine
	Unsigned      Reason = "unsigned"       // it lacks the signature that the training asks for
	BadSignature  Reason = "bad-signature"  // it is not what its client signed
	Late          Reason = "late"           // its round is over
	Ahead         Reason = "ahead"          // its round has not begun
	WrongBase     Reason = "wrong-base"     // it was trained from another model
	NotSampled    Reason = "not-sampled"    // the round asks other clients
	Duplicate     Reason = "duplicate"      // the client has been counted in this round
	WrongShape    Reason = "wrong-shape"    // its parameters are not those of the model
	NotFinite     Reason = "not-finite"     // it holds NaN or an infinity
	BadSamples    Reason = "bad-samples"    // its number of examples is out of range
	OutOfRange    Reason = "out-of-range"   // it is too large for an exact sum
	OverNorm      Reason = "over-norm"      // it is too far from the model
	BadReport     Reason = "bad-report"     // the strategy needs a loss or steps that it lacks
	NotEdge       Reason = "not-edge"       // it is a sum of updates, and its sender no edge, or the other way round
	Incomplete    Reason = "incomplete"     // it takes several records, and not all are there
)

// Refusal says why an update was not counted. It reaches the client in the
// dead-letter topic, under the client's key.
type Refusal struct {
	Reason Reason
	Client string
	Round  int64 // of the update
	Detail string
}

// Error is one sentence.
func (r *Refusal) Error() string {
	return fmt.Sprintf("%s: update of client %.100q for round %d: %s", r.Reason, r.Client, r.Round, r.Detail)
}

// publishing gives the error of a Publish its context. It hides a BatchError,
// whose indexes mean other records than those of the caller.
func publishing(what string, err error) error {
	var some *stream.BatchError
	if errors.As(err, &some) && len(some.Errs) > 0 {
		err = some.Unwrap()[0]
	}
	if errors.Is(err, stream.ErrTooLarge) {
		return fmt.Errorf("publish %s: %w: %w", what, consumers.ErrStop, err)
	}
	return fmt.Errorf("publish %s: %w", what, err)
}
