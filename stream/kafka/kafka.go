// Package kafka is stream over Apache Kafka, or what speaks its protocol.
//
// A Publisher here is idempotent and waits for all replicas in sync. A source is
// a member of a consumer group that reads committed records only. Every source
// has a client of its own; publishing and asking share one.
package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"penstock/stream"
)

// Config says how to reach a cluster. All but Seeds may be left zero.
type Config struct {
	// Seeds are brokers to ask first, as host:port.
	Seeds []string
	// TLS is used for every connection. nil is plain text.
	TLS *tls.Config
	// SASL is how every connection shows who it is of. nil is not at all.
	SASL sasl.Mechanism
	// ClientID is the name the brokers log. Empty is "penstock".
	ClientID string
	// Logger gets what goes on without an answer to a caller: commits that are
	// tried again, sessions that were lost. nil discards it.
	Logger *slog.Logger
	// MaxValueBytes is the largest value that Publish takes. Zero is
	// stream.MaxValueBytes, which fits Kafka's own default for a batch. A
	// topic's max.message.bytes holds besides.
	MaxValueBytes int
	// Timeout is how long a call waits for brokers that do not answer before it
	// gives up with stream.ErrUnreachable. Fetch waits for as long as its
	// context lets it. Zero is 30 seconds; less than a second is a second.
	Timeout time.Duration
	// SessionTimeout is how long a source may be silent before its partitions
	// are given to others. Zero is 45 seconds, as in Kafka's own client.
	SessionTimeout time.Duration
	// Member, if it is not empty, makes the sources static members of that name:
	// one that is closed keeps its partitions for SessionTimeout, and has them
	// again if it is opened within that. Two that are open at a time in one
	// group need two names.
	Member string
	// ServerBalances has the cluster deal out partitions (KIP-848) in the place
	// of the members. It needs Kafka 4.3, and a group without members that do
	// it otherwise. The cluster then says how long a session is.
	ServerBalances bool
	// Dial opens connections in place of net.Dialer. TLS is not used then.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Broker is a connection to a cluster. It implements stream.Broker.
type Broker struct {
	config Config
	client *kgo.Client
	admin  *kadm.Client
	closed atomic.Bool

	// topics holds a *topic for every name that was found to exist. Publish
	// reads it for every record.
	topics   sync.Map
	together *lanes // of PublishAtomic
	// forgetting is held while a topic is taken out of topics and client.
	forgetting sync.Mutex
}

// Open connects to a cluster. If none of the seeds answers, the error wraps
// stream.ErrUnreachable.
func Open(ctx context.Context, c Config) (*Broker, error) {
	if len(c.Seeds) == 0 {
		return nil, errors.New("open Kafka: no seed brokers")
	}
	c.Seeds = slices.Clone(c.Seeds)
	c.ClientID = cmp.Or(c.ClientID, "penstock")
	c.MaxValueBytes = cmp.Or(c.MaxValueBytes, stream.MaxValueBytes)
	c.Timeout = max(cmp.Or(c.Timeout, 30*time.Second), time.Second)
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 45*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Broker{config: c}
	client, err := kgo.NewClient(append(c.options(),
		kgo.RetryTimeout(c.Timeout),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, true, nil)),
		kgo.ProducerBatchMaxBytesFn(b.maxBatchBytes),
		kgo.MaxBufferedRecords(maxBuffered),
		// Publish hands over all it has at once, and then waits: to linger
		// would only make it wait longer.
		kgo.ProducerLinger(0),
		kgo.UnknownTopicRetries(2),
		kgo.AllowIdempotentProduceCancellation(), // so that the timeout holds, and ctx
	)...)
	if err != nil {
		return nil, fmt.Errorf("open Kafka: %w", err)
	}
	b.client, b.admin = client, kadm.NewClient(client)
	b.together = newLanes(b)

	ping, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := client.Ping(ping); err != nil {
		client.Close()
		return nil, fmt.Errorf("open Kafka at %s: %w", strings.Join(c.Seeds, ","), translate(ctx, err))
	}
	return b, nil
}

// maxBuffered bounds the records that concurrent Publish calls have in flight.
const maxBuffered = 100_000

// options are those that publishing and reading share.
func (c Config) options() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Seeds...),
		kgo.ClientID(c.ClientID),
		kgo.WithLogger(logger{c.Logger}),
		kgo.DisableClientMetrics(),
		// Metadata is asked for when something is amiss; the default of 5 s
		// only makes a moved partition or a new topic take that long.
		kgo.MetadataMinAge(250 * time.Millisecond),
	}
	if c.SASL != nil {
		opts = append(opts, kgo.SASL(c.SASL))
	}
	if c.Dial != nil {
		return append(opts, kgo.Dialer(c.Dial))
	}
	opts = append(opts, kgo.DialTimeout(min(c.Timeout, 10*time.Second)))
	if c.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(c.TLS))
	}
	return opts
}

// topic is what is known of one life of a topic.
type topic struct {
	id         kadm.TopicID
	cluster    string
	partitions int
	// maxBytes is the topic's max.message.bytes: the limit of a batch.
	maxBytes int
}

// defaultMaxBytes is Kafka's default of max.message.bytes.
const defaultMaxBytes = 1<<20 + 12

func (t *topic) partition(name string, number int32) stream.Partition {
	return stream.Partition{Cluster: t.cluster, Topic: name, Incarnation: t.id.String(), Number: number}
}

// ask is the context of one request.
func (b *Broker) ask(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.config.Timeout)
}

// usable says why a call cannot go on.
func (b *Broker) usable(ctx context.Context) error {
	if b.closed.Load() {
		return stream.ErrClosed
	}
	return ctx.Err()
}

// lookup asks the cluster for a topic as it is now.
func (b *Broker) lookup(ctx context.Context, name string) (*topic, error) {
	if name == "" {
		return nil, fmt.Errorf("the name is empty: %w", stream.ErrNoTopic)
	}
	asked, cancel := b.ask(ctx)
	defer cancel()
	const tries, pause = 3, 50 * time.Millisecond
	for try := 1; ; try++ {
		m, err := b.admin.Metadata(asked, name)
		if err != nil {
			return nil, translate(ctx, err)
		}
		detail := m.Topics[name]
		switch {
		case detail.Err == nil:
			return &topic{id: detail.ID, cluster: m.Cluster, partitions: len(detail.Partitions), maxBytes: defaultMaxBytes}, nil
		case !errors.Is(detail.Err, kerr.UnknownTopicOrPartition), try == tries:
			return nil, translate(ctx, detail.Err)
		}
		// The brokers learn of a new topic one after the other.
		select {
		case <-asked.Done():
		case <-time.After(pause):
		}
	}
}

// known returns the topic of that name from memory, and asks the cluster only
// for the first time.
func (b *Broker) known(ctx context.Context, name string) (*topic, error) {
	if t, ok := b.topics.Load(name); ok {
		return t.(*topic), nil
	}
	t, err := b.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	asked, cancel := b.ask(ctx)
	defer cancel()
	// Whoever may write to a topic may perhaps not read its settings. Then the
	// default is assumed, and the broker refuses what is too large for it.
	configs, err := b.admin.DescribeTopicConfigs(asked, name)
	if err == nil && len(configs) == 1 {
		for _, c := range configs[0].Configs {
			if n, err := strconv.Atoi(c.MaybeValue()); err == nil && c.Key == "max.message.bytes" {
				t.maxBytes = n
			}
		}
	}
	first, _ := b.topics.LoadOrStore(name, t)
	return first.(*topic), nil
}

// forget drops what is known of a topic that turned out to be another one now.
func (b *Broker) forget(name string, t *topic) {
	b.forgetting.Lock()
	defer b.forgetting.Unlock()
	if b.topics.CompareAndDelete(name, t) {
		b.client.PurgeTopicsFromProducing(name)
	}
}

// maxBatchBytes says how large batches to a topic may get: what the topic
// takes, but no more than helps.
func (b *Broker) maxBatchBytes(name string) int32 {
	const overhead = 64 << 10 // for the key and headers of a record of MaxValueBytes
	size := max(defaultMaxBytes, b.config.MaxValueBytes+overhead)
	if t, ok := b.topics.Load(name); ok {
		size = min(size, t.(*topic).maxBytes)
	}
	return int32(min(max(size, 512), 1<<30))
}

// Create implements stream.Broker. It returns when every partition has a leader.
// A topic gets the cluster's default replication factor.
func (b *Broker) Create(ctx context.Context, name string, partitions int) error {
	if err := b.create(ctx, name, partitions); err != nil {
		return fmt.Errorf("create topic %q: %w", name, err)
	}
	return nil
}

func (b *Broker) create(ctx context.Context, name string, partitions int) error {
	if err := b.usable(ctx); err != nil {
		return err
	}
	const most = 1 << 20
	switch {
	case partitions < 0 || partitions > most:
		return fmt.Errorf("%d is not a number of partitions, want 0 to %d", partitions, most)
	case partitions == 0:
		partitions = -1
	}
	asked, cancel := b.ask(ctx)
	defer cancel()
	resp, err := b.admin.CreateTopic(asked, int32(partitions), -1, nil, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		if resp.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, resp.ErrMessage)
		}
		return translate(ctx, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := b.admin.Metadata(asked, name)
		if err != nil {
			return translate(ctx, err)
		}
		detail := m.Topics[name]
		ready := detail.Err == nil && len(detail.Partitions) > 0
		// A broker may still know one of that name that was deleted.
		ready = ready && (resp.ID == kadm.TopicID{} || detail.ID == resp.ID)
		for _, p := range detail.Partitions {
			ready = ready && p.Err == nil
		}
		if ready {
			return nil
		}
		select {
		case <-asked.Done():
			return translate(ctx, fmt.Errorf("wait for its partitions: %w", asked.Err()))
		case <-tick.C:
		}
	}
}

// Ranges implements stream.Broker. End is behind the last record that can be
// read: neither the markers of transactions nor what was aborted are records.
// Records counts offsets: where a topic is compacted, or written to in
// transactions, there are fewer records than that.
func (b *Broker) Ranges(ctx context.Context, name string) ([]stream.Range, error) {
	ranges, err := b.ranges(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ranges of topic %q: %w", name, err)
	}
	return ranges, nil
}

func (b *Broker) ranges(ctx context.Context, name string) ([]stream.Range, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	t, err := b.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	asked, cancel := b.ask(ctx)
	defer cancel()
	for {
		ranges, err := b.listed(asked, name, t)
		switch {
		case err == nil:
			return ranges, b.trim(asked, name, t, ranges)
		case !moved(err) || !wait(asked):
			return nil, translate(ctx, err)
		}
	}
}

// listed are the ranges up to where transactions have ended.
func (b *Broker) listed(ctx context.Context, name string, t *topic) ([]stream.Range, error) {
	starts, err := b.admin.ListStartOffsets(ctx, name)
	if err != nil {
		return nil, err
	}
	ends, err := b.admin.ListCommittedOffsets(ctx, name)
	if err != nil {
		return nil, err
	}
	ranges := make([]stream.Range, t.partitions)
	for i := range ranges {
		start, _ := starts.Lookup(name, int32(i))
		end, _ := ends.Lookup(name, int32(i))
		if err := cmp.Or(start.Err, end.Err); err != nil {
			return nil, fmt.Errorf("partition %d: %w", i, err)
		}
		ranges[i] = stream.Range{
			Partition: t.partition(name, int32(i)),
			Start:     start.Offset, End: end.Offset, Records: end.Offset - start.Offset,
		}
	}
	return ranges, nil
}

// Close implements stream.Broker. It may be called more than once. A Publish
// that waits returns stream.ErrClosed for what was not written yet.
func (b *Broker) Close() error {
	if !b.closed.Swap(true) {
		b.client.Close()
		b.together.close()
	}
	return nil
}

// ended tells whether err is there because ctx ended.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// translate wraps err in the error of package stream that says the same.
func translate(ctx context.Context, err error) error {
	var network net.Error
	switch {
	case ended(ctx, err):
		return ctx.Err()
	case errors.Is(err, kgo.ErrClientClosed):
		return stream.ErrClosed
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InvalidTopicException):
		return fmt.Errorf("%w (%w)", stream.ErrNoTopic, err)
	case errors.Is(err, kgo.ErrRecordRetries),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF), errors.As(err, &network):
		return fmt.Errorf("%w: %w", stream.ErrUnreachable, err)
	}
	return err
}

// logger passes the client's warnings and errors on.
type logger struct{ to *slog.Logger }

func (l logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l logger) Log(level kgo.LogLevel, message string, keyvals ...any) {
	at := slog.LevelWarn
	if level == kgo.LogLevelError {
		at = slog.LevelError
	}
	l.to.Log(context.Background(), at, "kafka client: "+message, keyvals...)
}
