package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"penstock/stream"
)

const (
	// commitEvery is the least time between two commits of a source: what a
	// crash may repeat.
	commitEvery = 500 * time.Millisecond
	// commitWithin bounds the last commit of a partition that is given up.
	commitWithin = 5 * time.Second
	// maxHeldBatches and maxHeldBytes bound what is delivered and not settled.
	// Fetch waits at either bound, but for records that were nacked.
	maxHeldBatches = 4096
	maxHeldBytes   = 256 << 20
)

// source is a member of a consumer group. It implements stream.SourceCloser.
type source struct {
	broker *Broker
	sub    stream.Subscription
	topic  *topic
	client *kgo.Client
	// life is the context of client: its end ends every request.
	life context.Context
	end  context.CancelFunc

	// committing is held while a commit is under way and until its outcome is
	// noted, so that a later commit cannot be overtaken by an earlier one. It
	// is taken before mu.
	committing sync.Mutex
	kick       chan struct{} // there is something to commit
	stop       chan struct{} // closed by Close
	returned   chan struct{} // a batch was settled
	committer  sync.WaitGroup
	closing    sync.Once
	closeErr   error

	mu         sync.Mutex
	onRelease  func(topic string, partition int32, gone bool) // or nil
	partitions map[int32]*partition
	times      map[int32]int32 // how often a partition was assigned
	ready      []*partition    // those that have polled records
	retries    []*batch        // nacked records, by due time
	held       int             // delivered and not settled, of all partitions:
	heldBytes  int             // batches, and bytes
	failed     error           // what Fetch returns from now on
	closed     bool
	interrupt  context.CancelFunc // ends the wait of Fetch
	waiting    bool               // Fetch waits for room
	missing    time.Time          // since when the topic seems to be gone
}

// partition is one assignment of a partition to this source. When it moves and
// comes back, that is another one: acks of the first stay fenced.
type partition struct {
	number     int32
	assignment int32         // see stream.Record
	polled     []*kgo.Record // not delivered yet
	open       openBatches
	held       int   // delivered and not settled: batches
	heldBytes  int   // and bytes
	out        int   // batches that the caller has
	paused     bool  // see stream.Pauser
	leaving    bool  // about to be given up: nothing more is delivered
	committed  int64 // what the broker knows from this source, -1 for nothing
	gone       bool  // revoked or lost
	claimed    bool  // the Owner said where it starts:
	start      kgo.Offset
}

// batch is some records of a partition that are delivered together.
type batch struct {
	partition *partition
	records   []*kgo.Record
	bytes     int
	due       time.Time // when nacked records come again
	settled   bool
}

// Open implements stream.Broker. Kafka knows no deadline for a batch, so HoldFor
// does not matter. What is delivered and not settled is bounded: at 4096 batches
// or 256 MiB, Fetch waits until some of it is settled.
//
// A position that the broker keeps and whose records were deleted meanwhile is
// moved to the oldest record that is left. A position that the Owner keeps is
// not: Fetch returns an error that says so, because only the Owner can tell
// whether the gap matters.
func (b *Broker) Open(ctx context.Context, sub stream.Subscription) (stream.SourceCloser, error) {
	s, err := b.open(ctx, sub)
	if err != nil {
		return nil, fmt.Errorf("open topic %q: %w", sub.Topic, err)
	}
	return s, nil
}

func (b *Broker) open(ctx context.Context, sub stream.Subscription) (*source, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	if sub.Group == "" {
		return nil, errors.New("the subscription names no group")
	}
	if sub.Retry == 0 {
		sub.Retry = 100 * time.Millisecond
	}
	t, err := b.lookup(ctx, sub.Topic)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	s := &source{
		broker: b, sub: sub, topic: t, life: life, end: end,
		kick:       make(chan struct{}, 1),
		stop:       make(chan struct{}),
		returned:   make(chan struct{}, 1),
		partitions: map[int32]*partition{},
		times:      map[int32]int32{},
		interrupt:  func() {},
	}
	reset := kgo.NewOffset().AtStart()
	if sub.Owner != nil {
		reset = kgo.NoResetOffset()
	}
	options := b.config.options()
	if b.config.Member != "" {
		options = append(options, kgo.InstanceID(b.config.Member))
	}
	if b.config.ServerBalances {
		options = append(options, kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer())
	} else {
		options = append(options, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	}
	s.mu.Lock() // what the client calls waits until it is there
	s.client, err = kgo.NewClient(append(options,
		kgo.WithContext(life),
		kgo.ConsumerGroup(sub.Group),
		kgo.ConsumeTopics(sub.Topic),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(reset),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// A partition that is new to a source is asked for once the request
		// that is under way returns.
		kgo.FetchMaxWait(500*time.Millisecond),
		// Else it takes the client ten seconds and more to say that a topic was
		// made again.
		kgo.KeepRetryableFetchErrors(),
		kgo.SessionTimeout(b.config.SessionTimeout),
		kgo.HeartbeatInterval(b.config.SessionTimeout/15),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(s.assigned),
		kgo.OnPartitionsRevoked(s.revoked),
		kgo.OnPartitionsLost(s.lost),
		kgo.AdjustFetchOffsetsFn(s.starts),
	)...)
	s.mu.Unlock()
	if err != nil {
		end()
		return nil, err
	}
	s.committer.Go(s.commitLoop)
	return s, nil
}

// Fetch implements stream.Source.
func (s *source) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	if max < 1 {
		return nil, nil, fmt.Errorf("fetch from topic %q: max is %d, want at least 1", s.sub.Topic, max)
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		s.mu.Lock()
		if err := s.ended(); err != nil {
			s.mu.Unlock()
			return nil, nil, err
		}
		if b := s.next(max); b != nil {
			s.mu.Unlock()
			return b.delivered(), func(_ context.Context, err error) error { return s.settle(b, err) }, nil
		}
		wait, cancel := s.prepareWait(ctx)
		waiting := s.waiting
		s.mu.Unlock()

		if waiting {
			<-wait.Done()
		} else {
			s.poll(wait)
		}
		cancel()
	}
}

// prepareWait returns the context of a wait for records, or for room if there
// is none: it ends when the next nacked record is due, and on interrupt. It is
// called with s.mu held.
func (s *source) prepareWait(ctx context.Context) (wait context.Context, cancel context.CancelFunc) {
	if len(s.retries) > 0 {
		wait, cancel = context.WithDeadline(ctx, s.retries[0].due)
	} else {
		wait, cancel = context.WithCancel(ctx)
	}
	s.interrupt, s.waiting = cancel, s.full()
	return wait, cancel
}

// ended says why nothing more comes. It is called with s.mu held.
func (s *source) ended() error {
	if s.closed {
		return stream.ErrClosed
	}
	return s.failed
}

// topicGone tells whether the source ended because its topic did: then there is
// nothing left to commit. It is called with s.mu held.
func (s *source) topicGone() bool {
	return errors.Is(s.failed, stream.ErrTopicChanged) || errors.Is(s.failed, stream.ErrNoTopic)
}

// fail ends the source with err.
func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	s.interrupt()
}

func (s *source) full() bool { return s.held >= maxHeldBatches || s.heldBytes >= maxHeldBytes }

// next returns the next batch, if there is one: nacked records that are due,
// else new ones. It is called with s.mu held.
func (s *source) next(max int) *batch {
	if len(s.retries) > 0 && !s.retries[0].due.After(time.Now()) {
		b := s.retries[0]
		b.partition.out++
		if len(b.records) <= max {
			s.retries = s.retries[1:]
			return b
		}
		s.release(b)
		part := newBatch(b.partition, b.records[:max:max])
		b.records, b.bytes = b.records[max:], b.bytes-part.bytes
		s.hold(part)
		s.hold(b)
		return part
	}
	i := slices.IndexFunc(s.ready, func(p *partition) bool { return !p.paused })
	if i < 0 || s.full() {
		return nil
	}
	p := s.ready[i]
	s.ready = slices.Delete(s.ready, i, i+1)
	n := min(max, len(p.polled))
	b := newBatch(p, p.polled[:n:n])
	p.polled = p.polled[n:]
	if len(p.polled) > 0 {
		s.ready = append(s.ready, p) // behind the others
	}
	p.open.deliver(positionOf(b.records[0]), positionOf(b.records[n-1]))
	s.count(p, 1, b.bytes)
	p.out++
	return b
}

// delivered are the records of b as a caller of Fetch gets them.
func (b *batch) delivered() []stream.Record {
	records := fromKafka(b.records)
	for i := range records {
		records[i].Assignment = b.partition.assignment
	}
	return records
}

func newBatch(p *partition, records []*kgo.Record) *batch {
	b := &batch{partition: p, records: records}
	for _, r := range records {
		b.bytes += len(r.Key) + len(r.Value)
	}
	return b
}

// poll waits for records and takes them over. After errors alone it waits a
// little, because the client would return the same ones at once.
func (s *source) poll(ctx context.Context) {
	const pause = 50 * time.Millisecond
	fetches := s.client.PollFetches(ctx)
	got, gone := s.take(ctx, fetches)
	s.client.AllowRebalance()
	if gone {
		s.checkTopic(ctx)
	}
	if !got {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// take takes over what was polled; until it is done, no partition moves. It
// reports whether there were records, and whether the topic seems to be gone.
func (s *source) take(ctx context.Context, fetches kgo.Fetches) (got, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range fetches {
		for _, t := range f.Topics {
			if t.TopicID != [16]byte{} && t.TopicID != s.topic.id {
				gone = true // made again after Open looked, before the client did
				continue
			}
			for _, tp := range t.Partitions {
				if tp.Err != nil {
					gone = s.pollError(ctx, tp.Partition, tp.Err) || gone
				}
				p := s.partitions[tp.Partition]
				if len(tp.Records) == 0 || p == nil || p.leaving {
					continue
				}
				got = true
				if len(p.polled) == 0 {
					p.polled = tp.Records
					s.ready = append(s.ready, p)
				} else {
					p.polled = append(p.polled, tp.Records...)
				}
			}
		}
	}
	return got, gone
}

// pollError decides about an error of the client. Most of them pass: the client
// tries again by itself. It reports whether the topic seems to be gone, and is
// called with s.mu held.
func (s *source) pollError(ctx context.Context, number int32, err error) (gone bool) {
	var (
		session *kgo.ErrGroupSession
		broker  *kerr.Error
		network net.Error
		loss    *kgo.ErrDataLoss
	)
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()), errors.Is(err, kgo.ErrClientClosed):
		return false
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
		return true
	case s.failed != nil:
		return false
	case errors.Is(err, kerr.OffsetOutOfRange):
		s.failed = fmt.Errorf("read topic %q, partition %d: %w", s.sub.Topic, number, stream.ErrPosition)
	case errors.As(err, &loss):
		s.broker.config.Logger.Error("kafka: the broker lost records", "topic", s.sub.Topic, "partition", number, "group", s.sub.Group, "err", err)
	case errors.As(err, &session) && !fatalToGroup(err):
		s.broker.config.Logger.Warn("kafka: group session lost, joining again", "topic", s.sub.Topic, "group", s.sub.Group, "err", err)
	case errors.As(err, &broker) && broker.Retriable, errors.As(err, &network):
	default:
		s.failed = fmt.Errorf("read topic %q, partition %d: %w", s.sub.Topic, number, err)
	}
	return false
}

// fatalToGroup tells errors that joining again does not mend.
func fatalToGroup(err error) bool {
	return slices.ContainsFunc([]error{
		kerr.GroupAuthorizationFailed, kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed,
		kerr.InvalidGroupID, kerr.InconsistentGroupProtocol, kerr.GroupMaxSizeReached, kerr.InvalidSessionTimeout,
		kerr.UnsupportedVersion, kerr.SaslAuthenticationFailed,
	}, func(fatal error) bool { return errors.Is(err, fatal) })
}

// checkTopic ends the source if its topic is no longer the one it opened.
func (s *source) checkTopic(ctx context.Context) {
	t, err := s.broker.lookup(ctx, s.sub.Topic)
	switch {
	case errors.Is(err, stream.ErrNoTopic):
		// A broker that just started may not know the topic yet.
		const grace = 5 * time.Second
		s.mu.Lock()
		if s.missing.IsZero() {
			s.missing = time.Now()
		}
		late := time.Since(s.missing) > grace
		s.mu.Unlock()
		if late {
			s.fail(fmt.Errorf("read topic %q: %w", s.sub.Topic, err))
		}
	case ctx.Err() != nil:
	case err != nil:
		s.broker.config.Logger.Warn("kafka: cannot ask for a topic", "topic", s.sub.Topic, "err", err)
	case t.id != s.topic.id:
		s.fail(fmt.Errorf("read topic %q: %w", s.sub.Topic, stream.ErrTopicChanged))
	default:
		s.mu.Lock()
		s.missing = time.Time{}
		s.mu.Unlock()
	}
}

// settle is the AckFunc of b.
func (s *source) settle(b *batch, err error) error {
	var some *stream.BatchError
	if errors.As(err, &some) {
		for i := range some.Errs {
			if i < 0 || i >= len(b.records) {
				return fmt.Errorf("settle a batch of %d records: it has no record %d", len(b.records), i)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := b.partition
	switch {
	case b.settled:
		return nil
	case s.closed:
		return stream.ErrClosed
	case p.gone:
		return stream.ErrFenced
	}
	b.settled = true
	p.out--
	s.release(b)
	again := b.records
	switch {
	case err == nil:
		again = nil
	case some != nil:
		again = make([]*kgo.Record, 0, len(some.Errs))
		for i, r := range b.records {
			if _, failed := some.Errs[i]; failed {
				again = append(again, r)
			}
		}
	}
	if len(again) > 0 {
		retry := newBatch(p, again)
		retry.due = time.Now().Add(s.sub.Retry)
		s.hold(retry)
		if !p.leaving {
			s.retries = append(s.retries, retry)
		}
	}
	if len(again) > 0 || s.waiting {
		s.interrupt()
	}
	signal(s.kick)
	signal(s.returned)
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Pause implements stream.Pauser.
func (s *source) Pause(number int32, pause bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.partitions[number]
	if p == nil {
		return
	}
	p.paused = pause
	which := map[string][]int32{s.sub.Topic: {number}}
	if pause {
		s.client.PauseFetchPartitions(which)
		return
	}
	s.client.ResumeFetchPartitions(which)
	s.interrupt() // some of it may have been polled
}

// OnRelease implements stream.Releaser.
func (s *source) OnRelease(f func(topic string, partition int32, gone bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onRelease = f
}

// hold notes that b is not settled, and release that it is. They, and count,
// are called with s.mu held.
func (s *source) hold(b *batch) {
	b.partition.open.open(positionOf(b.records[0]))
	s.count(b.partition, 1, b.bytes)
}

func (s *source) release(b *batch) {
	b.partition.open.close(b.records[0].Offset)
	s.count(b.partition, -1, -b.bytes)
}

func (s *source) count(p *partition, batches, bytes int) {
	p.held += batches
	p.heldBytes += bytes
	s.held += batches
	s.heldBytes += bytes
}

func positionOf(r *kgo.Record) position { return position{r.Offset, r.LeaderEpoch} }

// assigned is called when partitions come to this source, revoked when they are
// taken, and lost when they have been taken already. None of them is called at
// the same time as another, as starts, or between a poll and its end.
func (s *source) assigned(_ context.Context, _ *kgo.Client, numbers map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range numbers[s.sub.Topic] {
		s.partitions[n] = &partition{number: n, assignment: s.times[n], committed: -1, open: openBatches{next: position{offset: -1}}}
		s.times[n]++
	}
	s.client.ResumeFetchPartitions(numbers)
}

func (s *source) revoked(ctx context.Context, _ *kgo.Client, numbers map[string][]int32) {
	s.settleLast(ctx, numbers[s.sub.Topic])
	s.giveUp(ctx, numbers[s.sub.Topic], true)
}

// holdLongest bounds the wait for batches of a partition that is to go, below
// the 60 seconds that a group waits for a member.
const holdLongest = 30 * time.Second

// settleLast warns who asked for it that partitions are about to go, and waits
// for what is delivered of them to be settled.
func (s *source) settleLast(ctx context.Context, numbers []int32) {
	s.mu.Lock()
	var leaving []*partition
	tell := s.onRelease
	if tell != nil && !s.closed {
		for _, n := range numbers {
			if p := s.partitions[n]; p != nil {
				p.leaving, p.polled = true, nil
				leaving = append(leaving, p)
			}
		}
	}
	s.ready = slices.DeleteFunc(s.ready, func(p *partition) bool { return p.leaving })
	s.retries = slices.DeleteFunc(s.retries, func(b *batch) bool { return b.partition.leaving })
	s.mu.Unlock()
	for _, p := range leaving {
		tell(s.sub.Topic, p.number, false)
	}
	wait, cancel := context.WithTimeout(ctx, min(cmp.Or(s.sub.HoldFor, 10*time.Second), holdLongest))
	defer cancel()
	for {
		s.mu.Lock()
		some := !s.closed && s.failed == nil && slices.ContainsFunc(leaving, func(p *partition) bool { return p.out > 0 })
		s.mu.Unlock()
		if !some {
			return
		}
		select {
		case <-s.returned:
		case <-wait.Done():
			return
		}
	}
}

func (s *source) lost(ctx context.Context, _ *kgo.Client, numbers map[string][]int32) {
	s.giveUp(ctx, numbers[s.sub.Topic], false)
}

// giveUp fences what is unsettled of partitions, stores how far they came if
// they are still this source's, and tells the Owner.
func (s *source) giveUp(ctx context.Context, numbers []int32, commit bool) {
	var gone []*partition
	var claimed []stream.Partition
	s.mu.Lock()
	for _, n := range numbers {
		p := s.partitions[n]
		if p == nil {
			continue
		}
		p.gone = true
		delete(s.partitions, n)
		gone = append(gone, p)
		if p.claimed {
			claimed = append(claimed, s.topic.partition(s.sub.Topic, n))
		}
	}
	s.ready = slices.DeleteFunc(s.ready, func(p *partition) bool { return p.gone })
	s.retries = slices.DeleteFunc(s.retries, func(b *batch) bool { return b.partition.gone })
	for _, p := range gone {
		s.count(p, -p.held, -p.heldBytes)
	}
	s.interrupt() // there may be room again
	commit = commit && !s.topicGone()
	told := s.onRelease
	s.mu.Unlock()
	if told != nil {
		for _, p := range gone {
			told(s.sub.Topic, p.number, true)
		}
	}

	if commit && len(gone) > 0 {
		if err := s.commitLast(ctx, gone); err != nil {
			s.broker.config.Logger.Error("kafka: positions were not stored as partitions were given up, records will come again",
				"topic", s.sub.Topic, "group", s.sub.Group, "err", err)
		}
	}
	if len(claimed) > 0 {
		if err := s.sub.Owner.Lost(ctx, claimed); err != nil {
			s.fail(fmt.Errorf("give up partitions of topic %q: %w", s.sub.Topic, err))
		}
	}
}

// claimAgain is how long a source waits before it claims again what someone else
// was faster to claim.
const claimAgain = 100 * time.Millisecond

// starts has the Owner say where partitions start that are new to this source.
func (s *source) starts(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	if s.sub.Owner == nil {
		return offsets, nil
	}
	s.mu.Lock()
	err := s.failed
	var claim []stream.Partition
	for n := range offsets[s.sub.Topic] {
		if p := s.partitions[n]; p != nil && p.claimed {
			offsets[s.sub.Topic][n] = p.start // the client asks again after a rebalance came between
		} else {
			claim = append(claim, s.topic.partition(s.sub.Topic, n))
		}
	}
	s.mu.Unlock()
	if err != nil || len(claim) == 0 {
		return offsets, err
	}
	slices.SortFunc(claim, func(a, b stream.Partition) int { return int(a.Number - b.Number) })
	starts, err := s.sub.Owner.Assigned(ctx, claim)
	for errors.Is(err, stream.ErrFenced) && ctx.Err() == nil {
		select {
		case <-time.After(claimAgain):
			starts, err = s.sub.Owner.Assigned(ctx, claim)
		case <-s.stop:
			return nil, err
		case <-ctx.Done():
		}
	}
	if err != nil {
		err = fmt.Errorf("claim partitions of topic %q: %w", s.sub.Topic, err)
		if ctx.Err() == nil { // else the group is balancing anew, and asks again
			s.fail(err)
		}
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range claim {
		at := kgo.NewOffset().AtStart()
		if offset, ok := starts[c]; ok {
			at = kgo.NewOffset().At(offset).WithEpoch(-1)
		}
		offsets[s.sub.Topic][c.Number] = at
		if p := s.partitions[c.Number]; p != nil {
			p.claimed, p.start = true, at
		}
	}
	return offsets, nil
}

// commitLoop commits soon after something was settled, and not too often.
func (s *source) commitLoop() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-pause.C:
		}
		select {
		case <-s.stop:
			return
		case <-s.kick:
		}
		ctx, cancel := context.WithTimeout(s.life, s.broker.config.Timeout)
		if err := s.commit(ctx, nil); err != nil {
			s.broker.config.Logger.Warn("kafka: commit failed, trying again", "topic", s.sub.Topic, "group", s.sub.Group, "err", err)
			select {
			case s.kick <- struct{}{}:
			default:
			}
		}
		cancel()
		pause.Reset(commitEvery)
	}
}

// commitLast commits what is left to commit of partitions, or of all if there
// are none given, and tries again for a while.
func (s *source) commitLast(ctx context.Context, partitions []*partition) error {
	ctx, cancel := context.WithTimeout(ctx, commitWithin)
	defer cancel()
	for {
		err := s.commit(ctx, partitions)
		var broker *kerr.Error
		if err == nil || !errors.As(err, &broker) || !broker.Retriable && !errors.Is(err, kerr.RebalanceInProgress) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// commit stores how far partitions have come, or all that this source holds.
// What is stored never passes a record that is not settled.
func (s *source) commit(ctx context.Context, partitions []*partition) error {
	s.committing.Lock()
	defer s.committing.Unlock()
	s.mu.Lock()
	if partitions == nil {
		for _, p := range s.partitions {
			partitions = append(partitions, p)
		}
	}
	offsets := map[int32]kgo.EpochOffset{}
	for _, p := range partitions {
		if at := p.open.low(); at.offset >= 0 && at.offset != p.committed {
			offsets[p.number] = kgo.EpochOffset{Epoch: at.epoch, Offset: at.offset}
		}
	}
	s.mu.Unlock()
	if len(offsets) == 0 {
		return nil
	}

	var failed error
	stored := map[int32]bool{}
	s.client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{s.sub.Topic: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				failed = err
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						failed = fmt.Errorf("partition %d: %w", p.Partition, err)
					} else {
						stored[p.Partition] = true
					}
				}
			}
		})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range partitions {
		if stored[p.number] {
			p.committed = offsets[p.number].Offset
		}
	}
	return failed
}

// Close implements stream.SourceCloser. It stores what is settled; the error
// says that this failed, so that some records will come again, or that
// Owner.Lost failed. It takes no longer than about ten seconds, with or without
// the broker.
func (s *source) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		before, gone := s.failed, s.topicGone()
		s.closed = true
		signal(s.returned)
		s.interrupt()
		s.mu.Unlock()
		close(s.stop)
		stopLate := time.AfterFunc(2*commitWithin, s.end)
		defer stopLate.Stop()
		s.committer.Wait()
		var err error
		if !gone {
			err = s.commitLast(s.life, nil)
		}
		s.client.CloseAllowingRebalance()
		s.end()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed != nil && before == nil {
			err = errors.Join(err, s.failed)
		}
		if err != nil {
			s.closeErr = fmt.Errorf("close source of topic %q: %w", s.sub.Topic, err)
		}
	})
	return s.closeErr
}
