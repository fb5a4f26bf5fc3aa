package streamtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/stream"
)

// What a record holds arrives as it was published.
func (s *suite) roundTrip() {
	topic := s.topic(1)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	at := time.Date(2024, 2, 29, 23, 59, 59, 123_000_000, time.UTC)
	header := func(kv ...string) (hs []stream.Header) {
		for i := 0; i < len(kv); i += 2 {
			hs = append(hs, stream.Header{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return hs
	}
	records := []stream.Record{
		{Key: []byte("plain"), Value: []byte("text")},
		{Key: every, Value: every},
		{Key: nil, Value: []byte("no key")},
		{Key: []byte{}, Value: []byte("an empty key")},
		{Key: []byte("tombstone"), Value: nil},
		{Key: []byte("empty"), Value: []byte{}},
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("a"), Value: []byte("b"), Headers: header("plain", "text", "Plain", "other case", "plain", "again", "other", "", "plain", "text")},
		{Value: []byte("headers of bytes"), Headers: header("all", string(every), "zero", "\x00", "nl", "a\r\nb", "sp", "  a b  ", "utf8", "Zürich ☂")},
		{Value: []byte("names of bytes"), Headers: header("", "empty", "a b", "1", " c ", "2", "Zürich", "3", "a:b", "4", "x\r\ny", "5", "\x00\x7f", "6")},
		{Value: []byte("names in use"), Headers: header("Nats-Msg-Id", "1", "Nats-Expected-Last-Sequence", "99", "Nats-Rollup", "all", "Nats-Batch-Id", "b", "Nats-TTL", "1s", "Penstock-Key", "a2V5", "Penstock-Headers", "x", "Status", "100", "Content-Type", "text/plain")},
		{Value: []byte("nil header value"), Headers: []stream.Header{{Key: "nil"}, {Key: "empty", Value: []byte{}}}},
		{Key: []byte("time"), Value: []byte("to the millisecond"), Time: at},
		{Key: []byte("time"), Value: []byte("and no finer"), Time: at.Add(999 * time.Microsecond)},
	}
	for i := range records {
		records[i].Topic = topic
	}
	before := time.Now().Truncate(time.Millisecond)
	s.publish(records...)
	after := time.Now()

	got := s.subscribe(topic, "g").take(len(records))
	want := append([]stream.Record(nil), records...)
	s.equal(got, want)
	for i, r := range got {
		if i > 0 && r.Offset <= got[i-1].Offset {
			s.Errorf("record %d has offset %d, after %d", i, r.Offset, got[i-1].Offset)
		}
		switch published := records[i].Time; {
		case published.IsZero():
			// The broker's clock may set it, so allow for a difference.
			if r.Time.Before(before.Add(-time.Minute)) || r.Time.After(after.Add(time.Minute)) {
				s.Errorf("record %d was published between %v and %v, but has time %v", i, before, after, r.Time)
			}
		case !r.Time.Equal(published.Truncate(time.Millisecond)):
			s.Errorf("record %d has time %v, published with %v", i, r.Time, published)
		}
	}
}

// Publish says where each record lies, whatever number of them it is given, and
// where others fail.
func (s *suite) places() {
	topic := s.topic(3)
	type place struct {
		partition int32
		offset    int64
	}
	want := map[string]place{}
	note := func(records ...stream.Record) {
		for _, r := range records {
			want[string(r.Value)] = place{r.Partition, r.Offset}
		}
	}
	n := 0
	next := func(count int) (records []stream.Record) {
		for range count {
			r := stream.Record{Topic: topic, Value: fmt.Append(nil, n), Partition: -1, Offset: -1}
			if n%4 > 0 {
				r.Key = fmt.Append(nil, n)
			}
			records = append(records, r)
			n++
		}
		return records
	}
	for _, count := range []int{1, 2, 300, 1, 40} {
		records := next(count)
		s.publish(records...)
		note(records...)
	}
	records := next(3)
	records[1].Value = bytes.Repeat([]byte("x"), stream.MaxValueBytes+1)
	var failed *stream.BatchError
	if err := s.b.Publish(s.ctx, records...); !errors.As(err, &failed) || len(failed.Errs) != 1 || failed.Errs[1] == nil {
		s.Fatalf("publish with a record too large: %v", err)
	}
	note(records[0], records[2])
	for _, r := range s.subscribe(topic, "g").take(len(want)) {
		if got := (place{r.Partition, r.Offset}); got != want[string(r.Value)] {
			s.Errorf("record %s lies at %+v, Publish said %+v", r.Value, got, want[string(r.Value)])
		}
	}
}

// A key lies where Kafka's own clients put it.
func (s *suite) partitionOfKey() {
	const partitions = 7
	topic := s.topic(partitions)
	// murmur2 of the key, from Apache Kafka's own tests.
	hashes := map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	}
	var records []stream.Record
	for key := range hashes {
		records = append(records, stream.Record{Topic: topic, Key: []byte(key)})
	}
	s.publish(records...)
	for _, r := range s.subscribe(topic, "g").take(len(records)) {
		if want := (hashes[string(r.Key)] & 0x7fffffff) % partitions; r.Partition != want {
			s.Errorf("key %q lies in partition %d, want %d", r.Key, r.Partition, want)
		}
	}
}

// Records of one key arrive in the order published, in one call and over calls,
// while others publish to the same topic.
func (s *suite) orderOfKey() {
	const keys, calls, size = 5, 6, 20
	topic := s.topic(3)
	var publishers sync.WaitGroup
	for key := range keys {
		b := s.open()
		publishers.Go(func() {
			for call := range calls {
				var records []stream.Record
				for i := range size {
					records = append(records, stream.Record{Topic: topic, Key: fmt.Append(nil, key), Value: fmt.Append(nil, call*size+i)})
				}
				if err := b.Publish(s.ctx, records...); err != nil {
					s.Errorf("publish: %v", err)
				}
			}
		})
	}
	publishers.Wait()
	if s.Failed() {
		return
	}
	next := map[string]int{}
	for _, r := range s.subscribe(topic, "g").take(keys * calls * size) {
		if want := fmt.Sprint(next[string(r.Key)]); string(r.Value) != want {
			s.Fatalf("key %s: got record %s, want %s", r.Key, r.Value, want)
		}
		next[string(r.Key)]++
	}
}

// A value at the limit passes, one byte more does not, and the error says what
// the limit is.
func (s *suite) limit() {
	topic := s.topic(1)
	value := bytes.Repeat([]byte("x"), s.f.MaxValueBytes+1)
	largest := stream.Record{Topic: topic, Key: []byte("k"), Value: value[:s.f.MaxValueBytes]}
	s.publish(largest)
	err := s.b.Publish(s.ctx, stream.Record{Topic: topic, Key: []byte("k"), Value: value})
	if !errors.Is(err, stream.ErrTooLarge) {
		s.Fatalf("publish a value of %d bytes: %v, want ErrTooLarge", len(value), err)
	}
	for _, n := range []int{s.f.MaxValueBytes, len(value)} {
		if !strings.Contains(err.Error(), fmt.Sprint(n)) {
			s.Errorf("the error does not name %d: %v", n, err)
		}
	}
	s.publish(stream.Record{Topic: topic, Value: []byte("end")})
	src := s.subscribe(topic, "g")
	got := src.take(2)
	if !bytes.Equal(got[0].Value, largest.Value) || string(got[1].Value) != "end" {
		s.Errorf("got values of %d and %d bytes, want %d and 3", len(got[0].Value), len(got[1].Value), len(largest.Value))
	}
}

// Of a Publish that fails in part, the error names the failed records and the
// others are durable.
func (s *suite) partialFailure() {
	topic := s.topic(1)
	nowhere := topic + ".nowhere"
	var records []stream.Record
	for i := range 9 {
		records = append(records, stream.Record{Topic: topic, Key: []byte("k"), Value: fmt.Append(nil, i)})
	}
	records[2].Value = make([]byte, s.f.MaxValueBytes+1)
	records[5].Topic = nowhere
	records[7].Value = make([]byte, s.f.MaxValueBytes+1)
	err := s.b.Publish(s.ctx, records...)
	var failed *stream.BatchError
	if !errors.As(err, &failed) {
		s.Fatalf("publish: %v, want a *stream.BatchError", err)
	}
	want := map[int]error{2: stream.ErrTooLarge, 5: stream.ErrNoTopic, 7: stream.ErrTooLarge}
	for i := range records {
		got, ok := failed.Errs[i]
		if expected := want[i]; ok != (expected != nil) || !errors.Is(got, expected) {
			s.Errorf("record %d: %v, want %v", i, got, expected)
		}
	}
	if _, err := s.b.Ranges(s.ctx, nowhere); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("publishing to a topic that does not exist made it: %v", err)
	}
	s.publish(stream.Record{Topic: topic, Key: []byte("k"), Value: []byte("end")})
	got := values(s.subscribe(topic, "g").take(7))
	if diff := cmp.Diff([]string{"0", "1", "3", "4", "6", "8", "end"}, got); diff != "" {
		s.Errorf("what is durable (-want +got):\n%s", diff)
	}
}

// After Publish has returned, the bytes are the caller's again.
func (s *suite) reuse() {
	topic := s.topic(1)
	buffer := []byte("first")
	hs := []stream.Header{{Key: "h", Value: buffer}}
	s.publish(stream.Record{Topic: topic, Key: buffer, Value: buffer, Headers: hs})
	copy(buffer, "LATER")
	hs[0].Key = "LATER"
	got := s.subscribe(topic, "g").take(1)
	s.equal(got, []stream.Record{{Topic: topic, Key: []byte("first"), Value: []byte("first"), Headers: []stream.Header{{Key: "h", Value: []byte("first")}}}})
}

// Creating a topic again changes nothing.
func (s *suite) create() {
	topic := s.topic(3)
	s.numbered(topic, 10)
	before, err := s.b.Ranges(s.ctx, topic)
	s.must("ranges", err)
	s.must("create again", s.open().Create(s.ctx, topic, 5))
	after, err := s.b.Ranges(s.ctx, topic)
	s.must("ranges", err)
	if diff := cmp.Diff(before, after); diff != "" || len(after) != 3 {
		s.Errorf("creating the topic again changed it (-before +after):\n%s", diff)
	}

	standard := topic + ".default"
	s.must("create", s.b.Create(s.ctx, standard, 0))
	rs, err := s.b.Ranges(s.ctx, standard)
	s.must("ranges", err)
	if len(rs) == 0 {
		s.Error("a topic of the default number of partitions has none")
	}
	if err := s.b.Create(s.ctx, "", 1); err == nil {
		s.Error("a topic without a name was made")
	}
	if err := s.b.Create(s.ctx, topic+".negative", -1); err == nil {
		s.Error("a topic of -1 partitions was made")
	}
}

func (s *suite) unknownTopic() {
	const topic = "streamtest.no-such-topic"
	if err := s.b.Publish(s.ctx, stream.Record{Topic: topic}); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("publish: %v, want ErrNoTopic", err)
	}
	if _, err := s.b.Ranges(s.ctx, topic); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("ranges: %v, want ErrNoTopic", err)
	}
	if src, err := s.b.Open(s.ctx, stream.Subscription{Topic: topic, Group: s.group("g")}); !errors.Is(err, stream.ErrNoTopic) {
		s.Errorf("open: %v, want ErrNoTopic", err)
		if err == nil {
			src.Close()
		}
	}
	if src, err := s.b.Open(s.ctx, stream.Subscription{Topic: s.topic(1)}); err == nil {
		s.Error("a subscription without a group was opened")
		src.Close()
	}
}

// Ranges says what each partition holds, and which life of the topic it is.
func (s *suite) ranges() {
	const partitions = 3
	topic := s.topic(partitions)
	check := func(when string) []stream.Range {
		s.Helper()
		rs, err := s.open().Ranges(s.ctx, topic)
		s.must("ranges", err)
		if len(rs) != partitions {
			s.Fatalf("%s: %d ranges, want %d", when, len(rs), partitions)
		}
		for i, r := range rs {
			p := r.Partition
			if p.Topic != topic || p.Number != int32(i) || p.Cluster == "" || p.Incarnation == "" {
				s.Errorf("%s: range %d is of %+v", when, i, p)
			}
			if r.Start > r.End || r.Records != -1 && (r.Records < 0 || r.Records > r.End-r.Start) {
				s.Errorf("%s: range %d is %+v", when, i, r)
			}
		}
		return rs
	}
	for i, r := range check("empty") {
		if r.Start != r.End || r.Records > 0 {
			s.Errorf("partition %d is empty, but its range is %+v", i, r)
		}
	}
	const n = 30
	for i := range n {
		s.publish(stream.Record{Topic: topic, Key: fmt.Append(nil, i)})
	}
	count := map[int32]int64{}
	rs := check("full")
	for _, r := range s.subscribe(topic, "g").take(n) {
		count[r.Partition]++
		if in := rs[r.Partition]; r.Offset < in.Start || r.Offset >= in.End {
			s.Errorf("offset %d of partition %d is not in its range %+v", r.Offset, r.Partition, in)
		}
	}
	for i, r := range rs {
		if r.Records != -1 && r.Records != count[int32(i)] {
			s.Errorf("partition %d holds %d records, its range says %d", i, count[int32(i)], r.Records)
		}
	}
}

// A source ends when its topic is deleted and made again, and a new one starts
// at the beginning of the new topic.
func (s *suite) madeAgain() {
	if s.f.Delete == nil {
		s.Skip("the broker's test cannot delete topics")
	}
	topic := s.topic(1)
	s.numbered(topic, 5)
	src := s.subscribe(topic, "g")
	src.take(5)
	before, err := s.b.Ranges(s.ctx, topic)
	s.must("ranges", err)

	s.f.Delete(s.T, topic)
	s.must("create", s.b.Create(s.ctx, topic, 1))
	s.publish(stream.Record{Topic: topic, Value: []byte("new")})
	if records, _, err := src.Fetch(s.ctx, 10); !errors.Is(err, stream.ErrTopicChanged) {
		s.Fatalf("fetch: %+v and %v, want ErrTopicChanged", records, err)
	}
	if _, _, err := src.Fetch(s.ctx, 10); !errors.Is(err, stream.ErrTopicChanged) {
		s.Errorf("fetch again: %v, want ErrTopicChanged", err)
	}
	src.Close()

	after, err := s.b.Ranges(s.ctx, topic)
	s.must("ranges", err)
	if before[0].Partition == after[0].Partition {
		s.Errorf("both lives of the topic are %+v", after[0].Partition)
	}
	if got := s.subscribe(topic, "g").take(1); string(got[0].Value) != "new" {
		s.Errorf("a new source starts at %q, want %q", got[0].Value, "new")
	}
}

func (s *suite) fetchMax() {
	const n = 100
	topic := s.topic(3)
	s.numbered(topic, n)
	src := s.subscribe(topic, "g")
	seen := map[place]bool{}
	for max := 1; len(seen) < n; max = max%7 + 1 {
		b := src.fetch(max)
		for _, r := range b.records {
			if seen[placeOf(r)] {
				s.Errorf("record %+v came twice", placeOf(r))
			}
			seen[placeOf(r)] = true
		}
		src.settle(b, nil)
	}
	for _, max := range []int{0, -1} {
		if _, _, err := src.Fetch(s.ctx, max); err == nil {
			s.Errorf("fetch of at most %d records: no error", max)
		}
	}
}

// A Fetch that waits ends with its context, and the source goes on.
func (s *suite) fetchCancel() {
	topic := s.topic(1)
	src := s.subscribe(topic, "g")
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan error)
	go func() {
		_, _, err := src.Fetch(ctx, 10)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		s.Errorf("cancelled while it waits: %v, want context.Canceled", err)
	}
	if _, _, err := src.Fetch(ctx, 10); !errors.Is(err, context.Canceled) {
		s.Errorf("cancelled before: %v, want context.Canceled", err)
	}
	if err := s.b.Publish(ctx, stream.Record{Topic: topic, Value: []byte("x")}); !errors.Is(err, context.Canceled) {
		s.Errorf("publish: %v, want context.Canceled", err)
	}
	s.publish(stream.Record{Topic: topic, Value: []byte("end")})
	for {
		// The cancelled Publish may or may not have written its record.
		if got := src.take(1); string(got[0].Value) == "end" {
			return
		}
	}
}

// Close ends a Fetch that waits, and may be called again.
func (s *suite) fetchClose() {
	topic := s.topic(2)
	src := s.subscribe(topic, "g")
	ended := make(chan error)
	go func() {
		_, _, err := src.Fetch(s.ctx, 10)
		ended <- err
	}()
	src.close()
	if err := <-ended; !errors.Is(err, stream.ErrClosed) {
		s.Errorf("fetch: %v, want ErrClosed", err)
	}
	src.close()
	if _, _, err := src.Fetch(s.ctx, 10); !errors.Is(err, stream.ErrClosed) {
		s.Errorf("fetch after Close: %v, want ErrClosed", err)
	}
}

// A group that has no position gets what was published before it was there, and
// what was published between two of its sources.
func (s *suite) oldest() {
	topic := s.topic(2)
	before := s.numbered(topic, 10)
	src := s.subscribe(topic, "g")
	if got := src.take(len(before)); len(got) != len(before) {
		s.Errorf("got %d records, want %d", len(got), len(before))
	}
	src.close()

	// This group comes and goes without a record, which must not move it.
	idle := s.subscribe(topic, "idle")
	idle.close()
	s.numbered(topic, 10)
	s.subscribe(topic, "idle").take(20)
}

// What was acknowledged does not come again, what was not does.
func (s *suite) resume() {
	topic := s.topic(1)
	s.numbered(topic, 10)
	src := s.subscribe(topic, "g")
	first := src.take(4)
	held := src.fetch(3)
	src.close()
	src = s.subscribe(topic, "g")
	next := src.take(1)
	if placeOf(next[0]) != placeOf(held.records[0]) {
		s.Errorf("after %s was acknowledged, the group goes on with %s, want %s", first[3].Value, next[0].Value, held.records[0].Value)
	}
	src.take(5)
	src.close()
	s.lastly(topic, "g")
}

func (s *suite) ackTwice() {
	topic := s.topic(1)
	s.numbered(topic, 6)
	src := s.subscribe(topic, "g", retryAfter(time.Millisecond))
	b := src.fetch(3)
	src.settle(b, nil)
	src.settle(b, nil)
	src.settle(b, errors.New("too late"))
	rest := 6 - len(b.records)
	got := src.take(rest)
	for _, r := range got {
		if r.Offset <= b.records[len(b.records)-1].Offset {
			s.Errorf("record %s was acknowledged, but came again", r.Value)
		}
	}
	src.close()
	s.lastly(topic, "g")
}

// Batches may be settled in any order and from any goroutine.
func (s *suite) ackOutOfOrder() {
	const n = 60
	topic := s.topic(2)
	s.numbered(topic, n)
	src := s.subscribe(topic, "g")
	var held []batch
	for got := 0; got < n; {
		held = append(held, src.fetch(5))
		got += len(held[len(held)-1].records)
	}
	var acks sync.WaitGroup
	for i := range held {
		b := held[len(held)-1-i]
		acks.Go(func() {
			if err := b.ack(s.ctx, nil); err != nil {
				s.Errorf("settle: %v", err)
			}
		})
	}
	acks.Wait()
	src.close()
	s.publish(stream.Record{Topic: topic, Value: []byte("end")})
	if got := s.subscribe(topic, "g").take(1); string(got[0].Value) != "end" {
		s.Errorf("record %s was acknowledged, but came again", got[0].Value)
	}
}

// An ack after Close settles nothing, and says so.
func (s *suite) ackAfterClose() {
	topic := s.topic(1)
	s.numbered(topic, 6)
	src := s.subscribe(topic, "g")
	b := src.fetch(3)
	src.close()
	if err := b.ack(s.ctx, nil); !errors.Is(err, stream.ErrClosed) && !errors.Is(err, stream.ErrFenced) {
		s.Errorf("settle after Close: %v, want ErrClosed", err)
	}
	s.again(topic, "g", b.records)
}

func (s *suite) nackWhole() {
	topic := s.topic(1)
	s.numbered(topic, 6)
	src := s.subscribe(topic, "g", retryAfter(10*time.Millisecond))
	b := src.fetch(6)
	src.settle(b, errors.New("not now"))
	got := src.take(6)
	seen := map[place]bool{}
	for _, r := range got {
		seen[placeOf(r)] = true
	}
	for _, r := range b.records {
		if !seen[placeOf(r)] {
			s.Errorf("record %s was nacked, and did not come again", r.Value)
		}
	}
	src.close()
	s.lastly(topic, "g")
}

// Of a batch that is nacked in part, just the named records come again.
func (s *suite) nackPart() {
	topic := s.topic(1)
	s.numbered(topic, 8)
	src := s.subscribe(topic, "g", retryAfter(10*time.Millisecond))
	var batches []batch
	want := map[string]bool{}
	for n := 0; n < 8; {
		b := src.fetch(8 - n)
		n += len(b.records)
		batches = append(batches, b)
	}
	for _, b := range batches {
		failed := &stream.BatchError{}
		for i, r := range b.records {
			if v := string(r.Value); v == "1" || v == "2" || v == "6" {
				failed.Fail(i, errors.New("bad"))
				want[v] = true
			}
		}
		src.settle(b, fmt.Errorf("write: %w", failed))
	}
	for len(want) > 0 {
		b := src.fetch(8)
		for _, r := range b.records {
			if !want[string(r.Value)] {
				s.Errorf("record %s came again, and was not named", r.Value)
			}
			delete(want, string(r.Value))
		}
		src.settle(b, nil)
	}
	src.close()
	s.lastly(topic, "g")
}

// What the broker remembers never passes a nacked record, whatever is
// acknowledged behind it. Only a source opened again shows it.
func (s *suite) nackBeforeAck() {
	topic := s.topic(1)
	s.numbered(topic, 10)
	src := s.subscribe(topic, "g", retryAfter(time.Hour))
	first, second := src.fetch(3), src.fetch(3)
	src.settle(first, errors.New("not now"))
	src.settle(second, nil)
	src.close()
	s.again(topic, "g", first.records)

	// The same for a part of the first batch.
	s.numbered(topic, 10)
	src = s.subscribe(topic, "g", retryAfter(time.Hour))
	first, second = src.fetch(3), src.fetch(3)
	failed := &stream.BatchError{}
	failed.Fail(len(first.records)-1, errors.New("bad"))
	src.settle(second, nil)
	src.settle(first, failed)
	src.close()
	s.again(topic, "g", first.records[len(first.records)-1:])
}

// A BatchError that names a record that is not there settles nothing.
func (s *suite) nackOutOfRange() {
	topic := s.topic(1)
	s.numbered(topic, 3)
	src := s.subscribe(topic, "g")
	b := src.fetch(3)
	failed := &stream.BatchError{}
	failed.Fail(len(b.records), errors.New("bad"))
	if err := b.ack(s.ctx, failed); err == nil {
		s.Errorf("settled a batch of %d records with an error for record %d", len(b.records), len(b.records))
	}
	src.close()
	s.again(topic, "g", b.records)
}

// A process that dies with its first batch unsettled and its second
// acknowledged leaves the first to the next one.
func (s *suite) crash() {
	topic := s.topic(1)
	s.numbered(topic, 10)
	src := s.subscribe(topic, "g")
	first, second := src.fetch(3), src.fetch(3)
	src.settle(second, nil)
	s.f.Crash(s.T, src.SourceCloser)
	s.again(topic, "g", first.records)
}

// Sources of one group get every record between them.
func (s *suite) concurrentSources() {
	const n, sources = 1000, 3
	topic := s.topic(6)
	s.numbered(topic, n)
	ctx, done := context.WithCancel(s.ctx)
	defer done()
	var (
		mu      sync.Mutex
		seen    = map[place]bool{}
		readers sync.WaitGroup
	)
	for range sources {
		src := s.subscribe(topic, "g")
		readers.Go(func() {
			for {
				records, ack, err := src.Fetch(ctx, 20)
				if err != nil {
					if ctx.Err() == nil {
						s.Errorf("fetch: %v", err)
					}
					return
				}
				s.check(records, 20)
				switch err := ack(ctx, nil); {
				case errors.Is(err, stream.ErrFenced) || ctx.Err() != nil:
					continue
				case err != nil:
					s.Errorf("settle: %v", err)
				}
				mu.Lock()
				for _, r := range records {
					seen[placeOf(r)] = true
				}
				if len(seen) == n {
					done()
				}
				mu.Unlock()
			}
		})
	}
	readers.Wait()
	if len(seen) != n {
		s.Errorf("the sources got %d of %d records", len(seen), n)
	}
}

// Sources come and go, settle, refuse and hold batches in any order. In the end,
// a new source gets every record that no ack was accepted for.
func (s *suite) walk() {
	const n, partitions, steps, most = 300, 4, 150, 3
	seed := rand.Uint64()
	s.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	topic := s.topic(partitions)
	s.numbered(topic, n)
	var (
		sources []source
		held    []batch
		settled = map[place]bool{}
	)
	settle := func(b batch, failed *stream.BatchError) {
		s.Helper()
		err := b.ack(s.ctx, failed.OrNil())
		if errors.Is(err, stream.ErrFenced) || errors.Is(err, stream.ErrClosed) {
			return
		}
		s.must("settle", err)
		for i, r := range b.records {
			if failed.Errs[i] == nil {
				settled[placeOf(r)] = true
			}
		}
	}
	for range steps {
		switch roll := dice.IntN(20); {
		case len(sources) == 0 || roll == 0 && len(sources) < most:
			sources = append(sources, s.subscribe(topic, "g", retryAfter(time.Millisecond)))
		case roll == 1:
			i := dice.IntN(len(sources))
			sources[i].close()
			sources = slices.Delete(sources, i, i+1)
		case roll < 10 || len(held) == 0:
			// There may be nothing for this one just now.
			ctx, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
			src := sources[dice.IntN(len(sources))]
			records, ack, err := src.Fetch(ctx, 1+dice.IntN(8))
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				continue
			}
			s.must("fetch", err)
			s.check(records, 8)
			held = append(held, batch{records, ack})
		default:
			i := dice.IntN(len(held))
			b := held[i]
			held = slices.Delete(held, i, i+1)
			var failed stream.BatchError
			for i := range b.records {
				if roll > 15 && dice.IntN(2) == 0 {
					failed.Fail(i, errors.New("not now"))
				}
			}
			settle(b, &failed)
		}
	}
	for _, src := range sources {
		src.close()
	}
	var want []stream.Record
	for _, r := range s.subscribe(topic, "all").take(n) {
		if !settled[placeOf(r)] {
			want = append(want, r)
		}
	}
	s.again(topic, "g", want)
}

func (s *suite) independentGroups() {
	topic := s.topic(2)
	s.numbered(topic, 20)
	a, b := s.subscribe(topic, "a"), s.subscribe(topic, "b")
	a.take(20)
	b.take(10)
	b.close()
	s.numbered(topic, 5)
	a.take(5)
	s.subscribe(topic, "b").take(15)
}

// A source joins while another holds batches. Whatever an ack was accepted for
// may be gone; every other record must come again, and no batch that was
// settled later may have taken it along.
func (s *suite) rebalance() {
	const n, partitions = 400, 4
	topic := s.topic(partitions)
	s.numbered(topic, n)
	settled := map[place]bool{}
	settle := func(src source, b batch) error {
		s.Helper()
		err := b.ack(s.ctx, nil)
		switch {
		case err == nil:
			for _, r := range b.records {
				settled[placeOf(r)] = true
			}
		case !errors.Is(err, stream.ErrFenced):
			s.Errorf("settle: %v", err)
		}
		return err
	}

	a := s.subscribe(topic, "g")
	var held []batch
	for reached := map[int32]int{}; len(reached) < partitions || len(held) < 4*partitions; {
		b := a.fetch(3)
		held = append(held, b)
		reached[b.records[0].Partition]++
	}

	b := s.subscribe(topic, "g")
	first := b.fetch(3)
	second := b.fetch(3)
	moved := map[int32]bool{first.records[0].Partition: true, second.records[0].Partition: true}
	_ = settle(b, second) // unless it has moved again; the first is never settled

	for i, h := range held {
		if i%3 == 0 {
			continue
		}
		err := settle(a, h)
		if p := h.records[0].Partition; s.f.Fenced && moved[p] && !errors.Is(err, stream.ErrFenced) {
			s.Errorf("settled a batch of partition %d, which has moved: %v, want ErrFenced", p, err)
		}
	}
	a.close()
	b.close()

	var want []stream.Record
	for _, h := range append(held, first) {
		for _, r := range h.records {
			if !settled[placeOf(r)] {
				want = append(want, r)
			}
		}
	}
	s.again(topic, "g", want)
}

// A record that comes again says whether its partition was away meanwhile.
func (s *suite) assignments() {
	const n = 40
	topic := s.topic(2)
	s.numbered(topic, n)
	a := s.subscribe(topic, "g", retryAfter(10*time.Millisecond))
	first := map[int32]int32{} // by partition
	for _, r := range a.take(n) {
		first[r.Partition] = r.Assignment
	}
	b := s.subscribe(topic, "g")
	s.numbered(topic, n)
	moved := b.fetch(1).records[0]
	b.close()

	var back stream.Record
	for nacked := false; ; {
		got := a.fetch(1)
		if r := got.records[0]; placeOf(r) != placeOf(moved) {
			a.settle(got, nil)
		} else if !nacked {
			nacked, back = true, r
			a.settle(got, errors.New("not now"))
		} else {
			if r.Assignment != back.Assignment {
				s.Errorf("what was nacked comes again of assignment %d, want %d", r.Assignment, back.Assignment)
			}
			break
		}
	}
	if was := first[back.Partition]; back.Assignment <= was {
		s.Errorf("the partition was away, and its records are of assignment %d, those before of %d", back.Assignment, was)
	}
}

// A partition that is paused keeps what it has until it is resumed, and the
// others go on.
func (s *suite) pause() {
	topic := s.topic(2)
	keys := [2][]byte{}
	for i := 0; keys[0] == nil || keys[1] == nil; i++ {
		key := []byte(strconv.Itoa(i))
		keys[stream.PartitionFor(key, 2)] = key
	}
	both := func(n int) {
		for range n {
			s.publish(stream.Record{Topic: topic, Key: keys[0], Value: []byte("a")}, stream.Record{Topic: topic, Key: keys[1], Value: []byte("b")})
		}
	}
	both(20)
	src := s.subscribe(topic, "g")
	pauser, ok := src.SourceCloser.(stream.Pauser)
	if !ok {
		s.Fatal("the source is no stream.Pauser")
	}
	for seen := map[int32]bool{}; len(seen) < 2; { // so that both are assigned
		b := src.fetch(1)
		seen[b.records[0].Partition] = true
		src.settle(b, nil)
	}
	pauser.Pause(0, true)
	both(20)
	const all = 40
	for last := int64(-1); last < 0 || src.left(topic, 1, last) > 0; {
		b := src.fetch(7)
		if b.records[0].Partition == 0 {
			s.Fatalf("offset %d came from a partition that is paused", b.records[0].Offset)
		}
		last = b.records[len(b.records)-1].Offset
		src.settle(b, nil)
	}
	pauser.Pause(0, false)
	b := src.fetch(all)
	if b.records[0].Partition != 0 {
		s.Errorf("partition %d came, where nothing was left", b.records[0].Partition)
	}
	src.settle(b, nil)
}

// left is how many offsets a partition holds behind the given one.
func (src source) left(topic string, partition int, offset int64) int64 {
	src.s.Helper()
	ranges, err := src.s.open().Ranges(src.s.ctx, topic)
	src.s.must("ranges", err)
	return ranges[partition].End - 1 - offset
}

// Who is warned that a partition is to go can settle what it has of it, and
// none of that comes to who has the partition next.
func (s *suite) release() {
	if !s.f.Releases {
		return
	}
	const partitions = 4
	topic := s.topic(partitions)
	s.numbered(topic, 100)
	a := s.subscribe(topic, "g", func(sub *stream.Subscription) { sub.HoldFor = s.f.Timeout })
	type event struct {
		partition int32
		gone      bool
	}
	events := make(chan event, 100)
	a.SourceCloser.(stream.Releaser).OnRelease(func(_ string, partition int32, gone bool) {
		events <- event{partition, gone}
	})
	held := map[int32][]batch{}
	for len(held) < partitions {
		b := a.fetch(3)
		held[b.records[0].Partition] = append(held[b.records[0].Partition], b)
	}
	b := s.subscribe(topic, "g")
	came := make(chan batch, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if records, ack, err := b.Fetch(s.ctx, 1); err == nil {
			came <- batch{records, ack}
		}
	}()
	defer func() { <-done }()
	defer b.Close()

	settled := map[place]bool{}
	for {
		select {
		case e := <-events:
			if e.gone {
				continue
			}
			for _, h := range held[e.partition] {
				a.settle(h, nil)
				for _, r := range h.records {
					settled[placeOf(r)] = true
				}
			}
			s.numbered(topic, 20) // some brokers let nobody have a partition that holds nothing new
		case first := <-came:
			if r := first.records[0]; settled[placeOf(r)] {
				s.Errorf("offset %d of partition %d came again, though it was settled", r.Offset, r.Partition)
			}
			if len(settled) == 0 {
				s.Error("a partition moved without a warning")
			}
			return
		case <-s.ctx.Done():
			s.Fatal(s.ctx.Err())
		}
	}
}

// A source reads from where its Owner says, whatever the broker remembers.
func (s *suite) ownerStarts() {
	topic := s.topic(1)
	s.numbered(topic, 10)
	src := s.subscribe(topic, "g")
	records := src.take(10)
	src.close()

	f := func(what string, start int) {
		s.Helper()
		o := &owner{starts: map[int32]int64{}}
		if start >= 0 {
			o.starts[0] = records[start].Offset
		}
		src := s.subscribe(topic, "g", ownedBy(o))
		got := src.take(10 - max(start, 0))
		if diff := cmp.Diff(values(records[max(start, 0):]), values(got)); diff != "" {
			s.Errorf("%s (-want +got):\n%s", what, diff)
		}
		src.close()
		if len(o.holds()) != 0 {
			s.Errorf("%s: partitions %v were not lost on Close", what, o.holds())
		}
	}
	f("start in the middle", 4)
	f("start earlier than the last one did", 2)
	f("start without a position", -1)
	f("start at the end", 9)

	// A nacked record comes again here, too.
	src = s.subscribe(topic, "g", ownedBy(&owner{starts: map[int32]int64{0: records[8].Offset}}), retryAfter(time.Millisecond))
	b := src.fetch(1)
	src.settle(b, errors.New("not now"))
	src.take(2)
}

// The partitions that an Owner sees are those of Ranges, and each is claimed
// once.
func (s *suite) ownerIdentity() {
	topic := s.topic(3)
	records := s.numbered(topic, 30)
	rs, err := s.b.Ranges(s.ctx, topic)
	s.must("ranges", err)
	o := &owner{}
	src := s.subscribe(topic, "g", ownedBy(o))
	src.take(len(records))
	if diff := cmp.Diff([]int32{0, 1, 2}, o.holds()); diff != "" {
		s.Errorf("partitions held (-want +got):\n%s", diff)
	}
	for _, p := range o.held {
		if want := rs[p.Number].Partition; p != want {
			s.Errorf("claimed %+v, Ranges says %+v", p, want)
		}
	}
	src.close()
	src.close()
	if len(o.lost) != 3 || len(o.holds()) != 0 {
		s.Errorf("after Close: lost %v, holds %v", o.lost, o.holds())
	}
}

// A claim for which someone else was faster is made again.
func (s *suite) ownerLate() {
	topic := s.topic(1)
	s.numbered(topic, 3)
	o := &owner{fenced: 2}
	src := s.subscribe(topic, "g", ownedBy(o))
	src.take(3)
	if len(o.holds()) != 1 {
		s.Errorf("it holds %v, want one partition", o.holds())
	}
	src.close()
}

// An error of Assigned ends the source.
func (s *suite) ownerError() {
	topic := s.topic(2)
	s.numbered(topic, 10)
	why := errors.New("no database")
	src, err := s.b.Open(s.ctx, stream.Subscription{Topic: topic, Group: s.group("g"), Owner: &owner{fail: why}})
	if err != nil {
		if !errors.Is(err, why) {
			s.Errorf("open: %v, want %v", err, why)
		}
		return
	}
	for range 2 {
		if records, _, err := src.Fetch(s.ctx, 10); !errors.Is(err, why) {
			s.Errorf("fetch: %d records and %v, want %v", len(records), err, why)
		}
	}
	src.Close()
}

// A position beyond the end ends the source: it is not this topic's.
func (s *suite) ownerOutside() {
	topic := s.topic(1)
	s.numbered(topic, 3)
	rs, err := s.b.Ranges(s.ctx, topic)
	s.must("ranges", err)
	o := &owner{starts: map[int32]int64{0: rs[0].End + 1000}}
	src, err := s.b.Open(s.ctx, stream.Subscription{Topic: topic, Group: s.group("g"), Owner: o})
	if err == nil {
		s.Cleanup(func() { src.Close() })
		_, _, err = src.Fetch(s.ctx, 10)
	}
	if !errors.Is(err, stream.ErrPosition) {
		s.Errorf("start at %d of %d: %v, want ErrPosition", rs[0].End+1000, rs[0].End, err)
	}
}

// A partition that moves is lost before it is claimed, and starts where the new
// holder's Owner says.
func (s *suite) ownerRebalance() {
	if !s.f.Fenced {
		s.Skip("sources of a group share its partitions")
	}
	const partitions = 4
	topic := s.topic(partitions)
	s.numbered(topic, 100)
	ledger := map[int32]int64{}
	claims := &ledgerOwner{positions: ledger}
	a := s.subscribe(topic, "g", ownedBy(claims.member("a")))
	for len(ledger) < partitions {
		if err := claims.store(a.fetch(5)); err != nil {
			s.Fatal(err)
		}
	}
	b := s.subscribe(topic, "g", ownedBy(claims.member("b")))
	s.numbered(topic, 100) // so that b finds something, whatever a has read
	for range 4 {
		if err := claims.store(b.fetch(5)); err != nil {
			s.Error(err)
		}
	}
	b.close()
	if n := claims.count("b"); n != 0 {
		s.Errorf("the closed source still holds %d partitions", n)
	}
	for claims.stored() < 200 {
		if err := claims.store(a.fetch(7)); err != nil {
			s.Error(err)
		}
	}
	a.close()
	for _, err := range claims.errs {
		s.Error(err)
	}
}

// ledgerOwner keeps the positions of several sources as a database would, and
// checks that each partition is claimed by one at a time and read without gaps.
type ledgerOwner struct {
	mu        sync.Mutex
	holder    map[int32]string
	positions map[int32]int64 // the next offset, where there is one
	records   int
	errs      []error
}

type ledgerMember struct {
	*ledgerOwner
	name string
}

func (l *ledgerOwner) member(name string) stream.Owner { return ledgerMember{l, name} }

func (m ledgerMember) Assigned(_ context.Context, ps []stream.Partition) (map[stream.Partition]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	starts := map[stream.Partition]int64{}
	for _, p := range ps {
		if m.holder == nil {
			m.holder = map[int32]string{}
		}
		if h := m.holder[p.Number]; h != "" {
			m.errs = append(m.errs, fmt.Errorf("%s claims partition %d, which %s holds", m.name, p.Number, h))
		}
		m.holder[p.Number] = m.name
		if at, ok := m.positions[p.Number]; ok {
			starts[p] = at
		}
	}
	return starts, nil
}

func (m ledgerMember) Lost(_ context.Context, ps []stream.Partition) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range ps {
		if h := m.holder[p.Number]; h != m.name {
			m.errs = append(m.errs, fmt.Errorf("%s loses partition %d, which %q holds", m.name, p.Number, h))
		}
		m.holder[p.Number] = ""
	}
	return nil
}

// store moves the position of the batch's partition, as a sink would in the
// transaction that stores the records.
func (l *ledgerOwner) store(b batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := b.records[0].Partition
	for _, r := range b.records {
		// Offsets may have gaps; what was left out would be missed at the end.
		if at, ok := l.positions[p]; ok && at > r.Offset {
			return fmt.Errorf("partition %d is at %d, but record %d came", p, at, r.Offset)
		}
		l.positions[p] = r.Offset + 1
		l.records++
	}
	return nil
}

func (l *ledgerOwner) count(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, h := range l.holder {
		if h == name {
			n++
		}
	}
	return n
}

func (l *ledgerOwner) stored() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records
}

// A closed connection says so, and may be closed again.
func (s *suite) closed() {
	b := s.open()
	topic := s.topic(1)
	s.must("close", b.Close())
	s.must("close again", b.Close())
	if err := b.Publish(s.ctx, stream.Record{Topic: topic}); !errors.Is(err, stream.ErrClosed) {
		s.Errorf("publish: %v, want ErrClosed", err)
	}
	if err := b.Create(s.ctx, topic+".more", 1); !errors.Is(err, stream.ErrClosed) {
		s.Errorf("create: %v, want ErrClosed", err)
	}
	if _, err := b.Ranges(s.ctx, topic); !errors.Is(err, stream.ErrClosed) {
		s.Errorf("ranges: %v, want ErrClosed", err)
	}
	if src, err := b.Open(s.ctx, stream.Subscription{Topic: topic, Group: s.group("g")}); !errors.Is(err, stream.ErrClosed) {
		s.Errorf("open: %v, want ErrClosed", err)
		if err == nil {
			src.Close()
		}
	}
}
