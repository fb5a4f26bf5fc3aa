package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/servertest"
	"penstock/stream"
)

func create(t testing.TB, b *Broker, topic string, partitions int) {
	t.Helper()
	if err := b.Create(t.Context(), topic, partitions); err != nil {
		t.Fatal(err)
	}
}

// One connection's stream of three subjects is a topic of one partition.
func TestForeignStream(t *testing.T) {
	b := openDir(t, t.TempDir())
	_, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "their%2Eorders", Subjects: []string{"orders.>"}})
	if err != nil {
		t.Fatal(err)
	}
	const topic = "their.orders"
	for i := range 6 {
		m := &nats.Msg{Subject: fmt.Sprintf("orders.%d", i%3), Data: fmt.Append(nil, i), Header: nats.Header{"source": {"theirs"}}}
		if _, err := b.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	ranges, err := b.Ranges(t.Context(), topic)
	if err != nil || len(ranges) != 1 || ranges[0].Start != 1 || ranges[0].End != 7 || ranges[0].Records != 6 {
		t.Errorf("ranges %+v, %v", ranges, err)
	}
	for _, o := range []stream.Owner{nil, oldest{}} {
		got := read(t, open(t, b, stream.Subscription{Topic: topic, Group: "g", Owner: o}), 6)
		for i, r := range got {
			want := stream.Record{Topic: topic, Value: fmt.Append(nil, i), Offset: int64(i + 1), Time: r.Time,
				Headers: []stream.Header{{Key: "source", Value: []byte("theirs")}}}
			if diff := cmp.Diff(want, r); diff != "" {
				t.Errorf("record %d (-want +got):\n%s", i, diff)
			}
		}
	}
	// Which of its subjects would that be?
	err = b.Publish(t.Context(), stream.Record{Topic: topic, Value: []byte("x")})
	if err == nil || !strings.Contains(err.Error(), "no single subject to publish to") {
		t.Errorf("publish: %v", err)
	}
}

// A stream that takes no atomic batches is published to all the same, and what
// it refuses is named record by record.
func TestPublishOneByOne(t *testing.T) {
	b := openDir(t, t.TempDir())
	_, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "plain", Subjects: []string{"plain"}, MaxMsgs: 50, Discard: jetstream.DiscardNew})
	if err != nil {
		t.Fatal(err)
	}
	records := make([]stream.Record, 60)
	for i := range records {
		records[i] = stream.Record{Topic: "plain", Key: []byte("k"), Value: fmt.Append(nil, i)}
	}
	err = b.Publish(t.Context(), records...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) {
		t.Fatalf("publish: %v, want a *stream.BatchError", err)
	}
	for i := range records {
		if refused := failed.Errs[i] != nil; refused != (i >= 50) {
			t.Errorf("record %d: %v", i, failed.Errs[i])
		}
	}
	if !strings.Contains(err.Error(), "maximum messages exceeded") {
		t.Errorf("the error does not say why: %v", err)
	}
	for i, r := range read(t, open(t, b, stream.Subscription{Topic: "plain", Group: "g"}), 50) {
		if string(r.Value) != fmt.Sprint(i) {
			t.Errorf("record %d has value %s", i, r.Value)
		}
	}
}

// Many records go in few atomic batches, in their order.
func TestPublishBatches(t *testing.T) {
	b := openDir(t, t.TempDir())
	create(t, b, "t", 1)
	records := make([]stream.Record, 2500)
	for i := range records {
		records[i] = stream.Record{Topic: "t", Value: fmt.Append(nil, i)}
	}
	if err := b.Publish(t.Context(), records...); err != nil {
		t.Fatal(err)
	}
	for i, r := range read(t, open(t, b, stream.Subscription{Topic: "t", Group: "g"}), len(records)) {
		if string(r.Value) != fmt.Sprint(i) {
			t.Fatalf("record %d has value %s", i, r.Value)
		}
	}
	// Concurrent calls of one record share batches, too.
	var calls sync.WaitGroup
	for range 500 {
		calls.Go(func() {
			if err := b.Publish(t.Context(), stream.Record{Topic: "t", Value: []byte("single")}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	batches := map[string]int{}
	s, err := b.js.Stream(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(3000) {
		m, err := s.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		batches[m.Header.Get(batchIDHeader)]++
	}
	single := batches[""]
	delete(batches, "")
	if n := len(batches); n < 3 || n > 100 || single > 250 {
		t.Errorf("3000 records went in %d batches and %d one by one", n, single)
	}
}

// A part of a batch that the server refuses fails whole, and what comes after
// it in the call is not sent.
func TestPublishRefusedBatch(t *testing.T) {
	b := openDir(t, t.TempDir())
	create(t, b, "t", 1)
	s, err := b.js.Stream(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.MaxMsgs, config.Discard = 1500, jetstream.DiscardNew
	if _, err := b.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	records := make([]stream.Record, 2500)
	for i := range records {
		records[i] = stream.Record{Topic: "t", Value: []byte("x")}
	}
	err = b.Publish(t.Context(), records...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) || len(failed.Errs) != 1500 || failed.Errs[999] != nil || failed.Errs[1000] == nil {
		t.Fatalf("publish: %v, want the last 1500 of 2500 records refused", err)
	}
	if got := failed.Errs[2400].Error(); !strings.HasPrefix(got, "not sent") {
		t.Errorf("record 2400: %s", got)
	}
	ranges, err := b.Ranges(t.Context(), "t")
	if err != nil || ranges[0].Records != 1000 {
		t.Errorf("ranges %+v, %v, want 1000 records", ranges, err)
	}
}

// A record with too large a key does not take others with it.
func TestPublishLargeKey(t *testing.T) {
	b := openDir(t, t.TempDir())
	create(t, b, "t", 1)
	records := make([]stream.Record, 40)
	for i := range records {
		records[i] = stream.Record{Topic: "t", Key: make([]byte, 48_000)}
	}
	records[7].Key = make([]byte, 49_100)
	err := b.Publish(t.Context(), records...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) || len(failed.Errs) != 1 || !errors.Is(failed.Errs[7], stream.ErrTooLarge) {
		t.Errorf("publish: %v, want ErrTooLarge for record 7 alone", err)
	}
	read(t, open(t, b, stream.Subscription{Topic: "t", Group: "g"}), 39)
}

func TestUnreachable(t *testing.T) {
	// A port that nobody listens on, and one that nobody answers on.
	closed, err := servertest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, a := range []string{fmt.Sprintf("127.0.0.1:%d", closed[0]), silent.Addr().String()} {
		if b, err := Open(t.Context(), Config{URL: "nats://" + a}); !errors.Is(err, stream.ErrUnreachable) {
			t.Errorf("open: %v, want ErrUnreachable", err)
			if err == nil {
				b.Close()
			}
		}
	}
	_, err = Open(t.Context(), Config{URL: "nats://user:secret@127.0.0.1:port"})
	if err == nil || strings.Contains(err.Error(), "secret") || errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("open a URL that is none: %v", err)
	}
	if _, err := Open(t.Context(), Config{URL: "nats://127.0.0.1", Options: Options{Failover: time.Millisecond}}); err == nil {
		t.Error("opened with a failover of 1ms")
	}
}

// proxy passes a connection on, until it is told to lose the answers.
type proxy struct {
	net.Listener
	lose atomic.Bool
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				return
			}
			serving.Go(func() { io.Copy(server, client); server.Close() })
			serving.Go(func() {
				defer client.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := server.Read(buf)
					if err != nil {
						return
					}
					if p.lose.Load() && bytes.Contains(buf[:n], []byte(`"stream":"t"`)) {
						return // the answer to a Publish
					}
					if _, err := client.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return p
}

// If the answer is lost, nobody knows whether the records were written, the
// error says so, and they are not sent again.
func TestLostAnswer(t *testing.T) {
	dir := t.TempDir()
	owner := openDir(t, dir)
	create(t, owner, "t", 1)
	file, err := ReadServerFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, strings.TrimPrefix(file.URL, "nats://"))
	b, err := Open(t.Context(), Config{URL: "nats://" + p.Addr().String(), Token: file.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	want := int64(0)
	for _, n := range []int{1, 40} {
		records := make([]stream.Record, n)
		for i := range records {
			records[i] = stream.Record{Topic: "t", Value: []byte("x")}
		}
		if err := b.Publish(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
		p.lose.Store(true)
		err := b.Publish(t.Context(), records...)
		p.lose.Store(false)
		var failed *stream.BatchError
		if !errors.Is(err, stream.ErrUnreachable) || errors.As(err, &failed) || !strings.Contains(fmt.Sprint(err), "may or may not have been written") {
			t.Errorf("publish %d records: %v, want ErrUnreachable and that nobody knows", n, err)
		}
		// The connection comes back by itself, and nothing was sent twice.
		if err := b.Publish(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
		want += 3 * int64(n)
		ranges, err := owner.Ranges(t.Context(), "t")
		if err != nil || ranges[0].Records != want {
			t.Errorf("the topic holds %+v, %v, want %d records", ranges, err, want)
		}
	}
}

// consumer makes the consumer of partition 0 before a source does.
func consumer(t *testing.T, b *Broker, change func(*jetstream.ConsumerConfig)) {
	t.Helper()
	config := jetstream.ConsumerConfig{
		Durable: "g-0", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: -1,
		FilterSubject: "t.0", AckWait: 30 * time.Second, PinnedTTL: failover,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{priorityGroup},
	}
	change(&config)
	if _, err := b.js.CreateConsumer(t.Context(), "t", config); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	f := func(what string, change func(*jetstream.ConsumerConfig), want string) {
		t.Run(what, func(t *testing.T) {
			b := openDir(t, t.TempDir())
			create(t, b, "t", 1)
			consumer(t, b, change)
			src, err := b.Open(t.Context(), stream.Subscription{Topic: "t", Group: "g", HoldFor: 20 * time.Second})
			if err == nil {
				src.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q, want %q", err, want)
			}
		})
	}
	f("ack wait", func(c *jetstream.ConsumerConfig) { c.AckWait = 10 * time.Second },
		"delivers again after 10s, but batches are held for up to 20s")
	f("another's", func(c *jetstream.ConsumerConfig) { c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL = 0, nil, 0 },
		"was not made by Penstock")
	f("deliveries", func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 5 }, "was not made by Penstock")
}

// While a batch is held, the server is told so, before its ack wait is over.
func TestHeld(t *testing.T) {
	b := openDir(t, t.TempDir())
	create(t, b, "t", 1)
	consumer(t, b, func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second })
	if err := b.Publish(t.Context(), stream.Record{Topic: "t"}, stream.Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	progress := make(chan *nats.Msg, 100)
	if _, err := b.nc.ChanSubscribe("$JS.ACK.t.g-0.>", progress); err != nil {
		t.Fatal(err)
	}
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g", HoldFor: time.Second})
	records, ack, err := src.Fetch(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	// Both the batch and what was read ahead, twice.
	told := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for len(told) < 2 || told["1"] < 2 {
		select {
		case m := <-progress:
			if string(m.Data) != "+WPI" {
				t.Fatalf("the server was told %s", m.Data)
			}
			told[strings.Split(m.Subject, ".")[5]]++
		case <-ctx.Done():
			t.Fatalf("the server was told %v", told)
		}
	}
	if err := ack(t.Context(), nil); err != nil || len(records) != 1 {
		t.Errorf("settle %d records: %v", len(records), err)
	}
}

// An Owner's source ends, too, when its topic is made again.
func TestOwnerTopicChanged(t *testing.T) {
	b := openDir(t, t.TempDir())
	create(t, b, "t", 1)
	if err := b.Publish(t.Context(), stream.Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g", Owner: oldest{}})
	read(t, src, 1)
	if err := b.js.DeleteStream(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := src.Fetch(t.Context(), 1); !errors.Is(err, stream.ErrNoTopic) {
		t.Errorf("the topic is gone: %v, want ErrNoTopic", err)
	}
	create(t, b, "t", 1)
	if err := b.Publish(t.Context(), stream.Record{Topic: "t", Value: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	for {
		_, _, err := src.Fetch(t.Context(), 1)
		if errors.Is(err, stream.ErrNoTopic) {
			continue
		}
		if !errors.Is(err, stream.ErrTopicChanged) {
			t.Errorf("the topic was made again: %v, want ErrTopicChanged", err)
		}
		return
	}
}

// A source whose consumer is deleted under it ends, since its group has no
// position any more.
func TestConsumerDeleted(t *testing.T) {
	b := openDir(t, t.TempDir())
	create(t, b, "t", 1)
	if err := b.Publish(t.Context(), stream.Record{Topic: "t"}); err != nil {
		t.Fatal(err)
	}
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g"})
	read(t, src, 1)
	if err := b.js.DeleteConsumer(t.Context(), "t", "g-0"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := src.Fetch(t.Context(), 1); err == nil || !strings.Contains(err.Error(), `consumer "g-0" keeps the position of group "g": it was deleted`) {
		t.Errorf("fetch: %v", err)
	}
}

// Two sources of a group come to share its partitions evenly.
func TestShare(t *testing.T) {
	t.Parallel()
	b := openDir(t, t.TempDir())
	create(t, b, "t", 4)
	publish := func() {
		var records []stream.Record
		for i := range 40 {
			records = append(records, stream.Record{Topic: "t", Key: fmt.Append(nil, i)})
		}
		if err := b.Publish(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	first := open(t, b, stream.Subscription{Topic: "t", Group: "g"})
	read(t, first, 40)
	if n := holds(first); n != 4 {
		t.Fatalf("the only member holds %d partitions, want 4", n)
	}
	second := open(t, b, stream.Subscription{Topic: "t", Group: "g"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for holds(first) != 2 || holds(second) != 2 {
		// Who waits is given a partition when a record comes.
		publish()
		for _, src := range []stream.SourceCloser{first, second} {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			_, ack, err := src.Fetch(ctx, 100)
			if err == nil {
				err = ack(ctx, nil)
			}
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, stream.ErrFenced) {
				t.Fatal(err)
			}
		}
		if ctx.Err() != nil {
			t.Fatalf("the members hold %d and %d partitions, want 2 and 2", holds(first), holds(second))
		}
	}
}

// holds counts the partitions of a source.
func holds(src stream.SourceCloser) int {
	s := src.(*source)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.parts {
		if p.leased() {
			n++
		}
	}
	return n
}

func TestAtLeast(t *testing.T) {
	f := func(version string, want bool) {
		t.Helper()
		if got := atLeast(version, 2, 14); got != want {
			t.Errorf("%q is at least 2.14: %v, want %v", version, got, want)
		}
	}
	f("2.14.0", true)
	f("2.15.2", true)
	f("3.0.0", true)
	f("2.14.0-RC.1", true)
	f("2.9.20", false)
	f("1.99.0", false)
	f("", false)
	f("dev", false)
}
