package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"penstock/stream"
)

// fixture is a cluster of one fake broker, a connection to it, and a deadline.
type fixture struct {
	*testing.T
	cluster *kfake.Cluster
	b       *Broker
	ctx     context.Context
	log     logBuffer
}

// logBuffer is what was logged, for whoever asks meanwhile.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newFixture(t *testing.T, partitions int32, topics ...string) *fixture {
	t.Helper()
	return newCluster(t, 1, time.Second, partitions, topics...)
}

// newCluster is a fixture of so many brokers, and of a patience for them.
func newCluster(t *testing.T, brokers int, patience time.Duration, partitions int32, topics ...string) *fixture {
	t.Helper()
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(brokers), kfake.SeedTopics(partitions, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	f := &fixture{T: t, cluster: cluster, ctx: ctx}
	f.b, err = Open(ctx, Config{Seeds: cluster.ListenAddrs(), Timeout: patience, Logger: slog.New(slog.NewTextHandler(&f.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.b.Close() })
	return f
}

// publish writes records with the given values, without keys.
func (f *fixture) publish(topic string, values ...string) {
	f.Helper()
	var records []stream.Record
	for _, v := range values {
		records = append(records, stream.Record{Topic: topic, Value: []byte(v)})
	}
	if err := f.b.Publish(f.ctx, records...); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) open(sub stream.Subscription) stream.SourceCloser {
	f.Helper()
	src, err := f.b.Open(f.ctx, sub)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { src.Close() })
	return src
}

// take fetches and acknowledges n records, and returns their values.
func (f *fixture) take(src stream.Source, n int) []string {
	f.Helper()
	var values []string
	for len(values) < n {
		records, ack, err := src.Fetch(f.ctx, n-len(values))
		if err != nil {
			f.Fatal(err)
		}
		for _, r := range records {
			values = append(values, string(r.Value))
		}
		if err := ack(f.ctx, nil); err != nil {
			f.Fatal(err)
		}
	}
	return values
}

func (f *fixture) committed(group, topic string) int64 {
	f.Helper()
	resp, err := f.b.admin.FetchOffsets(f.ctx, group)
	if err != nil {
		f.Fatal(err)
	}
	o, ok := resp.Lookup(topic, 0)
	if !ok {
		return -1
	}
	return o.At
}

// While partitions change their leaders again and again, no record that was
// acknowledged is lost or doubled, and those of a key keep their order.
func TestLeadersMove(t *testing.T) {
	const batches, keys, each = 30, 10, 5
	f := newCluster(t, 3, 15*time.Second, 4, "t")
	moving, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(moving)
		for {
			select {
			case <-stop:
				return
			default:
				f.cluster.ShufflePartitionLeaders()
			}
		}
	}()
	for i := range batches {
		var records []stream.Record
		for j := range keys * each {
			records = append(records, stream.Record{Topic: "t", Key: []byte{byte(j % keys)}, Value: fmt.Appendf(nil, "%d %d", j%keys, i*each+j/keys)})
		}
		if err := f.b.Publish(f.ctx, records...); err != nil {
			f.Fatal(err)
		}
	}
	close(stop)
	<-moving
	var next [keys]int
	for _, v := range f.take(f.open(stream.Subscription{Topic: "t", Group: "g"}), batches*keys*each) {
		var key, n int
		if _, err := fmt.Sscan(v, &key, &n); err != nil || n != next[key] {
			f.Fatalf("read %q, want number %d of the key", v, next[key])
		}
		next[key]++
	}
	ranges, err := f.b.Ranges(f.ctx, "t")
	if err != nil {
		f.Fatal(err)
	}
	var there int64
	for _, r := range ranges {
		there += r.End - r.Start
	}
	if there != batches*keys*each {
		f.Errorf("the topic holds %d records, want %d", there, batches*keys*each)
	}
}

func TestUnreachable(t *testing.T) {
	f := newFixture(t, 1, "t")
	f.publish("t", "a")
	seeds := f.cluster.ListenAddrs()
	f.cluster.Close()

	if _, err := Open(f.ctx, Config{Seeds: seeds, Timeout: time.Second}); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("open: %v, want ErrUnreachable", err)
	}
	if err := f.b.Publish(f.ctx, stream.Record{Topic: "t"}); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("publish to a known topic: %v, want ErrUnreachable", err)
	}
	if err := f.b.Publish(f.ctx, stream.Record{Topic: "new"}); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("publish to another topic: %v, want ErrUnreachable", err)
	}
	if _, err := f.b.Ranges(f.ctx, "t"); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("ranges: %v, want ErrUnreachable", err)
	}
	if err := f.b.Create(f.ctx, "new", 1); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("create: %v, want ErrUnreachable", err)
	}
	if _, err := f.b.Open(f.ctx, stream.Subscription{Topic: "t", Group: "g"}); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("open a source: %v, want ErrUnreachable", err)
	}
}

// The limit of a topic holds besides that of the client: what exceeds it is
// refused by name, and batches of smaller records are cut to it.
func TestTopicLimit(t *testing.T) {
	f := newFixture(t, 1)
	if err := f.cluster.CreateTopic("small", 1, map[string]string{"max.message.bytes": "2000"}); err != nil {
		t.Fatal(err)
	}
	records := make([]stream.Record, 500)
	for i := range records {
		records[i] = stream.Record{Topic: "small", Key: []byte("k"), Value: bytes.Repeat([]byte{byte(i)}, 100)}
	}
	records[250].Value = make([]byte, 3000)
	err := f.b.Publish(f.ctx, records...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) || len(failed.Errs) != 1 || !errors.Is(failed.Errs[250], stream.ErrTooLarge) {
		t.Fatalf("publish: %v, want ErrTooLarge for record 250 alone", err)
	}
	for _, part := range []string{`"small"`, "2000", "3001"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
	if got := f.take(f.open(stream.Subscription{Topic: "small", Group: "g"}), 499); len(got) != 499 {
		t.Errorf("got %d records, want 499", len(got))
	}
}

// refuse answers commits with code as long as it is not zero. The channel says
// that it did.
func (f *fixture) refuse(code *atomic.Int32) <-chan struct{} {
	refused := make(chan struct{}, 1)
	f.cluster.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.cluster.KeepControl()
		if code.Load() == 0 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range req.(*kmsg.OffsetCommitRequest).Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, int16(code.Load())
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		select {
		case refused <- struct{}{}:
		default:
		}
		return resp, nil, true
	})
	return refused
}

// A commit that fails is tried again, and Close does not return before it is
// stored, or says that it was not.
func TestCommitFails(t *testing.T) {
	f := newFixture(t, 1, "t")
	var code atomic.Int32
	refused := f.refuse(&code)
	f.publish("t", "0", "1", "2", "3")

	src := f.open(stream.Subscription{Topic: "t", Group: "g"})
	code.Store(int32(kerr.RebalanceInProgress.Code))
	f.take(src, 2)
	closed := make(chan error)
	go func() { closed <- src.Close() }()
	for range 4 {
		select {
		case <-refused:
		case <-f.ctx.Done():
			t.Fatal("commits that were refused are not tried again")
		}
	}
	code.Store(0)
	if err := <-closed; err != nil {
		t.Errorf("close after commits were accepted again: %v", err)
	}
	if got := f.committed("g", "t"); got != 2 {
		t.Errorf("the group is at %d, want 2", got)
	}

	src = f.open(stream.Subscription{Topic: "t", Group: "g"})
	code.Store(int32(kerr.GroupAuthorizationFailed.Code))
	f.take(src, 2)
	if err := src.Close(); !errors.Is(err, kerr.GroupAuthorizationFailed) {
		t.Errorf("close: %v, want GROUP_AUTHORIZATION_FAILED", err)
	}
	if got := f.committed("g", "t"); got != 2 {
		t.Errorf("the group is at %d, want 2", got)
	}
	if !strings.Contains(f.log.String(), "GROUP_AUTHORIZATION_FAILED") {
		t.Errorf("the log says nothing of it:\n%s", f.log.String())
	}
}

// What a transaction wrote is read once it has committed, and never if it was
// aborted; its markers leave no trace but gaps between offsets.
func TestTransactions(t *testing.T) {
	f := newFixture(t, 1, "t")
	tx, err := kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...), kgo.TransactionalID("tx"), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	transact := func(end kgo.TransactionEndTry, values ...string) {
		t.Helper()
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if err := tx.ProduceSync(f.ctx, kgo.StringRecord(v)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.EndTransaction(f.ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	f.publish("t", "a")
	transact(kgo.TryCommit, "b", "c")
	transact(kgo.TryAbort, "never")
	f.publish("t", "d")
	transact(kgo.TryCommit, "e")

	src := f.open(stream.Subscription{Topic: "t", Group: "g"})
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e"}, f.take(src, 5)); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	f.publish("t", "f")
	if got := f.take(f.open(stream.Subscription{Topic: "t", Group: "g"}), 1); got[0] != "f" {
		t.Errorf("after reopening got %q, want %q", got[0], "f")
	}
}

// A source whose topic is gone for good says so.
func TestDeletedTopic(t *testing.T) {
	f := newFixture(t, 1, "t")
	f.publish("t", "a")
	src := f.open(stream.Subscription{Topic: "t", Group: "g"})
	f.take(src, 1)
	if err := f.cluster.DeleteTopic("t"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := src.Fetch(f.ctx, 1); !errors.Is(err, stream.ErrNoTopic) {
		t.Errorf("fetch: %v, want ErrNoTopic", err)
	}
	if err := f.b.Publish(f.ctx, stream.Record{Topic: "t"}); !errors.Is(err, stream.ErrNoTopic) {
		t.Errorf("publish: %v, want ErrNoTopic", err)
	}
}

// A topic that is made again is there when the broker knows it, not while it knows
// the one before.
func TestCreateAgain(t *testing.T) {
	f := newFixture(t, 1)
	host, port, err := net.SplitHostPort(f.cluster.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	f.cluster.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.cluster.KeepControl()
		topics := req.(*kmsg.MetadataRequest).Topics
		if len(topics) != 1 || topics[0].Topic == nil || *topics[0].Topic != "t" || asked.Add(1) > 1 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		broker, topic, partition := kmsg.NewMetadataResponseBroker(), kmsg.NewMetadataResponseTopic(), kmsg.NewMetadataResponseTopicPartition()
		broker.Host = host
		number, err := strconv.ParseInt(port, 10, 32)
		broker.Port = int32(number)
		topic.Topic, topic.TopicID = topics[0].Topic, [16]byte{1} // of the one before
		topic.Partitions = append(topic.Partitions, partition)
		resp.Brokers, resp.Topics = append(resp.Brokers, broker), append(resp.Topics, topic)
		return resp, err, true
	})
	if err := f.b.Create(f.ctx, "t", 1); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n < 2 {
		t.Errorf("Create asked %d times whether the topic is there, want at least 2", n)
	}
}

type fixedOwner int64

func (o fixedOwner) Assigned(_ context.Context, ps []stream.Partition) (map[stream.Partition]int64, error) {
	return map[stream.Partition]int64{ps[0]: int64(o)}, nil
}

func (fixedOwner) Lost(context.Context, []stream.Partition) error { return nil }

// Records that were deleted before they were read: a group goes on with the
// oldest that is left, an Owner is told.
func TestDeletedRecords(t *testing.T) {
	f := newFixture(t, 1, "t")
	f.publish("t", "0", "1", "2", "3", "4", "5")
	src := f.open(stream.Subscription{Topic: "t", Group: "g"})
	f.take(src, 2)
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.cluster.DeleteRecords("t", 0, 4); err != nil {
		t.Fatal(err)
	}
	ranges, err := f.b.Ranges(f.ctx, "t")
	if err != nil || ranges[0].Start != 4 || ranges[0].End != 6 || ranges[0].Records != 2 {
		t.Errorf("ranges: %+v, %v; want 4 to 6", ranges, err)
	}
	if got := f.take(f.open(stream.Subscription{Topic: "t", Group: "g"}), 1); got[0] != "4" {
		t.Errorf("the group goes on with %q, want %q", got[0], "4")
	}
	_, _, err = f.open(stream.Subscription{Topic: "t", Group: "owned", Owner: fixedOwner(2)}).Fetch(f.ctx, 10)
	if !errors.Is(err, stream.ErrPosition) {
		t.Errorf("fetch at a deleted record: %v, want ErrPosition", err)
	}
}

// A caller that settles nothing gets no more than so much, and goes on when it
// settles.
func TestHeldBatchesAreBounded(t *testing.T) {
	f := newFixture(t, 1, "t")
	values := make([]string, maxHeldBatches+1)
	for i := range values {
		values[i] = fmt.Sprint(i)
	}
	f.publish("t", values...)
	src := f.open(stream.Subscription{Topic: "t", Group: "g", Retry: time.Millisecond})
	var acks []stream.AckFunc
	for range maxHeldBatches {
		_, ack, err := src.Fetch(f.ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, ack)
	}
	type result struct {
		value string
		err   error
	}
	results := make(chan result)
	fetch := func() {
		records, _, err := src.Fetch(f.ctx, 1)
		if err != nil {
			results <- result{err: err}
			return
		}
		results <- result{value: string(records[0].Value)}
	}
	// A nacked record is room for itself alone.
	go fetch()
	if err := acks[7](f.ctx, errors.New("not now")); err != nil {
		t.Fatal(err)
	}
	if r := <-results; r.err != nil || r.value != "7" {
		t.Errorf("after a nack got %q, %v; want record 7", r.value, r.err)
	}
	go fetch()
	if err := acks[0](f.ctx, nil); err != nil {
		t.Fatal(err)
	}
	if r := <-results; r.err != nil || r.value != values[maxHeldBatches] {
		t.Errorf("after an ack got %q, %v; want record %s", r.value, r.err, values[maxHeldBatches])
	}
}

// What is nacked comes again in pieces if Fetch asks for less.
func TestRetryInPieces(t *testing.T) {
	f := newFixture(t, 1, "t")
	f.publish("t", "0", "1", "2", "3", "4", "5", "6")
	src := f.open(stream.Subscription{Topic: "t", Group: "g", Retry: time.Millisecond})
	records, ack, err := src.Fetch(f.ctx, 7)
	if err != nil || len(records) != 7 {
		t.Fatalf("fetched %d records, %v; want 7", len(records), err)
	}
	if err := ack(f.ctx, errors.New("not now")); err != nil {
		t.Fatal(err)
	}
	first, hold, err := src.Fetch(f.ctx, 3)
	if err != nil || len(first) != 3 || string(first[0].Value) != "0" {
		t.Fatalf("fetched %v, %v; want 0 to 2", first, err)
	}
	if diff := cmp.Diff([]string{"3", "4", "5", "6"}, f.take(src, 4)); diff != "" {
		t.Errorf("the rest (-want +got):\n%s", diff)
	}
	one := &stream.BatchError{}
	one.Fail(1, errors.New("not now"))
	if err := hold(f.ctx, one); err != nil {
		t.Fatal(err)
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	if got := f.committed("g", "t"); got != 1 {
		t.Errorf("the group is at %d, want 1", got)
	}
}
