package federated

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"penstock/stream"
)

// MaxShards is how many shards a training may have.
const MaxShards = 64

// Shards say that several aggregators share the rounds of a training: each reads some of
// the partitions of the updates topic and sends the sum of what lies there. The zero value
// is none.
type Shards struct {
	Of         int // how many they are
	Partitions int // of the updates topic
}

func (s Shards) check() error {
	if s != (Shards{}) && (s.Of < 1 || s.Of > min(s.Partitions, MaxShards)) {
		return fmt.Errorf("expected from 1 to %d shards, and at most one for each of the %d partitions of the updates, found %d", MaxShards, s.Partitions, s.Of)
	}
	return nil
}

// reads says that shard i reads a partition.
func (s Shards) reads(i int, partition int32) bool { return int(partition)%s.Of == i }

// Name is that of shard i, counted from 0: the first of shard-1, shard-1-2, shard-1-3 and
// so on that as a key falls into partition i of a topic that has one for each shard. So
// the sums lie, and are added up, in the order of the shards.
func (s Shards) Name(i int) string {
	name := fmt.Sprintf("shard-%d", i+1)
	for k, first := 2, name; int(stream.PartitionFor([]byte(name), s.Of)) != i; k++ {
		name = fmt.Sprintf("%s-%d", first, k)
	}
	return name
}

// names are those of all, in their order.
func (s Shards) names() []string {
	out := make([]string, s.Of)
	for i := range out {
		out[i] = s.Name(i)
	}
	return out
}

// of is the shard that reads the updates of a client.
func (s Shards) of(client string) int {
	return int(stream.PartitionFor([]byte(client), s.Partitions)) % s.Of
}

func (s Shards) value() any {
	if s == (Shards{}) {
		return nil
	}
	return map[string]any{"of": int32(s.Of), "partitions": int32(s.Partitions)}
}

func readShards(v any) (Shards, error) {
	f, _ := v.(map[string]any)
	if f == nil {
		return Shards{}, nil
	}
	of, ok1 := f["of"].(int32)
	partitions, ok2 := f["partitions"].(int32)
	s := Shards{Of: int(of), Partitions: int(partitions)}
	if !ok1 || !ok2 || s.Of == 0 {
		return s, errors.New("at /shards: expected of and partitions")
	}
	if err := s.check(); err != nil {
		return s, fmt.Errorf("at /shards: %w", err)
	}
	return s, nil
}

// senders are all whom the aggregator that published m may hear from.
func (m Model) senders() []string {
	if m.Shards.Of > 0 {
		return m.Shards.names()
	}
	return m.Clients
}

// answering are those of them who have an answer to m: the clients that are asked, or the
// shards that have some of those.
func (m Model) answering() (names []string) {
	if m.Shards.Of == 0 {
		return m.Asked()
	}
	has := make([]bool, m.Shards.Of)
	for _, client := range m.Asked() {
		has[m.Shards.of(client)] = true
	}
	for i, name := range m.Shards.names() {
		if has[i] {
			names = append(names, name)
		}
	}
	return names
}

// sums says that a sender sends sums of updates.
func (m Model) sums(sender string) bool {
	return m.Shards.Of > 0 || slices.Contains(m.Edges, sender)
}

// Shard is m as it is for the clients of one of its shards: RecomputePartial makes that
// shard's sum again from it. ok is false where m has no such shard.
func (m Model) Shard(name string) (_ Model, ok bool) {
	i := slices.Index(m.Shards.names(), name)
	if i < 0 {
		return m, false
	}
	own := func(clients []string) (out []string) {
		for _, client := range clients {
			if m.Shards.of(client) == i {
				out = append(out, client)
			}
		}
		return out
	}
	next := m
	next.Clients, next.Sample, next.Edge, next.Shards = own(m.Clients), own(m.Sample), name, Shards{}
	// As many as above at least, all together.
	n := max(1, len(next.Clients))
	next.Addends = int64((m.addends() + n - 1) / n)
	return next, true
}

// fromShard says what is wrong with the clients in a sum of one of m's shards: each is to
// be that shard's, asked, and there once.
func (m Model) fromShard(u Update) error {
	own, ok := m.Shard(u.Client)
	left := map[string]bool{}
	for _, client := range own.Asked() {
		left[client] = ok
	}
	for i, c := range u.Partial.Contributions {
		if !left[c.Client] || c.Updates != 0 {
			return fmt.Errorf("at /partial/contributions/%d: expected one update of each client of the shard, found %.100q", i, c.Client)
		}
		left[c.Client] = false
	}
	return nil
}

// whole is why a round ends that all have answered: the sums of shards may be of fewer
// than were asked, and then there was a deadline.
func (a *Aggregator) whole() string {
	if a.model.Shards.Of == 0 {
		return Complete
	}
	updates := 0
	for _, p := range a.parts {
		updates += int(p.totals.Updates)
	}
	if updates < len(a.model.Asked()) {
		return ByDeadline
	}
	return Complete
}

// expires is when the round of m is ended without those who have not answered, in Unix
// milliseconds, 0 being never: at its deadline, and where that is when shards send what
// has come, a while later.
func (a *Aggregator) expires(m Model) int64 {
	if m.Deadline == 0 || m.Shards.Of == 0 {
		return m.Deadline
	}
	return m.Deadline + min(a.config.Deadline, catchUpTime).Milliseconds()
}

// shard says that this is one. nil is not.
func (a *above) shard() bool { return a != nil && a.config.Shards.Of > 0 }

// reads says that the updates of a partition are this aggregator's.
func (a *above) reads(partition int32) bool {
	return !a.shard() || a.config.Shards.reads(a.config.Shard, partition)
}

// catchUp follows the newest model above, of a shard: its clients see that as soon as the
// shard does, and what they make of it must not come before it.
func (a *above) catchUp(ctx context.Context) error {
	if !a.shard() {
		return nil
	}
	ranges, err := a.root.config.Broker.Ranges(ctx, a.root.config.Models)
	if err != nil {
		return fmt.Errorf("read models above: %w", err)
	}
	if len(ranges) == 1 && ranges[0].End == a.root.seen {
		return nil
	}
	m, found, err := a.root.last(ctx)
	if err != nil {
		return fmt.Errorf("read last model above: %w", err)
	}
	if !found {
		return nil
	}
	if err = a.edge.advance(ctx, m); err != nil {
		a.root.seen = -1 // to be looked at again
	}
	return err
}

// Reads is the broker of a shard's updates: it leaves the partitions of other shards out.
func (e *Edge) Reads(b stream.Broker) stream.Broker { return ownPartitions{b, e.a.above.reads} }

type ownPartitions struct {
	stream.Broker
	reads func(partition int32) bool
}

func (b ownPartitions) Open(ctx context.Context, s stream.Subscription) (stream.SourceCloser, error) {
	src, err := b.Broker.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	pauser, ok := src.(stream.Pauser)
	if !ok {
		return nil, errors.Join(fmt.Errorf("read some partitions of %q: %w", s.Topic, stream.ErrUnsupported), src.Close())
	}
	return ownSource{src, pauser, b.reads}, nil
}

type ownSource struct {
	stream.SourceCloser
	pauser stream.Pauser
	reads  func(partition int32) bool
}

// Fetch passes over what is of other partitions, and has no more of them fetched.
func (s ownSource) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	for {
		records, ack, err := s.SourceCloser.Fetch(ctx, max)
		if err != nil || s.reads(records[0].Partition) {
			return records, ack, err
		}
		s.pauser.Pause(records[0].Partition, true)
		if err := ack(ctx, nil); err != nil && !errors.Is(err, stream.ErrFenced) {
			return nil, nil, err
		}
	}
}

// checkShards says what does not go with shards.
func (c *Config) checkShards() error {
	switch {
	case c.Shards.Of == 0:
		return nil
	case len(c.Edges) > 0 || c.Roster != nil || c.MaxNorm > 0 || c.Quorum > 0:
		return errors.New("shards go neither with edges, signed updates nor a quorum, and a largest norm is for the shards to know: expected one aggregator, or edges with clients of their own")
	}
	return c.Shards.check()
}

// checkShard is that of what a shard is told.
func (c *EdgeConfig) checkShard() error {
	switch {
	case c.Shard < 0 || c.Shard >= c.Shards.Of || c.Root == "":
		return fmt.Errorf("expected a shard from 0 to %d, and the topic of the models above, found %d and %q", c.Shards.Of-1, c.Shard, c.Root)
	case len(c.Clients) > 0 || len(c.Edges) > 0 || c.Roster != nil || c.Quorum != 0 || c.Deadline != 0 || c.Fraction != 0:
		return errors.New("the clients of a shard and what ends its rounds are those of the training above")
	}
	return errors.Join(c.Shards.check(), c.checkRounds())
}
