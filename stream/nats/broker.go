// Package nats is a stream.Broker over NATS JetStream: on servers that run
// already (Open), or on one that it serves itself from a folder (OpenDir).
//
// A topic is one stream, its partition n the subject "<stream>.<n>". A stream
// that Penstock did not make is read as one partition. Offsets are sequences of
// the stream, so those of one partition have gaps.
//
// The members of a group share its partitions by JetStream's pinned clients,
// see docs/adr/0004-jetstream-groups.md. Reading needs nats-server 2.14 or
// newer.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

const (
	// defaultPartitions is what Create makes where it is not told.
	defaultPartitions = 4
	// maxPartitions keeps the list of a stream's subjects at a sane length.
	maxPartitions = 10_000
	// connectTimeout bounds the wait for a server that does not answer.
	connectTimeout = 2 * time.Second
	// replyTimeout bounds the wait for an answer where the caller's context
	// has no earlier deadline.
	replyTimeout = 10 * time.Second
)

// What the metadata of a stream that Penstock made says.
const (
	topicKey      = "penstock.topic"
	partitionsKey = "penstock.partitions"
	logKey        = "penstock.log" // of a log, see CreateLog
)

// Options hold for Open and OpenDir alike. The zero value is good.
type Options struct {
	// MaxValueBytes is the largest value Publish accepts. Zero is
	// stream.MaxValueBytes.
	MaxValueBytes int
	// Failover is how long a member of a group may be silent before its
	// partitions go to others. All members of a group have that of its first.
	// Zero is 10 seconds, less than a second is refused.
	Failover time.Duration
	// Logger hears of lost and regained connections and of partitions that
	// cannot be held, and at debug level what an embedded server says. nil is
	// silence.
	Logger *slog.Logger
}

func (o *Options) setDefaults() error {
	if o.MaxValueBytes == 0 {
		o.MaxValueBytes = stream.MaxValueBytes
	}
	if o.Failover == 0 {
		o.Failover = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Failover < time.Second {
		return fmt.Errorf("failover after %v: must be at least 1s", o.Failover)
	}
	return nil
}

// Config says where the servers are.
type Config struct {
	// URL is one nats:// URL or several, separated by commas. It may carry
	// user and password.
	URL string
	// Token is what the servers ask for, if they do.
	Token string
	// Replicas is how many servers of a cluster keep each topic that Create
	// makes. Zero is 1.
	Replicas int
	Options
}

// Broker is a connection to NATS. Its methods may be called concurrently.
type Broker struct {
	options  Options
	replicas int
	dir      string  // the folder, if the server is one's
	server   *server // nil unless this process serves the folder
	nc       *nats.Conn
	js       jetstream.JetStream
	cluster  string

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the committers

	mu         sync.Mutex
	closed     bool
	link       *link
	topics     map[string]*topic
	committers map[string]*committer
}

// link is one span of being connected.
type link struct {
	up   chan struct{} // closed once connected
	down chan struct{} // closed once the connection is lost
}

func newLink() *link { return &link{up: make(chan struct{}), down: make(chan struct{})} }

// Open connects to running servers. It returns an error that wraps
// stream.ErrUnreachable if none answers within two seconds each.
func Open(ctx context.Context, c Config) (*Broker, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	return connect(ctx, c.URL, c.Options, c.Replicas, nats.Token(c.Token))
}

func connect(ctx context.Context, url string, o Options, replicas int, with ...nats.Option) (*Broker, error) {
	b := &Broker{
		options:    o,
		replicas:   replicas,
		link:       newLink(),
		topics:     map[string]*topic{},
		committers: map[string]*committer{},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	timeout := connectTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	close(b.link.up)
	nc, err := nats.Connect(url, append(with,
		nats.Name("penstock"),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), // what cannot be sent now is an error now
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.disconnected(err) }),
		nats.ReconnectHandler(func(*nats.Conn) { b.reconnected() }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			o.Logger.Warn("nats connection", "error", err)
		}),
	)...)
	if err != nil {
		b.cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if bad := new(neturl.Error); errors.As(err, &bad) {
			return nil, fmt.Errorf("connect to NATS: read the URL: %w", bad.Err) // bad itself shows a password
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return nil, fmt.Errorf("connect to NATS: %w", err)
		}
		return nil, fmt.Errorf("connect to NATS: %w: %w", stream.ErrUnreachable, err)
	}
	b.nc = nc
	b.js, err = jetstream.New(nc,
		jetstream.WithDefaultTimeout(replyTimeout),
		jetstream.WithPublishAsyncTimeout(replyTimeout),
		jetstream.WithPublishAsyncMaxPending(64*maxBatch))
	if err != nil {
		b.cancel()
		nc.Close()
		return nil, fmt.Errorf("connect to JetStream: %w", err)
	}
	if b.cluster = nc.ConnectedClusterName(); b.cluster == "" {
		// The name of a lone server may be new at each of its starts, and
		// positions must survive that.
		b.cluster = "nats"
	}
	return b, nil
}

func (b *Broker) disconnected(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.options.Logger.Warn("lost the connection to NATS", "error", err)
	close(b.link.down)
	b.link = newLink()
}

func (b *Broker) reconnected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.options.Logger.Info("connected to NATS again", "server", b.nc.ConnectedUrlRedacted())
	close(b.link.up)
}

// connected returns the present link, for which it waits two seconds.
func (b *Broker) connected(ctx context.Context) (*link, error) {
	timer := time.NewTimer(connectTimeout)
	defer timer.Stop()
	for {
		b.mu.Lock()
		l, closed := b.link, b.closed
		b.mu.Unlock()
		if closed {
			return nil, stream.ErrClosed
		}
		change := l.up
		select {
		case <-l.up:
			if b.nc.IsConnected() {
				return l, nil
			}
			change = l.down // which is about to be said
		default:
		}
		select {
		case <-change:
		case <-timer.C:
			return nil, stream.ErrUnreachable
		case <-b.ctx.Done():
			return nil, stream.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ask prepares a request: a context with a deadline, once there is a
// connection to ask over.
func (b *Broker) ask(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if _, err := b.connected(ctx); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	return ctx, cancel, nil
}

// explain turns what nats.go says into the errors of package stream. ctx is
// the caller's.
func (b *Broker) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case b.ctx.Err() != nil || errors.Is(err, nats.ErrConnectionClosed):
		return stream.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%w: %w", stream.ErrNoTopic, err)
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrConnectionReconnecting):
		return fmt.Errorf("%w: %w", stream.ErrUnreachable, err)
	case isConsumerLimit(err):
		return fmt.Errorf("the stream has as many consumers as it may: delete those of groups that are no longer used, or raise max_consumers of the stream or account, or default_max_consumers of the server: %w", err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return b.noJetStream()
	}
	return err
}

// codeConsumerLimit is the code of a refusal for want of room for a consumer.
const codeConsumerLimit = 10026

func isConsumerLimit(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) && refused.ErrorCode == codeConsumerLimit
}

// noJetStream says why a server that answers has no JetStream.
func (b *Broker) noJetStream() error {
	if err := b.full(); err != nil {
		return err
	}
	return errors.New("the server has no JetStream, or has switched it off because its disk is full: enable it, or make room and restart the server")
}

// Close ends the connection, and the server if this process serves the folder.
// Sources are closed first, by who opened them.
func (b *Broker) Close() error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	b.cancel()
	b.wg.Wait()
	b.nc.Close()
	if b.server != nil {
		return b.server.close()
	}
	return nil
}

// topic is what has to be known of a topic to use it.
type topic struct {
	name       string
	stream     string
	created    time.Time
	partitions int
	foreign    bool     // not made by Penstock: one partition
	subjects   []string // by partition; of a foreign stream the only one, if it has no wildcard
	log        bool     // each key has a subject below that of its partition
	atomic     bool     // the stream takes atomic batches
	maxMessage int      // the stream's own limit on header and value; -1: none
}

func newTopic(name string, info *jetstream.StreamInfo) *topic {
	t := &topic{
		name:       name,
		stream:     info.Config.Name,
		created:    info.Created,
		atomic:     info.Config.AllowAtomicPublish,
		maxMessage: int(info.Config.MaxMsgSize),
	}
	if t.maxMessage == 0 {
		t.maxMessage = -1
	}
	n, err := strconv.Atoi(info.Config.Metadata[partitionsKey])
	if err != nil || n < 1 || n > maxPartitions {
		t.foreign, t.partitions = true, 1
		if s := info.Config.Subjects; len(s) == 1 && !strings.ContainsAny(s[0], "*>") {
			t.subjects = s
		}
		return t
	}
	t.partitions, t.log = n, info.Config.Metadata[logKey] != ""
	for i := range n {
		t.subjects = append(t.subjects, subject(t.stream, i))
	}
	return t
}

// filter is the subject that the consumers of a partition read: all of a
// foreign stream.
func (t *topic) filter(partition int) string {
	if t.foreign {
		return ""
	}
	if t.log {
		return t.subjects[partition] + ".*"
	}
	return t.subjects[partition]
}

func (b *Broker) partition(t *topic, number int) stream.Partition {
	return stream.Partition{
		Cluster:     b.cluster,
		Topic:       t.name,
		Incarnation: t.created.UTC().Format(time.RFC3339Nano),
		Number:      int32(number),
	}
}

// lookup asks the server for a topic, and remembers the answer for Publish.
func (b *Broker) lookup(ctx context.Context, name string) (*topic, jetstream.Stream, error) {
	if name == "" {
		return nil, nil, fmt.Errorf("topic %q: %w", name, stream.ErrNoTopic)
	}
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look up topic %q: %w", name, err)
	}
	defer cancel()
	s, err := b.js.Stream(asking, escape(name))
	if err != nil {
		b.forget(name)
		return nil, nil, fmt.Errorf("look up topic %q: %w", name, b.explain(ctx, err))
	}
	t := newTopic(name, s.CachedInfo())
	b.mu.Lock()
	b.topics[name] = t
	b.mu.Unlock()
	return t, s, nil
}

// known returns a topic as it was last seen.
func (b *Broker) known(ctx context.Context, name string) (*topic, error) {
	b.mu.Lock()
	t := b.topics[name]
	b.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, _, err := b.lookup(ctx, name)
	return t, err
}

func (b *Broker) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.topics, name)
}

// Create makes a topic of the given number of partitions (0: 4), at most
// 10,000. A topic or stream that exists already is left as it is.
func (b *Broker) Create(ctx context.Context, name string, partitions int) error {
	if name == "" {
		return errors.New("create topic: the name is empty")
	}
	if partitions == 0 {
		partitions = defaultPartitions
	}
	if partitions < 0 || partitions > maxPartitions {
		return fmt.Errorf("create topic %q: %d partitions: expected 1 to %d", name, partitions, maxPartitions)
	}
	return b.create(ctx, name, partitions, func(*jetstream.StreamConfig) {})
}

// A topic of many partitions has room for the consumers of ten groups, each of
// which needs up to two a partition.
const (
	groupConsumers   = 10 * 2
	defaultConsumers = 1000 // what a server admits for a stream that does not say
)

// create makes a topic, in a stream that change may change.
func (b *Broker) create(ctx context.Context, name string, partitions int, change func(*jetstream.StreamConfig)) error {
	_, _, err := b.lookup(ctx, name)
	if !errors.Is(err, stream.ErrNoTopic) {
		return err
	}
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return fmt.Errorf("create topic %q: %w", name, err)
	}
	defer cancel()
	config := jetstream.StreamConfig{
		Name:               escape(name),
		Replicas:           b.replicas,
		Storage:            jetstream.FileStorage,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		Metadata:           map[string]string{topicKey: name, partitionsKey: strconv.Itoa(partitions)},
	}
	for i := range partitions {
		config.Subjects = append(config.Subjects, subject(config.Name, i))
	}
	admitPositions(&config)
	if n := partitions * groupConsumers; n > defaultConsumers {
		config.MaxConsumers = n
	}
	change(&config)
	_, err = b.js.CreateStream(asking, config)
	if config.MaxConsumers > 0 && isConsumerLimit(err) { // the account has less
		config.MaxConsumers = 0
		_, err = b.js.CreateStream(asking, config)
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create topic %q: %w", name, b.explain(ctx, err))
	}
	return nil
}

// Ranges says what each partition of topic holds now. Start and End of a
// partition that holds nothing are the end of the stream.
func (b *Broker) Ranges(ctx context.Context, name string) ([]stream.Range, error) {
	t, s, err := b.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if t.foreign || t.log {
		state := s.CachedInfo().State
		r := stream.Range{Partition: b.partition(t, 0), Start: int64(state.FirstSeq), End: int64(state.LastSeq) + 1, Records: int64(state.Msgs)}
		if state.Msgs == 0 {
			r.Start = r.End
		}
		return []stream.Range{r}, nil
	}
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the ranges of topic %q: %w", name, err)
	}
	defer cancel()
	info, err := s.Info(asking, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return nil, fmt.Errorf("read the ranges of topic %q: %w", name, b.explain(ctx, err))
	}
	ranges := make([]stream.Range, t.partitions)
	for i := range ranges {
		end := int64(info.State.LastSeq) + 1
		ranges[i] = stream.Range{Partition: b.partition(t, i), Start: end, End: end}
		n := info.State.Subjects[t.subjects[i]]
		if n == 0 {
			continue
		}
		first, err := s.GetMsg(asking, info.State.FirstSeq, jetstream.WithGetMsgSubject(t.subjects[i]))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // removed since
		}
		if err != nil {
			return nil, fmt.Errorf("read the start of partition %d of topic %q: %w", i, name, b.explain(ctx, err))
		}
		last, err := s.GetLastMsgForSubject(asking, t.subjects[i])
		if err != nil {
			return nil, fmt.Errorf("read the end of partition %d of topic %q: %w", i, name, b.explain(ctx, err))
		}
		ranges[i].Start, ranges[i].End, ranges[i].Records = int64(first.Sequence), int64(last.Sequence)+1, int64(n)
	}
	return ranges, nil
}

var _ stream.Broker = (*Broker)(nil)
