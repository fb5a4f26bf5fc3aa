// Package kafka keeps the registry's log in a topic of Kafka, by default
// _schemas, in the records that Confluent's registry and Karapace keep there.
// A registry may start on the topic that one of those wrote, and the other way
// round; never may two kinds write to it at a time.
//
// Several nodes share the topic. Kafka cannot append on condition, so one of
// them writes: the member of a consumer group that its only partition is
// assigned to. It writes in transactions of one transactional id. To take that
// id over fences the last writer, whatever that one believes about itself. The
// new one then reads to the end of the topic before it appends. The URL of each
// node is its instance id in the group, which is how the others find it.
//
// A position is an offset plus one. Reads are of committed records. The markers
// of transactions take offsets too, and so do records that say nothing, so between
// the last event and the end of the topic there may be some.
package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
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
)

// DefaultTopic is where Confluent's registry keeps its log.
const DefaultTopic = "_schemas"

const (
	group = "penstock-registry"
	// maxRecordBytes is what a topic that Open makes takes: the largest schema,
	// each of its bytes escaped in JSON.
	maxRecordBytes = 8 << 20
	// defaultMaxBytes is Kafka's own max.message.bytes.
	defaultMaxBytes = 1<<20 + 12
	// noop is the key of a record that says nothing and is no event.
	noop = `{"keytype":"NOOP","magic":0}`
)

// Errors of Open and of a log, wrapped with what to do about them.
var (
	// ErrUnfit is returned by Open for a topic that cannot hold the log.
	ErrUnfit = errors.New("the topic is unfit for the registry's log")
	// ErrTruncated is returned once the topic has lost what it held before.
	ErrTruncated = errors.New("the topic has lost records")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log is closed")
)

// Options say where the log is. Seeds and URL are needed.
type Options struct {
	// Seeds are brokers to ask first, as host:port.
	Seeds []string
	// URL is the base URL at which other nodes reach the registry over this
	// log. No two nodes have the same.
	URL string
	// Topic is DefaultTopic where it is empty. It is made if it is not there.
	Topic string
	// Replicas is the replication factor of a topic that Open makes. Zero is
	// three, or the number of brokers if there are fewer.
	Replicas int
	// SessionTimeout is how long the writer may be silent before another node
	// takes its place. Zero is six seconds, the least that brokers allow as
	// they come.
	SessionTimeout time.Duration
	// TLS is used for every connection. nil is plain text.
	TLS *tls.Config
	// SASL is how every connection shows who it is of. nil is not at all.
	SASL sasl.Mechanism
	// Logger gets elections and what the client has to say. nil discards it.
	Logger *slog.Logger
	// Dial opens connections in place of net.Dialer. TLS is not used then.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Log is a registry.SharedLog.
type Log struct {
	o         Options
	group     string // of the nodes, and the transactional id of the writer
	client    *kgo.Client
	admin     *kadm.Client
	member    *kgo.Client
	topicID   [16]byte
	maxRecord int

	leader  atomic.Int32  // of the partition, as last heard; -1 is unknown
	read    atomic.Uint64 // the highest position of an event that was read
	highest atomic.Uint64 // the furthest end that was seen

	// appending is held, by whoever has put its value in, during Append. It
	// guards end, which is the position of the topic's last event as the writer
	// of the term knows it, and none before the term has read to the end.
	appending chan struct{}
	end       uint64
	endOf     *term

	mu       sync.Mutex
	assigned bool // the group has assigned the partition to this member
	term     *term
	retired  []*term       // ended and used no more, to be closed
	changed  chan struct{} // closed, and made anew, when one of these changes

	stop context.CancelFunc
	done chan struct{} // closed when elect has ended
}

// term is one time of being the writer: a producer that has taken the
// transactional id over. It ends at the first sign of trouble. An Append that is
// on its way then goes on: the broker knows whether it still may.
type term struct {
	producer *kgo.Client
	used     bool // by Append
}

// Open opens the log, makes its topic if need be, and takes part in the election
// of the writer. The error wraps ErrUnfit if the topic is not of one partition
// or not compacted.
func Open(ctx context.Context, o Options) (*Log, error) {
	l, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open the registry's log on Kafka: %w", err)
	}
	return l, nil
}

func open(ctx context.Context, o Options) (_ *Log, err error) {
	o.Topic = cmp.Or(o.Topic, DefaultTopic)
	o.SessionTimeout = cmp.Or(o.SessionTimeout, 6*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if len(o.Seeds) == 0 {
		return nil, errors.New("no brokers are given")
	}
	if u, err := url.Parse(o.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the URL of this node is %q, want http://host:port at which other nodes reach it", o.URL)
	}
	l := &Log{
		o: o, group: group,
		appending: make(chan struct{}, 1), changed: make(chan struct{}), done: make(chan struct{}),
	}
	if o.Topic != DefaultTopic {
		l.group += "." + o.Topic
	}
	l.client, err = kgo.NewClient(append(o.client(), kgo.RetryTimeout(10*time.Second))...)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.client.Close()
		}
	}()
	l.admin = kadm.NewClient(l.client)
	within, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := l.prepare(within); err != nil {
		return nil, fmt.Errorf("topic %q at %s: %w", o.Topic, strings.Join(o.Seeds, ","), err)
	}
	if l.member, err = l.join(); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	l.stop = stop
	go l.elect(run)
	return l, nil
}

// client returns the options that all clients share.
func (o Options) client() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Seeds...),
		// For brokers that know no instance ids, it says where the node is.
		kgo.ClientID(o.URL),
		kgo.WithLogger(clientLogger{o.Logger}),
		kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(100 * time.Millisecond), // so that a moved leader is found soon
	}
	if o.SASL != nil {
		opts = append(opts, kgo.SASL(o.SASL))
	}
	if o.Dial != nil {
		return append(opts, kgo.Dialer(o.Dial))
	}
	opts = append(opts, kgo.DialTimeout(3*time.Second))
	if o.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(o.TLS))
	}
	return opts
}

// prepare makes the topic if it is not there, and sees that it is fit.
func (l *Log) prepare(ctx context.Context) error {
	m, err := l.admin.Metadata(ctx, l.o.Topic)
	if err != nil {
		return err
	}
	if errors.Is(m.Topics[l.o.Topic].Err, kerr.UnknownTopicOrPartition) {
		if err := l.create(ctx, len(m.Brokers)); err != nil {
			return fmt.Errorf("make it: %w", err)
		}
	}
	topic, err := l.metadata(ctx)
	if err != nil {
		return err
	}
	if n := len(topic.Partitions); n != 1 {
		return fmt.Errorf("it has %d partitions, and the log's order needs one; name another topic or copy the records to one of one partition: %w", n, ErrUnfit)
	}
	l.topicID = topic.ID
	l.maxRecord = defaultMaxBytes
	configs, err := l.admin.DescribeTopicConfigs(ctx, l.o.Topic)
	var settings []kadm.Config
	if len(configs) == 1 {
		settings, err = configs[0].Configs, cmp.Or(err, configs[0].Err)
	}
	if err != nil {
		// Whoever may use the topic may perhaps not read its settings.
		l.o.Logger.Warn("the settings of the registry's topic cannot be read; see that cleanup.policy is compact", "topic", l.o.Topic, "error", err)
	}
	for _, c := range settings {
		switch value := c.MaybeValue(); c.Key {
		case "cleanup.policy":
			if value != "compact" {
				return fmt.Errorf("its cleanup.policy is %q, so that Kafka would delete schemas; set it to compact: %w", value, ErrUnfit)
			}
		case "max.message.bytes":
			if n, err := strconv.Atoi(value); err == nil {
				l.maxRecord = n
			}
		}
	}
	return nil
}

func (l *Log) create(ctx context.Context, brokers int) error {
	replicas := cmp.Or(l.o.Replicas, min(3, max(1, brokers)))
	configs := map[string]*string{
		"cleanup.policy":    kadm.StringPtr("compact"),
		"max.message.bytes": kadm.StringPtr(strconv.Itoa(maxRecordBytes)),
	}
	if replicas > 2 {
		// What is acknowledged is on two of them at least.
		configs["min.insync.replicas"] = kadm.StringPtr(strconv.Itoa(2))
	}
	resp, err := l.admin.CreateTopic(ctx, 1, int16(replicas), configs, l.o.Topic)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil // another node was faster
	}
	if err != nil && resp.ErrMessage != "" {
		err = fmt.Errorf("%w: %s", err, resp.ErrMessage)
	}
	return err
}

// metadata asks for the topic until its partition has a leader.
func (l *Log) metadata(ctx context.Context) (kadm.TopicDetail, error) {
	for {
		m, err := l.admin.Metadata(ctx, l.o.Topic)
		if err != nil {
			return kadm.TopicDetail{}, err
		}
		topic := m.Topics[l.o.Topic]
		if err = topic.Err; err == nil {
			p := topic.Partitions[0]
			if err = p.Err; err == nil {
				l.leader.Store(p.Leader)
				return topic, nil
			}
		}
		if !kerr.IsRetriable(err) {
			return topic, err
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return topic, fmt.Errorf("it has no leader: %w", err)
		}
	}
}

// Close lets an Append that is on its way end, and then the log: another node
// may write at once, also a registry of another make where this was the last. Calls that wait return ErrClosed. It is called once.
func (l *Log) Close() error {
	l.stop()
	<-l.done
	l.appending <- struct{}{} // and never given back
	// A member with an instance id does not leave by going. It goes first, lest
	// it join again.
	l.member.Close()
	l.assign(false)
	for _, t := range l.retired {
		t.producer.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if l.endOf != nil {
		l.endPlainly(ctx)
	}
	left, err := l.admin.LeaveGroup(ctx, kadm.LeaveGroup(l.group).InstanceIDs(l.o.URL).Reason("the registry stops"))
	if err = cmp.Or(err, left.Error()); err != nil && !errors.Is(err, kerr.UnknownMemberID) {
		l.o.Logger.Warn("leaving the registry's group failed; another node takes over after the session's time", "error", err)
	}
	l.client.Close()
	return nil
}

// endPlainly appends a record that says nothing, outside of transactions. After
// one the topic ends with its marker, and Karapace, which waits at start for a
// record at the topic's last offset, would wait for ever.
func (l *Log) endPlainly(ctx context.Context) {
	err := l.client.ProduceSync(ctx, &kgo.Record{Topic: l.o.Topic, Key: []byte(noop)}).FirstErr()
	if err != nil {
		l.o.Logger.Warn("the registry's topic ends with the marker of a transaction; Karapace cannot start on it until a registry has written to it and stopped", "error", err)
	}
}

// pause waits, less if ctx ends, whose error it then returns.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// failure puts an error into the words of this package.
func (l *Log) failure(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, kgo.ErrClientClosed) && l.closed():
		return ErrClosed
	}
	return err
}

func (l *Log) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// fenced reports whether err says that the broker has given the producer up, most
// likely for another one that has the transactional id.
func fenced(err error) bool {
	return slices.ContainsFunc([]error{
		kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState,
		kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID,
	}, func(target error) bool { return errors.Is(err, target) })
}

// clientLogger passes the client's warnings and errors on.
type clientLogger struct{ to *slog.Logger }

func (l clientLogger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l clientLogger) Log(level kgo.LogLevel, message string, keyvals ...any) {
	at := slog.LevelWarn
	if level == kgo.LogLevelError {
		at = slog.LevelError
	}
	l.to.Log(context.Background(), at, "kafka client: "+message, keyvals...)
}
