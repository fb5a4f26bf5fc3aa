package kafka

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/stream"
)

// PublishAtomic implements stream.AtomicPublisher, in one transaction over any number
// of topics. Kafka knows neither IDs nor offsets to write behind: Conditions are
// stream.ErrUnsupported.
//
// A commit is sent once, and again only by the client, under the same epoch, until the
// coordinator answers or Config.Timeout is over. What a transaction without an end has
// written holds up those who read committed records: it is ended as soon as the brokers
// can be reached again, and of a process that is gone after 40 seconds.
func (b *Broker) PublishAtomic(ctx context.Context, c stream.Conditions, records ...stream.Record) error {
	if c.ID != "" || c.After != nil {
		return fmt.Errorf("publish: Kafka has no conditions to write under: %w", stream.ErrUnsupported)
	}
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if len(records) == 0 {
		return nil
	}
	out, err := b.admitAll(ctx, records)
	if err == nil {
		err = b.together.publish(ctx, out)
	}
	if partly := (*stream.BatchError)(nil); errors.As(err, &partly) {
		return partly
	}
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	place(records, out)
	return nil
}

// admitAll returns records as the client takes them, if all may be written.
func (b *Broker) admitAll(ctx context.Context, records []stream.Record) ([]kgo.Record, error) {
	p := publication{broker: b, topics: map[string]*topic{}, missing: map[string]error{}}
	out := toKafka(records)
	var failed stream.BatchError
	for i := range out {
		err := p.admit(ctx, &out[i])
		switch {
		case errors.Is(err, stream.ErrTooLarge), errors.Is(err, stream.ErrNoTopic):
			failed.Fail(i, err)
		case err != nil:
			return nil, err
		}
	}
	return out, failed.OrNil()
}

// maxLanes is how many transactions a Broker has open at a time; who wants another
// waits.
const maxLanes = 4

// lanes are the clients of PublishAtomic, each of which has one transaction at a time.
type lanes struct {
	broker *Broker
	all    []*lane
	free   chan *lane
	end    chan struct{} // closed by close

	mu   sync.Mutex
	mend sync.WaitGroup // added to under mu, before end
}

// lane is a transactional id, and its client while it has one.
type lane struct {
	broker *Broker
	id     string

	mu     sync.Mutex
	client *kgo.Client
}

func newLanes(b *Broker) *lanes {
	ls := &lanes{broker: b, free: make(chan *lane, maxLanes), end: make(chan struct{})}
	name := rand.Text()
	for i := range maxLanes {
		l := &lane{broker: b, id: "penstock/atomic/" + name + "/" + strconv.Itoa(i)}
		ls.all = append(ls.all, l)
		ls.free <- l
	}
	return ls
}

// close ends what is under way. It is called after the Broker was closed.
func (ls *lanes) close() {
	ls.mu.Lock()
	close(ls.end)
	ls.mu.Unlock()
	for _, l := range ls.all {
		l.drop()
	}
	ls.mend.Wait()
}

// publish writes records in a transaction.
func (ls *lanes) publish(ctx context.Context, records []kgo.Record) error {
	var l *lane
	late := time.NewTimer(ls.broker.config.Timeout)
	defer late.Stop()
	select {
	case l = <-ls.free:
	case <-late.C:
		return fmt.Errorf("no other transaction has ended: %w", stream.ErrUnreachable)
	case <-ls.end:
		return stream.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	client, err := l.open()
	if err != nil {
		ls.free <- l
		return err
	}
	err = ls.broker.transact(ctx, client, records, nil, false)
	if err == nil || errors.As(err, new(*stream.BatchError)) {
		ls.free <- l
		return err
	}
	if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition) {
		for i := range records {
			if t, ok := ls.broker.topics.Load(records[i].Topic); ok {
				ls.broker.forget(records[i].Topic, t.(*topic))
			}
		}
	}
	// Who takes the id over ends what was left open, for which readers wait.
	l.drop()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	select {
	case <-ls.end:
	default:
		ls.mend.Go(func() {
			l.recover(ls.end)
			ls.free <- l
		})
	}
	return err
}

// open returns the client, which it makes if there is none.
func (l *lane) open() (_ *kgo.Client, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broker.closed.Load() {
		return nil, stream.ErrClosed
	}
	if l.client == nil {
		l.client, err = l.broker.transactional(l.id)
	}
	return l.client, err
}

// drop closes the client.
func (l *lane) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		l.client.Close()
		l.client = nil
	}
}

// recover takes the transactional id over, which aborts a transaction that has not
// come to its end. It tries until it can, or the Broker is closed.
func (l *lane) recover(end <-chan struct{}) {
	for {
		client, err := l.open()
		if err == nil {
			_, _, err = client.ProducerID(context.Background())
		}
		if err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-end:
			return
		}
	}
}

var _ stream.AtomicPublisher = (*Broker)(nil)
