package nats

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

// The headers of an atomic batch.
const (
	batchIDHeader       = "Nats-Batch-Id"
	batchSequenceHeader = "Nats-Batch-Sequence"
	batchCommitHeader   = "Nats-Batch-Commit"
)

const (
	// maxBatch is how many messages a server admits in an atomic batch by default.
	maxBatch = 1000
	// minBatch is from how many messages on an atomic batch is faster than
	// sending them one by one: the server makes a folder and syncs several files
	// for it, which took as long as syncing 16 to 20 messages (server 2.15,
	// embedded, ext4).
	minBatch = 16
	// maxBatchBytes keeps what one batch holds in memory, here and in the
	// server, far below what a connection may have pending (64 MiB).
	maxBatchBytes = 8 << 20
	// maxHeaderBytes is what JetStream admits of headers.
	maxHeaderBytes = 1<<16 - 1
	// batchAttempts bounds how often a batch is sent that the server refused
	// to begin.
	batchAttempts = 5
)

// Publish returns once every record is on the server's disk, as far as the
// server syncs before it answers (an embedded one does).
//
// Concurrent calls share atomic batches of up to 1,000 records. A few records,
// and those for a stream that does not allow atomic batches, are sent one by
// one. Either way the records of a call come in their order, and once some
// failed those that were not sent yet are not sent. Nothing is ever sent twice.
//
// A record that is larger than a limit gets an error that wraps
// stream.ErrTooLarge. If the answer of the server is lost, the error says that
// the records may or may not have been written.
func (b *Broker) Publish(ctx context.Context, records ...stream.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var failed stream.BatchError
	jobs := map[string]*job{}
	nowhere := map[string]error{}
	for i, r := range records {
		if err := nowhere[r.Topic]; err != nil {
			failed.Fail(i, err)
			continue
		}
		t, err := b.known(ctx, r.Topic)
		if errors.Is(err, stream.ErrNoTopic) {
			nowhere[r.Topic] = err
			failed.Fail(i, err)
			continue
		}
		if err != nil {
			return err // nothing was sent
		}
		m, partition, err := b.message(t, r)
		if err != nil {
			failed.Fail(i, err)
			continue
		}
		j := jobs[t.name]
		if j == nil {
			j = &job{topic: t, done: make(chan struct{})}
			jobs[t.name] = j
		}
		records[i].Partition = int32(partition)
		j.messages = append(j.messages, m)
		j.index = append(j.index, i)
	}
	for _, j := range jobs {
		b.submit(ctx, j)
	}
	written := 0
	var lost error
	for _, j := range jobs {
		if !j.wait(ctx) {
			lost = cmp.Or(lost, fmt.Errorf("%w: %w", ctx.Err(), stream.ErrUnknownOutcome))
			continue
		}
		for k, o := range j.outcomes {
			err := o.err
			if err == nil {
				records[j.index[k]].Offset = o.offset
				written++
				continue
			}
			if errors.Is(err, stream.ErrUnknownOutcome) {
				lost = cmp.Or(lost, err)
			}
			failed.Fail(j.index[k], err)
		}
	}
	if lost != nil && (written == 0 || ctx.Err() != nil) {
		return fmt.Errorf("publish: %w", lost)
	}
	return failed.OrNil()
}

// message encodes r for topic t, within all limits, and says for which partition.
func (b *Broker) message(t *topic, r stream.Record) (*nats.Msg, int, error) {
	if limit := b.options.MaxValueBytes; len(r.Value) > limit {
		return nil, 0, fmt.Errorf("%w: the value has %d bytes, the limit is %d", stream.ErrTooLarge, len(r.Value), limit)
	}
	if len(t.subjects) == 0 {
		return nil, 0, fmt.Errorf("topic %q: the stream was not made by Penstock and has no single subject to publish to", t.name)
	}
	p := 0
	if n := t.partitions; n > 1 {
		if r.Key != nil {
			p = int(stream.PartitionFor(r.Key, n))
		} else {
			p = mathrand.IntN(n)
		}
	}
	m := encode(r, t.subjects[p])
	if t.log {
		ofKey(m, r)
	}
	// Room for the headers of a batch.
	size := messageSize(m) + 128
	if n := size - len(m.Data); n > maxHeaderBytes {
		return nil, 0, fmt.Errorf("%w: its key and headers have %d bytes in base64, the limit of NATS is %d", stream.ErrTooLarge, n, maxHeaderBytes)
	}
	if limit := b.nc.MaxPayload(); int64(size) > limit {
		return nil, 0, fmt.Errorf("%w: with its key and headers it has %d bytes, the server's max_payload is %d", stream.ErrTooLarge, size, limit)
	}
	if limit := t.maxMessage; limit >= 0 && size > limit {
		return nil, 0, fmt.Errorf("%w: with its key and headers it has %d bytes, the stream's max_msg_size is %d", stream.ErrTooLarge, size, limit)
	}
	return m, p, nil
}

// messageSize is what a server counts: value and headers.
func messageSize(m *nats.Msg) int {
	n := len(m.Data)
	if len(m.Header) > 0 {
		n += len("NATS/1.0\r\n\r\n")
	}
	for key, values := range m.Header {
		for _, v := range values {
			n += len(key) + len(v) + len(": \r\n")
		}
	}
	return n
}

// job is what one call of Publish sends to one topic.
type job struct {
	topic    *topic
	messages []*nats.Msg
	index    []int     // of each message, among the records of the call
	outcomes []outcome // of each message. Set before done is closed.
	done     chan struct{}

	committer *committer // nil: never submitted
	sent      int        // how many messages were sent; belongs to the committer
	cancelled bool       // guarded by committer.mu
}

// outcome is what became of a message: it was written at an offset, or not.
type outcome struct {
	err    error
	offset int64
}

// ended reports whether the job is done.
func (j *job) ended() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// finish ends the job: what was not sent failed with err.
func (j *job) finish(err error) {
	for len(j.outcomes) < len(j.messages) {
		j.outcomes = append(j.outcomes, outcome{err: err})
	}
	close(j.done)
}

// wait reports whether the job came to its end before ctx did. After that
// nobody reads the records of the call any more.
func (j *job) wait(ctx context.Context) bool {
	select {
	case <-j.done:
		return true
	case <-ctx.Done():
	}
	if j.ended() {
		return true
	}
	j.committer.mu.Lock()
	j.cancelled = true
	j.committer.mu.Unlock()
	return false
}

// submit hands a job to the committer of its stream.
func (b *Broker) submit(ctx context.Context, j *job) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		j.finish(stream.ErrClosed)
		return
	}
	c := b.committers[j.topic.stream]
	if c == nil {
		c = &committer{b: b, jobs: make(chan *job)}
		b.committers[j.topic.stream] = c
		b.wg.Go(c.run)
	}
	b.mu.Unlock()
	j.committer = c
	select {
	case c.jobs <- j:
	case <-ctx.Done():
		j.finish(fmt.Errorf("not sent: %w", ctx.Err()))
	case <-b.ctx.Done():
		j.finish(stream.ErrClosed)
	}
}

// committer writes to one stream, one batch at a time: while a batch is on its
// way to the disk, the calls that come in gather for the next.
type committer struct {
	b    *Broker
	jobs chan *job
	// mu is held while the records of a job are read.
	mu sync.Mutex

	inbox   string // answers to batch n come to inbox.n
	answers chan *nats.Msg
	batches int // how many were sent
}

// run commits until the broker is closed.
func (c *committer) run() {
	// Stale answers are read and dropped before the next is waited for, so a
	// few places suffice.
	c.inbox, c.answers = c.b.nc.NewInbox(), make(chan *nats.Msg, 64)
	// The subscription ends with the connection.
	if _, err := c.b.nc.ChanSubscribe(c.inbox+".*", c.answers); err != nil {
		c.refuse(c.b.explain(c.b.ctx, err))
		return
	}
	var queue []*job
	for {
		if len(queue) == 0 {
			select {
			case j := <-c.jobs:
				queue = append(queue, j)
			case <-c.b.ctx.Done():
				return
			}
		}
		for gathering := true; gathering && len(queue) < maxBatch; {
			select {
			case j := <-c.jobs:
				queue = append(queue, j)
			default:
				gathering = false
			}
		}
		queue = c.commit(queue)
	}
}

// refuse answers every job with err until the broker is closed.
func (c *committer) refuse(err error) {
	for {
		select {
		case j := <-c.jobs:
			j.finish(err)
		case <-c.b.ctx.Done():
			return
		}
	}
}

// share is what one job has in a batch: its next n messages.
type share struct {
	job *job
	n   int
}

// commit writes one batch from the front of the queue and returns the jobs
// that are not done yet.
func (c *committer) commit(queue []*job) []*job {
	c.mu.Lock()
	queue = slices.DeleteFunc(queue, func(j *job) bool { return j.cancelled })
	c.mu.Unlock()
	if len(queue) == 0 {
		return queue
	}
	t := queue[0].topic
	var (
		shares   []share
		messages []*nats.Msg
		size     int
	)
	for _, j := range queue {
		if j.topic != t {
			break // its stream was made again meanwhile
		}
		n := 0
		for _, m := range j.messages[j.sent:] {
			bytes := messageSize(m)
			if len(messages) == maxBatch || len(messages) > 0 && size+bytes > maxBatchBytes {
				break
			}
			messages, size, n = append(messages, m), size+bytes, n+1
		}
		if n == 0 {
			break
		}
		shares = append(shares, share{j, n})
	}

	outcomes := c.write(t, shares, messages)
	for _, s := range shares {
		j := s.job
		j.sent += s.n
		j.outcomes, outcomes = append(j.outcomes, outcomes[:s.n]...), outcomes[s.n:]
		i := slices.IndexFunc(j.outcomes, func(o outcome) bool { return o.err != nil })
		switch {
		case i >= 0:
			c.b.forget(t.name)
			j.finish(errors.New("not sent, because an earlier record failed: " + j.outcomes[i].err.Error()))
		case j.sent == len(j.messages):
			j.finish(nil)
		}
	}
	return slices.DeleteFunc(queue, (*job).ended)
}

// write writes messages to the stream of t and returns what became of each.
func (c *committer) write(t *topic, shares []share, messages []*nats.Msg) []outcome {
	all := func(err error) []outcome { return slices.Repeat([]outcome{{err: err}}, len(messages)) }
	for attempt := 1; ; attempt++ {
		l, err := c.b.connected(c.b.ctx)
		if err != nil {
			return all(err)
		}
		c.mu.Lock()
		for _, s := range shares {
			if s.job.cancelled && attempt > 1 {
				err = errRefused
			}
		}
		if err == nil && (len(messages) < minBatch || !t.atomic) {
			futures := c.sendEach(messages)
			c.mu.Unlock()
			return c.waitEach(l, futures)
		}
		if err == nil {
			err = c.sendBatch(messages)
		}
		c.mu.Unlock()
		if err == nil {
			var last int64
			if last, err = c.waitBatch(l, len(messages)); err == nil {
				outcomes := all(nil)
				for i := range outcomes {
					outcomes[i].offset = last - int64(len(messages)-1-i) // they lie side by side
				}
				return outcomes
			}
		}
		if !errors.Is(err, errRefused) || attempt == batchAttempts {
			return all(err)
		}
		select {
		case <-time.After(time.Duration(attempt) * 20 * time.Millisecond):
		case <-c.b.ctx.Done():
			return all(stream.ErrClosed)
		}
	}
}

// errRefused marks a batch of which the server has written nothing because it
// has too many others open or could not put it down.
var errRefused = errors.New("the server did not take the batch: it has too many open, or no room")

// sendBatch hands messages to the connection as one atomic batch. On return
// they may change.
func (c *committer) sendBatch(messages []*nats.Msg) error {
	id := rand.Text()
	c.batches++
	for i, m := range messages {
		m.Reply = ""
		if i == len(messages)-1 {
			m.Reply = c.inbox + "." + strconv.Itoa(c.batches)
		}
		if m.Header == nil {
			m.Header = nats.Header{}
		}
		m.Header[batchIDHeader] = []string{id}
		m.Header[batchSequenceHeader] = []string{strconv.Itoa(i + 1)}
		if m.Reply != "" {
			m.Header[batchCommitHeader] = []string{"1"}
		}
		if err := c.b.nc.PublishMsg(m); err != nil {
			return c.b.explain(c.b.ctx, err) // without its end the batch is nothing
		}
	}
	return nil
}

// waitBatch waits for the answer to the last batch, of n messages, and returns
// the offset of its last one.
func (c *committer) waitBatch(l *link, n int) (int64, error) {
	timer := time.NewTimer(replyTimeout)
	defer timer.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	want := c.inbox + "." + strconv.Itoa(c.batches)
	for {
		select {
		case m := <-c.answers:
			if m.Subject == want {
				return c.answer(m, n)
			}
		case <-look.C:
			// A server that could not write does not always answer.
			if err := c.b.full(); err != nil {
				return 0, fmt.Errorf("%w: %w", err, stream.ErrUnknownOutcome)
			}
		case <-l.down:
			return 0, fmt.Errorf("%w: %w", stream.ErrUnreachable, stream.ErrUnknownOutcome)
		case <-timer.C:
			return 0, fmt.Errorf("%w: %w", stream.ErrUnreachable, stream.ErrUnknownOutcome)
		case <-c.b.ctx.Done():
			return 0, fmt.Errorf("%w: %w", stream.ErrClosed, stream.ErrUnknownOutcome)
		}
	}
}

// answer reads the server's answer to a batch of n messages.
func (c *committer) answer(m *nats.Msg, n int) (last int64, err error) {
	if m.Header.Get("Status") == "503" {
		return 0, c.noStream()
	}
	var ack struct {
		Stream   string              `json:"stream"`
		Sequence int64               `json:"seq"`
		Batch    string              `json:"batch"`
		Count    int                 `json:"count"`
		Error    *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, fmt.Errorf("%w: the answer cannot be read: %w", stream.ErrUnknownOutcome, err)
	}
	if ack.Error != nil {
		return 0, c.refusal(ack.Error)
	}
	if ack.Count != n {
		return 0, fmt.Errorf("%w: the answer speaks of %d records, not of %d", stream.ErrUnknownOutcome, ack.Count, n)
	}
	return ack.Sequence, nil
}

// sendEach hands messages to the connection one by one. On return they may
// change.
func (c *committer) sendEach(messages []*nats.Msg) []future {
	futures := make([]future, len(messages))
	for i, m := range messages {
		m.Reply = ""
		futures[i].ack, futures[i].err = c.b.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
	}
	return futures
}

// future is the answer to come to one message, or why it was not sent.
type future struct {
	ack jetstream.PubAckFuture
	err error
}

func (c *committer) waitEach(l *link, futures []future) []outcome {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	outcomes := make([]outcome, len(futures))
	for i, f := range futures {
		outcomes[i].offset, outcomes[i].err = c.waitOne(l, f, look.C)
	}
	return outcomes
}

func (c *committer) waitOne(l *link, f future, look <-chan time.Time) (int64, error) {
	if f.err != nil {
		return 0, c.b.explain(c.b.ctx, f.err)
	}
	for {
		select {
		case ack := <-f.ack.Ok():
			return int64(ack.Sequence), nil
		case err := <-f.ack.Err():
			var refused *jetstream.APIError
			switch {
			case errors.As(err, &refused):
				return 0, c.refusal(refused)
			case errors.Is(err, nats.ErrNoResponders):
				return 0, c.noStream()
			}
			return 0, fmt.Errorf("%w: %w", c.b.explain(c.b.ctx, err), stream.ErrUnknownOutcome)
		case <-look:
			// A server that could not write does not always answer.
			if err := c.b.full(); err != nil {
				return 0, fmt.Errorf("%w: %w", err, stream.ErrUnknownOutcome)
			}
		case <-l.down:
			return 0, fmt.Errorf("%w: %w", stream.ErrUnreachable, stream.ErrUnknownOutcome)
		case <-c.b.ctx.Done():
			return 0, fmt.Errorf("%w: %w", stream.ErrClosed, stream.ErrUnknownOutcome)
		}
	}
}

// noStream says why nobody listens to a topic's subjects.
func (c *committer) noStream() error {
	if err := c.b.full(); err != nil {
		return err
	}
	return fmt.Errorf("%w, or the server's JetStream is switched off (a full disk does that)", stream.ErrNoTopic)
}

// The codes of a server's refusals that need other words, or another attempt.
const (
	codeInsufficientResources = 10023
	codeStorageExceeded       = 10047
	codeAccountExceeded       = 10002
	codeStoreFailed           = 10077
	codeMessageTooLarge       = 10054
	codeHeaderTooLarge        = 10097
	codeBatchIncomplete       = 10176
	codeTooManyBatches        = 10210
)

// refusal says why the server has written nothing.
func (c *committer) refusal(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case codeInsufficientResources, codeStorageExceeded, codeAccountExceeded, codeStoreFailed:
		if err := c.b.full(); err != nil {
			return err
		}
		return fmt.Errorf("the broker has no room (a full disk, or a limit of the stream or account): %w", e)
	case codeMessageTooLarge, codeHeaderTooLarge:
		return fmt.Errorf("%w: %w", stream.ErrTooLarge, e)
	case codeBatchIncomplete, codeTooManyBatches:
		if err := c.b.full(); err != nil {
			return err
		}
		return fmt.Errorf("%w: %w", errRefused, e)
	}
	return e
}
