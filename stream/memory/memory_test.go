package memory

import (
	"testing"

	"penstock/stream"
	"penstock/stream/streamtest"
)

var _ stream.Broker = (*Broker)(nil)

func TestSuite(t *testing.T) {
	first := New()
	streamtest.Run(t, streamtest.Features{
		Fenced: true, Resumes: true,
		Atomic: streamtest.Atomic{Topics: true, Conditions: true},
		Crash: func(t testing.TB, src stream.SourceCloser) {
			// Its partitions move, but nobody tells its Owner.
			dead := src.(*source)
			dead.server.mu.Lock()
			defer dead.server.mu.Unlock()
			dead.closed = true
			dead.leave()
			dead.group.rebalance(dead.server)
		},
		Delete: func(t testing.TB, topic string) {
			if err := first.Delete(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		},
	}, func(testing.TB) stream.Broker { return first.Connect() })
}
