package kafka

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/registry"
)

func cluster(t *testing.T) []string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

func node(t *testing.T, seeds []string, url string) *Log {
	t.Helper()
	l, err := Open(t.Context(), Options{Seeds: seeds, URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func made(key string) registry.Event {
	return registry.Event{Time: time.UnixMilli(1_700_000_000_000), Key: []byte(key), Value: []byte("{}")}
}

func keysOf(t *testing.T, l *Log) (keys []string) {
	t.Helper()
	if err := l.Replay(t.Context(), 0, func(e registry.Event) error {
		keys = append(keys, string(e.Key))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

// appended appends as soon as the node is elected.
func appended(t *testing.T, l *Log, prev uint64, key string) uint64 {
	t.Helper()
	end, err := l.Append(t.Context(), prev, made(key))
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// A writer that another one has fenced, and that knows nothing of it, stores
// nothing after what it has not read.
func TestFence(t *testing.T) {
	seeds := cluster(t)
	sleeper := node(t, seeds, "http://a:1")
	first := appended(t, sleeper, 0, "a")

	// The other one takes over behind the group's back, as it does when the
	// group has given the sleeper up.
	other := node(t, seeds, "http://b:1")
	term, err := other.newTerm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer term.producer.Close()
	second, err := other.appendIn(t.Context(), term, first, []*kgo.Record{{Topic: DefaultTopic, Key: []byte("b"), Value: []byte("{}")}})
	if err != nil {
		t.Fatal(err)
	}

	if _, err := sleeper.Append(t.Context(), first, made("lost update")); !errors.Is(err, registry.ErrConflict) && !errors.As(err, new(*registry.NotWriterError)) {
		t.Errorf("append of a writer that was fenced: got %v, want ErrConflict or that it is not the writer", err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, keysOf(t, sleeper)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	// The group has not changed its mind, so the sleeper is the writer again.
	appended(t, sleeper, second, "c")
	if _, err := other.appendIn(t.Context(), term, second, []*kgo.Record{{Topic: DefaultTopic, Key: []byte("lost update"), Value: []byte("{}")}}); !errors.Is(err, errFenced) {
		t.Errorf("append of the other one, which is fenced in turn: %v, want errFenced", err)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, keysOf(t, other)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

// An append whose fate is unknown ends the term: the next one reads to the end
// first, and so conflicts if the last one was stored.
func TestUnknownFate(t *testing.T) {
	l := node(t, cluster(t), "http://a:1")
	first := appended(t, l, 0, "a")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ended, first, made("b")); !errors.Is(err, context.Canceled) {
		t.Errorf("append under an ended context: %v, want context.Canceled", err)
	}
	term, err := l.writing(t.Context()) // a new one
	if err != nil {
		t.Fatal(err)
	}
	// It was stored, but the answer got lost: so it looks to this node.
	second, err := l.appendIn(t.Context(), term, first, []*kgo.Record{{Topic: DefaultTopic, Key: []byte("c"), Value: []byte("{}")}})
	if err != nil {
		t.Fatal(err)
	}
	l.retire(term)
	l.release(term)
	if _, err := l.Append(t.Context(), first, made("doubled")); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("append after what may not have been stored: %v, want ErrConflict", err)
	}
	appended(t, l, second, "d")
	if diff := cmp.Diff([]string{"a", "c", "d"}, keysOf(t, l)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

// What others wrote without transactions, and what was never committed.
func TestForeignRecords(t *testing.T) {
	seeds := cluster(t)
	l := node(t, seeds, "http://a:1")
	produce := func(key string, transaction kgo.TransactionEndTry, id string) {
		t.Helper()
		opts := []kgo.Opt{kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic(DefaultTopic)}
		if id != "" {
			opts = append(opts, kgo.TransactionalID(id))
		}
		c, err := kgo.NewClient(opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if id != "" {
			if err := c.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.ProduceSync(t.Context(), &kgo.Record{Key: []byte(key), Value: []byte("{}")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if id != "" {
			if err := c.EndTransaction(t.Context(), transaction); err != nil {
				t.Fatal(err)
			}
		}
	}
	produce("plain", false, "")
	produce("aborted", kgo.TryAbort, "other")
	produce("committed", kgo.TryCommit, "other")
	produce("aborted", kgo.TryAbort, "other")
	if diff := cmp.Diff([]string{"plain", "committed"}, keysOf(t, l)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	appended(t, l, 4, "ours") // plain 0, aborted 1 and 2, committed 3
	if diff := cmp.Diff([]string{"plain", "committed", "ours"}, keysOf(t, l)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

func TestOpenRefuses(t *testing.T) {
	seeds := cluster(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	compact, remove := "compact", "delete"
	for _, tt := range []struct {
		topic      string
		partitions int32
		policy     *string
		url        string
		want       string
	}{
		{"many", 3, &compact, "http://a:1", "it has 3 partitions"},
		{"deleting", 1, &remove, "http://a:1", "set it to compact"},
		{"fine", 1, &compact, "a:1", "want http://host:port"},
	} {
		if _, err := admin.CreateTopic(t.Context(), tt.partitions, 1, map[string]*string{"cleanup.policy": tt.policy}, tt.topic); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), Options{Seeds: seeds, Topic: tt.topic, URL: tt.url})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("topic %s, URL %s: got %v, want it to say %q", tt.topic, tt.url, err, tt.want)
		}
	}
	if _, err := Open(t.Context(), Options{Seeds: seeds, Topic: "many", URL: "http://a:1"}); !errors.Is(err, ErrUnfit) {
		t.Errorf("got %v, want ErrUnfit", err)
	}
	if _, err := Open(t.Context(), Options{URL: "http://a:1"}); err == nil {
		t.Error("no brokers: opened")
	}
}

// A topic that was made anew has other records at the same positions.
func TestTopicMadeAnew(t *testing.T) {
	seeds := cluster(t)
	l := node(t, seeds, "http://a:1")
	end := appended(t, l, 0, "a")
	if _, err := l.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.admin.DeleteTopic(t.Context(), DefaultTopic); err != nil {
		t.Fatal(err)
	}
	if err := l.create(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.End(t.Context()); !errors.Is(err, ErrTruncated) {
		t.Errorf("end of a topic that was made anew: %v, want ErrTruncated", err)
	}
	if _, err := l.Append(t.Context(), end, made("b")); err == nil {
		t.Error("append to a topic that was made anew: stored")
	}
}

func TestTooLarge(t *testing.T) {
	l := node(t, cluster(t), "http://a:1")
	e := made("large")
	e.Value = make([]byte, maxRecordBytes)
	if _, err := l.Append(t.Context(), 0, e); !errors.Is(err, registry.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	appended(t, l, 0, "small")
}
