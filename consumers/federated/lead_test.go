package federated

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"penstock/consumers"
	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/memory"
	"penstock/stream/nats"
)

// Of two aggregators of a group one has all partitions. When it goes, in the middle of a
// round, the other takes over, and counts each update once.
func TestOneAggregatorLeads(t *testing.T) {
	for name, connect := range map[string]func(testing.TB) (stream.Broker, error){
		"memory": func(testing.TB) (stream.Broker, error) { return memory.New(), nil },
		"kafka": func(t testing.TB) (stream.Broker, error) {
			return kafka.Open(t.Context(), kafka.Config{Seeds: strings.Split(servertest.Kafka(t), ",")})
		},
		"nats": func(t testing.TB) (stream.Broker, error) {
			return nats.Open(t.Context(), nats.Config{URL: servertest.NATS(t)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			broker, err := connect(t)
			if err != nil {
				t.Fatal(err)
			}
			defer broker.Close()
			testLead(t, broker)
		})
	}
}

func testLead(t *testing.T, broker stream.Broker) {
	const clients, rounds = 8, 2
	training := servertest.Name(t)
	config := newTraining(t, clients, rounds).config
	p := &publisher{registry: newRegistry(t), to: broker}
	config.Broker, config.Publisher = broker.(Broker), encoder{p}
	config.Models, config.Updates, config.Group = training+".models", training+".updates", training
	for topic, partitions := range map[string]int{config.Models: 1, config.Updates: 4, training + ".refused": 4} {
		if err := broker.Create(t.Context(), topic, partitions); err != nil {
			t.Fatal(err)
		}
	}
	send := func(m Model, clients ...string) {
		for _, c := range clients {
			payload := append([]byte{0, 0, 0, 0, 2}, encoded(t, 2, updateOf(c, m).value())...)
			if err := broker.Publish(t.Context(), stream.Record{Topic: config.Updates, Key: []byte(c), Value: payload}); err != nil {
				t.Fatal(err)
			}
		}
	}
	type process struct {
		*Aggregator
		kill context.CancelFunc
		ends chan error
		took chan int // how many updates it has counted
	}
	leads := make(chan *process, 10)
	start := func() *process {
		ctx, kill := context.WithCancel(t.Context())
		q := &process{open(t, config), kill, make(chan error, 1), make(chan int, 1000)}
		go func() {
			q.ends <- Lead(ctx, config.Broker, config.Models, config.Group, nil, func(ctx context.Context) error {
				leads <- q
				src, err := broker.Open(ctx, stream.Subscription{Topic: config.Updates, Group: config.Group, Owner: q.Aggregator})
				if err != nil {
					return err
				}
				hooks := consumers.Hooks{Settled: func(b consumers.Batch, _ time.Duration) { q.took <- len(b.Messages) }}
				return errors.Join(consumers.Run(ctx, src, q.Aggregator, consumers.Config{Group: config.Group, Registry: config.Registry, Hooks: hooks, DeadLetters: broker, DeadLetterTopic: training + ".refused"}), src.Close())
			})
		}()
		return q
	}
	first := start()
	if q := <-leads; q != first {
		t.Fatal("who is alone does not lead")
	}
	second := start()
	send(first.Model(), config.Clients[:5]...)
	for n := 0; n < 5; {
		select {
		case took := <-first.took:
			n += took
		case <-leads:
			t.Fatal("both lead")
		}
	}
	first.kill()
	if err := <-first.ends; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the first ends with %v", err)
	}
	if q := <-leads; q != second {
		t.Error("the second does not lead")
	}
	m := second.Model()
	send(m, config.Clients...)
	for m.Round == 0 {
		<-second.took
		m = second.Model()
	}
	send(m, config.Clients...)
	if err := <-second.ends; !errors.Is(err, ErrFinished) {
		t.Errorf("the second ends with %v", err)
	}
	if m := second.Model(); m.Round != rounds || len(m.Contributions) != clients {
		t.Errorf("round %d, of %d updates", m.Round, len(m.Contributions))
	}
}
