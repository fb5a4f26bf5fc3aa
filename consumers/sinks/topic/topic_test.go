package topic_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/consumers"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/topic"
	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/memory"
	"penstock/stream/nats"
)

func TestMain(m *testing.M) { sinktest.Main(m, open) }

// connect opens a broker by its address: kafka://… or nats://….
func connect(ctx context.Context, address string) (stream.Broker, error) {
	if seeds, ok := strings.CutPrefix(address, "kafka://"); ok {
		return kafka.Open(ctx, kafka.Config{Seeds: strings.Split(seeds, ",")})
	}
	return nats.Open(ctx, nats.Config{URL: address})
}

// ownBroker is a sink together with the broker that it alone uses.
type ownBroker struct {
	*topic.Sink
	broker stream.Broker
}

func (s ownBroker) Close() error { return errors.Join(s.Sink.Close(), s.broker.Close()) }

// open opens a sink at an address: that of the broker, # and the topic.
func open(ctx context.Context, address string) (sinktest.Sink, error) {
	url, name, _ := strings.Cut(address, "#")
	broker, err := connect(ctx, url)
	if err != nil {
		return nil, err
	}
	sink, err := topic.New(broker.(stream.Resumer), topic.Config{Topic: name, Pipeline: "p"})
	if err != nil {
		return nil, errors.Join(err, broker.Close())
	}
	return ownBroker{sink, broker}, nil
}

// target makes a topic, and returns its address and what it holds.
func target(t *testing.T, url string) (address string, rows sinktest.Rows) {
	t.Helper()
	broker, err := connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	name := servertest.Name(t)
	if err := broker.Create(t.Context(), name, 2); err != nil {
		t.Fatal(err)
	}
	return url + "#" + name, func(t testing.TB) []sinktest.Row {
		var rows []sinktest.Row
		for _, r := range read(t, broker, name) {
			row := sinktest.ReadRow(t, r.Value)
			source, _ := r.Header(topic.SourceHeader)
			if !strings.HasPrefix(string(source), "log/") {
				t.Errorf("a copy of %v says that it comes from %q", row, source)
			}
			rows = append(rows, row)
		}
		return rows
	}
}

// read returns all that a topic holds, each partition in its order.
func read(t testing.TB, broker stream.Broker, name string) []stream.Record {
	t.Helper()
	ranges, err := broker.Ranges(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	open := map[int32]int64{}
	for _, r := range ranges {
		if r.End > r.Start {
			open[r.Partition.Number] = r.End
		}
	}
	if len(open) == 0 {
		return nil
	}
	src, err := broker.Open(t.Context(), stream.Subscription{Topic: name, Group: fmt.Sprint("read-", time.Now().UnixNano()), Owner: fromStart{}})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var all []stream.Record
	for len(open) > 0 {
		records, ack, err := src.Fetch(t.Context(), 1000)
		if err == nil {
			err = ack(t.Context(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, records...)
		if last := records[len(records)-1]; last.Offset+1 >= open[last.Partition] {
			delete(open, last.Partition)
		}
	}
	return all
}

type fromStart struct{}

func (fromStart) Assigned(context.Context, []stream.Partition) (map[stream.Partition]int64, error) {
	return nil, nil
}
func (fromStart) Lost(context.Context, []stream.Partition) error { return nil }

// each runs a test on a broker in process and on a real one, of both kinds.
func each(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("kfake", func(t *testing.T) {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		test(t, "kafka://"+strings.Join(cluster.ListenAddrs(), ","))
	})
	t.Run("kafka", func(t *testing.T) { test(t, "kafka://"+servertest.Kafka(t)) })
	t.Run("nats", func(t *testing.T) { test(t, servertest.NATS(t)) })
}

func TestOnce(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		sinktest.Once(t, 3, open, func(t *testing.T) (string, sinktest.Rows) { return target(t, url) })
	})
}

func TestCrash(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		address, rows := target(t, url)
		sinktest.Crash(t, address, rows)
	})
}

func TestRebalance(t *testing.T) {
	broker := memory.New()
	defer broker.Close()
	address, rows := target(t, servertest.NATS(t))
	sinktest.Rebalance(t, open, address, rows, broker)
}

// lossy is a broker whose answers to commits get lost, before or after they took
// place.
type lossy struct {
	stream.Resumer
	lose string
	then func()
}

func (l *lossy) Resume(ctx context.Context, topic, input string) (stream.Transactor, stream.Position, error) {
	x, at, err := l.Resumer.Resume(ctx, topic, input)
	return lossyTransactor{x, l}, at, err
}

type lossyTransactor struct {
	stream.Transactor
	l *lossy
}

var errLost = errors.New("the line was cut")

func (x lossyTransactor) Commit(ctx context.Context, out []stream.Record, in stream.Position) error {
	lose := x.l.lose
	x.l.lose = ""
	if lose == "before" {
		return errLost
	}
	err := x.Transactor.Commit(ctx, out, in)
	if lose == "after" && err == nil {
		x.l.then()
		return errLost
	}
	return err
}

// The answer to a commit is lost, and asked for when the broker has long
// forgotten the message ids it knew then: nothing is doubled or missing.
func TestLostAnswer(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		address, rows := target(t, url)
		_, name, _ := strings.Cut(address, "#")
		broker, err := connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer broker.Close()
		l := &lossy{Resumer: broker.(stream.Resumer), then: func() {}}
		if strings.HasPrefix(url, "nats") {
			l.then = duplicateWindow(t, url)
		}
		sink, err := topic.New(l, topic.Config{Topic: name, Pipeline: "p"})
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		p := stream.Partition{Cluster: "c", Topic: "log", Incarnation: "i"}
		if _, err := sink.Assigned(t.Context(), []stream.Partition{p}); err != nil {
			t.Fatal(err)
		}
		at := int64(0)
		for _, l.lose = range []string{"", "after", "before", "after"} {
			n := int64(2*stream.MaxCommit + 10) // three commits
			b := consumers.Batch{Topic: "log", First: at, Next: at + n}
			for o := at; o < b.Next; o++ {
				b.Messages = append(b.Messages, sinktest.LogMessage(0, o))
			}
			if err := sink.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			at = b.Next
		}
		seen := map[sinktest.Row]int{}
		for _, r := range rows(t) {
			seen[r]++
		}
		for o := range at {
			if n := seen[sinktest.Row{0, o}]; n != 1 {
				t.Fatalf("record %d was copied %d times", o, n)
			}
		}
	})
}

// duplicateWindow returns a function that waits until a stream made before it
// has forgotten the ids of messages, which it does after 100 milliseconds.
func duplicateWindow(t *testing.T, url string) func() {
	t.Helper()
	nc, err := natsgo.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ReplaceAll(servertest.Name(t), "/", "-") + "-window"
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Duplicates: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	return func() {
		for {
			answer, err := js.Publish(t.Context(), name, nil, jetstream.WithMsgID("probe"))
			if err != nil {
				t.Fatal(err)
			}
			if !answer.Duplicate {
				return
			}
		}
	}
}

// Refused are what the target cannot hold, by their places in the batch, and a
// topic that is copied to itself.
func TestRefused(t *testing.T) {
	each(t, func(t *testing.T, url string) {
		address, rows := target(t, url)
		sink, err := open(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		_, name, _ := strings.Cut(address, "#")
		if _, err := sink.Assigned(t.Context(), []stream.Partition{{Topic: name}}); !errors.Is(err, consumers.ErrStop) {
			t.Errorf("a topic copied to itself: %v, want ErrStop", err)
		}
		p := stream.Partition{Cluster: "c", Topic: "log", Incarnation: "i"}
		if _, err := sink.Assigned(t.Context(), []stream.Partition{p}); err != nil {
			t.Fatal(err)
		}
		b := consumers.Batch{Topic: "log", Next: 3}
		for o := range int64(3) {
			b.Messages = append(b.Messages, sinktest.LogMessage(0, o))
		}
		b.Messages[1].Value = make([]byte, stream.MaxValueBytes+1)
		var refused *stream.BatchError
		if err := sink.Write(t.Context(), b); !errors.As(err, &refused) || len(refused.Errs) != 1 || refused.Errs[1] == nil {
			t.Fatalf("Write: %v, want a BatchError that names message 1", err)
		}
		b.Messages = append(b.Messages[:1], b.Messages[2])
		if err := sink.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		// Kafka says that a transaction is committed before those who read see it.
		got := rows(t)
		for deadline := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(deadline); got = rows(t) {
			runtime.Gosched()
		}
		if len(got) != 2 {
			t.Errorf("the topic holds %v, want the two others", got)
		}
		if err := sink.Lost(t.Context(), []stream.Partition{p}); err != nil {
			t.Fatal(err)
		}
		b.First, b.Next = 3, 4
		if err := sink.Write(t.Context(), b); !errors.Is(err, stream.ErrFenced) {
			t.Errorf("Write of a lost partition: %v, want ErrFenced", err)
		}
	})
}
