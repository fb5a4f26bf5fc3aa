// Package jetstream keeps the registry's log in one stream of NATS JetStream,
// which any number of registries append to.
//
// An append is one message, or, where it is larger than a message may be, one
// atomic batch of them. Its condition is the stream's last sequence, so the
// stream is the arbiter of who comes first, and there is no writer to elect.
// The stream keeps everything, and refuses to delete: a log with holes might
// give an id twice. Why it is not compacted either is in docs/adr/0006.
package jetstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	neturl "net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/registry"
	"penstock/registry/logs/frame"
)

// DefaultStream is the name of the stream where Config says no other.
const DefaultStream = "_schemas"

const (
	connectTimeout = 2 * time.Second
	// replyTimeout bounds the wait for an answer.
	replyTimeout = 5 * time.Second
	// pingEvery is how often the server is asked for a sign of life. One that
	// has given none three times is left for another.
	pingEvery = 2 * time.Second
	// maxPart is how many bytes of an append one message carries, or less
	// where the server takes less. maxParts is what a server admits in an
	// atomic batch by default.
	maxPart  = 512 << 10
	maxParts = 1000
	// few is up to how many messages are asked for one by one, which is faster
	// than to set up a consumer for them.
	few = 8
)

// partHeader numbers the parts of an append that takes several messages: 1, 2,
// and "last".
const partHeader = "Penstock-Part"

// Errors of Open and the methods, wrapped with what to do about them.
var (
	// ErrUnreachable is returned while no server answers.
	ErrUnreachable = errors.New("NATS is not reachable")
	// ErrUnusable is returned for a stream that could lose records, has lost
	// some, or holds some that are not a registry's.
	ErrUnusable = errors.New("the stream is no log of a registry")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log is closed")
)

// Config says where the stream is.
type Config struct {
	// URL is one nats:// or tls:// URL or several, separated by commas. It may
	// carry user and password.
	URL string
	// Token is what the servers ask for, if they do.
	Token string
	// Stream is the stream's name. Empty is DefaultStream.
	Stream string
	// Replicas is how many servers of a cluster keep the stream, if Open makes
	// it. Zero is 1.
	Replicas int
	// Logger hears of lost and regained connections. nil is silence.
	Logger *slog.Logger
	// Dial opens connections in place of net.Dialer. TLS goes on top of it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// dialer is Config.Dial as the client asks for it.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	return d(ctx, network, address)
}

// Log is a registry.SharedLog.
type Log struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	name   string
	part   int // bytes

	replicas int
	logger   *slog.Logger
	leased   uint64 // the lease's sequence if it is this node's; lead's alone

	mu   sync.Mutex
	left remains
	// connected ends, by lose, when the connection is lost; then there is
	// another one.
	connected context.Context
	lose      context.CancelFunc

	leading    func() // ends lead; nil while it has not begun
	leadsUntil time.Time
}

// remains are the messages of an append that is not complete: it is just being
// stored, or a server's crash has cut it off, and nobody was told that it had
// succeeded. Then the next append follows them.
type remains struct {
	before, last uint64 // sequences; the append would begin after before
}

var _ registry.SharedLog = (*Log)(nil)

// Open connects, and makes the stream if it is not there. An acknowledged
// append is as durable as the servers make a message: a lone one syncs each
// where it is told to (sync_interval: always). Whoever calls Open calls Close.
func Open(ctx context.Context, c Config) (_ *Log, err error) {
	c.Stream = cmp.Or(c.Stream, DefaultStream)
	c.Replicas = cmp.Or(c.Replicas, 1)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if strings.ContainsAny(c.Stream, " \t\r\n.*>/\\") {
		return nil, fmt.Errorf("open the registry's stream %q: the name has a space or one of .*>/\\, which NATS does not allow", c.Stream)
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	l := &Log{name: c.Stream, replicas: c.Replicas, logger: c.Logger}
	l.connected, l.lose = context.WithCancel(context.Background())
	l.nc, err = nats.Connect(c.URL,
		nats.Name("penstock registry"), nats.Token(c.Token), nats.Timeout(connectTimeout), nats.SetCustomDialer(dialer(c.Dial)),
		nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond), nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1), // what cannot be sent now is an error now
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.Logger.Warn("lost the connection to the registry's log", "error", err)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.lose()
			l.connected, l.lose = context.WithCancel(context.Background())
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.Logger.Info("connected to the registry's log again", "server", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.Logger.Warn("connection to the registry's log", "error", err)
		}),
	)
	if bad := new(neturl.Error); errors.As(err, &bad) {
		err = bad.Err // bad itself shows a password
	} else if errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) {
		err = fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	defer func() {
		if err != nil {
			l.nc.Close()
		}
	}()
	l.part = min(maxPart, int(l.nc.MaxPayload())-1024) // room for headers
	l.js, err = jetstream.New(l.nc, jetstream.WithDefaultTimeout(replyTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to JetStream: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	l.stream, err = l.js.Stream(ctx, c.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		l.stream, err = l.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: c.Stream, Subjects: []string{c.Stream},
			Description: "The log of a Penstock schema registry",
			Storage:     jetstream.FileStorage, Replicas: c.Replicas,
			DenyDelete: true, DenyPurge: true, AllowAtomicPublish: true,
		})
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another node was faster
			l.stream, err = l.js.Stream(ctx, c.Stream)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the registry's stream %q: %w", c.Stream, l.explain(ctx, err))
	}
	if err := check(l.stream.CachedInfo().Config); err != nil {
		return nil, fmt.Errorf("open the registry's stream %q: %w: %w; give another name, or correct the stream", c.Stream, ErrUnusable, err)
	}
	return l, nil
}

// check refuses a stream that may forget something, or that others write to.
func check(c jetstream.StreamConfig) error {
	switch {
	case len(c.Subjects) != 1 || c.Subjects[0] != c.Name:
		return fmt.Errorf("its subjects are %q, expected %q alone", c.Subjects, c.Name)
	case c.Retention != jetstream.LimitsPolicy || c.MaxMsgs > 0 || c.MaxBytes > 0 && c.Discard != jetstream.DiscardNew || c.MaxAge > 0 || c.MaxMsgsPerSubject > 0:
		return errors.New("its limits drop old records, expected none (or max_bytes that refuses new ones)")
	case c.Storage != jetstream.FileStorage:
		return errors.New("it is kept in memory, expected in files")
	case !c.AllowAtomicPublish:
		return errors.New("it does not allow atomic batches (allow_atomic), which need nats-server 2.12 or newer")
	}
	return nil
}

// The position after an append is the sequence of its last message, times step;
// its events before the last are numbered on from where it begins.
const step = 1 << 20

// Append implements registry.Log. An append of more than some hundred megabytes
// is refused with registry.ErrTooLarge.
func (l *Log) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if prev%step != 0 {
		return 0, registry.ErrConflict // within an append
	}
	expected := prev / step
	l.mu.Lock()
	if expected == l.left.before && l.left.last > 0 {
		expected = l.left.last
	}
	l.mu.Unlock()
	if len(events) >= step {
		return 0, fmt.Errorf("append to the registry's stream: %w: %d records, the limit is %d", registry.ErrTooLarge, len(events), step-1)
	}
	messages, err := l.split(frame.Append(nil, events))
	if err != nil {
		return 0, fmt.Errorf("append to the registry's stream: %w", err)
	}
	messages[0].Header.Set("Nats-Expected-Last-Sequence", strconv.FormatUint(expected, 10))
	asking, cancel := l.asking(ctx)
	defer cancel()
	last := len(messages) - 1
	for _, m := range messages[:last] {
		// Without its end a batch is nothing.
		if err := l.nc.PublishMsg(m); err != nil {
			return 0, fmt.Errorf("append to the registry's stream: %w", l.explain(ctx, err))
		}
	}
	// Never sent twice: the condition would fail, and a conflict be reported
	// that was none.
	ack, err := l.js.PublishMsg(asking, messages[last], jetstream.WithRetryAttempts(0))
	if refused := (*jetstream.APIError)(nil); errors.As(err, &refused) && conflicts(refused.ErrorCode) {
		return 0, registry.ErrConflict
	}
	if err != nil {
		return 0, fmt.Errorf("append to the registry's stream: %w", l.explain(ctx, err))
	}
	return ack.Sequence * step, nil
}

// conflicts reports whether a refusal says that the stream does not end where
// an append was to begin.
func conflicts(code jetstream.ErrorCode) bool {
	const wrongLastSequence, wrongLastSequenceInBatch = 10071, 10164
	return code == wrongLastSequence || code == wrongLastSequenceInBatch
}

// split makes the messages of one append.
func (l *Log) split(b []byte) ([]*nats.Msg, error) {
	n := (len(b) + l.part - 1) / l.part
	if n > maxParts {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", registry.ErrTooLarge, len(b), maxParts*l.part)
	}
	messages := make([]*nats.Msg, n)
	id := rand.Text()
	for i := range messages {
		m := nats.NewMsg(l.name)
		m.Data = b[i*l.part : min(len(b), (i+1)*l.part)]
		if n > 1 {
			m.Header.Set("Nats-Batch-Id", id)
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
			m.Header.Set(partHeader, strconv.Itoa(i+1))
			if i == n-1 {
				m.Header.Set("Nats-Batch-Commit", "1")
				m.Header.Set(partHeader, "last")
			}
		}
		messages[i] = m
	}
	return messages, nil
}

// End implements registry.SharedLog. The stream's leader answers it.
func (l *Log) End(ctx context.Context) (uint64, error) {
	last, err := l.last(ctx)
	return last * step, err
}

func (l *Log) last(ctx context.Context) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	asking, cancel := l.asking(ctx)
	defer cancel()
	// A handle of its own: Info changes the one it is called on.
	s, err := l.js.Stream(asking, l.name)
	if err != nil {
		return 0, fmt.Errorf("ask for the end of the registry's stream: %w", l.explain(ctx, err))
	}
	state := s.CachedInfo().State
	if state.FirstSeq > 1 || state.Msgs != state.LastSeq {
		return 0, fmt.Errorf("%w: %q has %d records up to sequence %d, the others were removed; restore it from a backup, or import the registry into a new one", ErrUnusable, l.name, state.Msgs, state.LastSeq)
	}
	return state.LastSeq, nil
}

// Replay implements registry.Log.
func (l *Log) Replay(ctx context.Context, from uint64, fn func(registry.Event) error) error {
	last, err := l.last(ctx)
	if err != nil {
		return err
	}
	r := &replay{from: from, done: from / step, begin: from/step + 1, next: from/step + 1, fn: fn}
	if r.next > last {
		return nil
	}
	if last-r.next < few {
		err = l.replayEach(ctx, r, last)
	} else {
		err = l.replayAll(ctx, r, last)
	}
	if err != nil {
		return fmt.Errorf("read the registry's stream at sequence %d: %w", r.next, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = remains{}
	if r.begin < r.next {
		l.left = remains{before: r.done, last: last}
	}
	return nil
}

// replayEach asks for one message at a time, up to sequence last.
func (l *Log) replayEach(ctx context.Context, r *replay, last uint64) error {
	for r.next <= last {
		asking, cancel := l.asking(ctx)
		m, err := l.stream.GetMsg(asking, r.next)
		cancel()
		if err != nil {
			return l.explain(ctx, err)
		}
		if err := r.take(m.Sequence, m.Header.Get(partHeader), m.Data); err != nil {
			return err
		}
	}
	return nil
}

// replayAll reads a stretch of the stream, up to sequence last.
func (l *Log) replayAll(ctx context.Context, r *replay, last uint64) error {
	consumer, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next,
	})
	if err != nil {
		return l.explain(ctx, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return l.explain(ctx, err)
	}
	defer messages.Stop()
	for r.next <= last {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return l.explain(ctx, err)
		}
		about, err := m.Metadata()
		if err != nil {
			return err
		}
		if err := r.take(about.Sequence.Stream, m.Headers().Get(partHeader), m.Data()); err != nil {
			return err
		}
	}
	return nil
}

// replay puts the parts of appends together again.
type replay struct {
	from  uint64 // a position
	done  uint64 // the last sequence of the last whole append
	begin uint64 // the sequence at which the append that is being read begins
	next  uint64 // the sequence that is due
	count int    // how many parts of that append there are so far
	parts []byte
	fn    func(registry.Event) error
}

func (r *replay) take(sequence uint64, part string, data []byte) error {
	if sequence != r.next {
		return fmt.Errorf("%w: it comes with sequence %d", ErrUnusable, sequence)
	}
	if part == "" || part == "1" { // what came before it was cut off
		r.begin, r.count, r.parts = sequence, 0, nil
	}
	if part != "" {
		if part != "last" && part != strconv.Itoa(r.count+1) || r.count == maxParts {
			return fmt.Errorf("%w: it is part %.10q of an append of which there are %d parts so far", ErrUnusable, part, r.count)
		}
		r.count++
		r.parts = append(r.parts, data...)
		data = r.parts
	}
	if part != "" && part != "last" {
		r.next++
		return nil
	}
	events, err := frame.Read(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	for i, e := range events {
		e.Position = (r.begin-1)*step + uint64(i) + 1
		if i == len(events)-1 {
			e.Position = sequence * step
		}
		if e.Position <= r.from {
			continue
		}
		if err := r.fn(e); err != nil {
			return err
		}
	}
	r.next++
	r.done, r.begin, r.count, r.parts = sequence, r.next, 0, nil
	return nil
}

// Close ends the connection.
func (l *Log) Close() error {
	l.mu.Lock()
	leading := l.leading
	l.mu.Unlock()
	if leading != nil {
		leading()
	}
	l.nc.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose()
	return nil
}

// asking is the context of one question under ctx. It ends after replyTimeout,
// and when the connection is lost on which the answer would come.
func (l *Log) asking(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	l.mu.Lock()
	defer l.mu.Unlock()
	stop := context.AfterFunc(l.connected, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// explain adds what to do about what the client says to a question under ctx.
func (l *Log) explain(ctx context.Context, err error) error {
	var refused *jetstream.APIError
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: the connection was lost before the answer", ErrUnreachable)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer in time: %w", ErrUnreachable, err)
	case errors.Is(err, nats.ErrConnectionClosed):
		return ErrClosed
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%w: the stream is gone", ErrUnusable)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("%w: nobody answers for the stream: its cluster has no leader, or the server has no JetStream (it switches it off when the disk is full): %w", ErrUnreachable, err)
	case errors.As(err, &refused):
		return fmt.Errorf("the server refuses (a full disk, or a limit of the stream or account?): %w", err)
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}
