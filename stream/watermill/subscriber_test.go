package watermill

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"penstock/stream"
	"penstock/stream/memory"
)

// All tests here run on a fake clock, which stands still while anything runs,
// and fail if a goroutine outlives them.

// topic makes a topic of one message a value, each on the partition of its
// number, and returns a broker that holds it.
func topic(t *testing.T, partitions int, values ...string) *memory.Broker {
	t.Helper()
	b := memory.New()
	if err := b.Create(t.Context(), "topic", partitions); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if err := b.Publish(t.Context(), stream.Record{Topic: "topic", Value: []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func subscribe(t *testing.T, s *Subscriber) <-chan *message.Message {
	t.Helper()
	messages, err := s.Subscribe(t.Context(), "topic")
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func closeAll(t *testing.T, subscribers ...*Subscriber) {
	t.Helper()
	for _, s := range subscribers {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// next returns the next message, which has to be that one.
func next(t *testing.T, messages <-chan *message.Message, want string) *message.Message {
	t.Helper()
	select {
	case m, ok := <-messages:
		if !ok {
			t.Fatalf("the channel is closed, want %q", want)
		}
		if string(m.Payload) != want {
			t.Fatalf("got %q, want %q", m.Payload, want)
		}
		return m
	case <-time.After(time.Hour):
		t.Fatalf("nothing comes, want %q", want)
		return nil
	}
}

// nothing sees that no message comes for a while.
func nothing(t *testing.T, messages <-chan *message.Message, within time.Duration) {
	t.Helper()
	select {
	case m, ok := <-messages:
		if !ok {
			t.Fatal("the channel is closed")
		}
		t.Fatalf("got %q", m.Payload)
	case <-time.After(within):
	}
}

func ended(t *testing.T, ctx context.Context) {
	t.Helper()
	synctest.Wait()
	if ctx.Err() == nil {
		t.Error("the context of the message goes on")
	}
}

func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(topic(t, 2, "0", "1", "2"), SubscriberConfig{Group: "g"})
		messages := subscribe(t, s)
		for _, v := range []string{"0", "1", "2"} {
			m := next(t, messages, v)
			nothing(t, messages, time.Hour)
			if err := m.Context().Err(); err != nil {
				t.Errorf("before the ack: %v", err)
			}
			m.Ack()
			ended(t, m.Context())
		}
		nothing(t, messages, time.Hour)
		closeAll(t, s)
	})
}

func TestNackedComesAgainBeforeOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(topic(t, 1, "a", "b"), SubscriberConfig{Group: "g", Retry: time.Second})
		messages := subscribe(t, s)
		for range 3 {
			m := next(t, messages, "a")
			m.Nack()
			ended(t, m.Context())
			nothing(t, messages, time.Second-1)
		}
		next(t, messages, "a").Ack()
		next(t, messages, "b").Ack()
		nothing(t, messages, time.Hour)
		closeAll(t, s)
	})
}

// A message that is always nacked holds back the others for HoldFor at most,
// and comes again after them.
func TestHandedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(topic(t, 2, "bad", "good"), SubscriberConfig{Group: "g", Retry: time.Second, HoldFor: time.Minute})
		messages := subscribe(t, s)
		for range 1 + 60 { // now, and each second of the minute
			next(t, messages, "bad").Nack()
		}
		next(t, messages, "good").Ack()
		next(t, messages, "bad").Ack()
		nothing(t, messages, time.Hour)
		closeAll(t, s)
	})
}

// Where the broker brings nacked records first, what is handed back keeps its
// place in its partition.
func TestHandedBackInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(topic(t, 1, "bad", "good"), SubscriberConfig{Group: "g", Retry: time.Second, HoldFor: time.Minute})
		messages := subscribe(t, s)
		for range 1000 {
			next(t, messages, "bad").Nack()
		}
		next(t, messages, "bad").Ack()
		next(t, messages, "good").Ack()
		closeAll(t, s)
	})
}

// While one subscription is busy with a message that is always nacked, its
// partition moves to another. It lets go, and goes on with what it has.
func TestPartitionMovesWhileNacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := topic(t, 2)
		c := SubscriberConfig{Group: "g", HoldFor: time.Minute}
		first, second := NewSubscriber(b, c), NewSubscriber(b, c)
		messages := subscribe(t, first)
		publish(t, b, 1, "moves")
		next(t, messages, "moves").Nack()

		moved := subscribe(t, second) // partition 1 goes to the second member
		publish(t, b, 0, "stays")
		next(t, moved, "moves").Ack()
		for range 600 { // one each 100 ms, after the first
			next(t, messages, "moves").Nack()
		}
		next(t, messages, "stays").Ack()
		nothing(t, messages, time.Hour)
		nothing(t, moved, time.Hour)
		closeAll(t, first, second)
	})
}

// publish writes a record to that partition.
func publish(t *testing.T, b *memory.Broker, partition int32, value string) {
	t.Helper()
	key := []byte("a")
	for stream.PartitionFor(key, 2) != partition {
		key[0]++
	}
	if err := b.Publish(t.Context(), stream.Record{Topic: "topic", Key: key, Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := topic(t, 1, "a", "b")
		s := NewSubscriber(b, SubscriberConfig{Group: "g"})
		busy := subscribe(t, s)
		idle := subscribe(t, s)
		m := next(t, busy, "a")
		other := NewSubscriber(b, SubscriberConfig{Group: "other"})
		unread := subscribe(t, other)
		synctest.Wait()

		closeAll(t, s, other, s)
		if err := m.Context().Err(); err == nil {
			t.Error("the context of the message goes on")
		}
		for _, messages := range []<-chan *message.Message{busy, idle, unread} {
			select {
			case m, open := <-messages:
				if open {
					t.Errorf("got %q", m.Payload)
				}
			default:
				t.Error("a channel is open after Close")
			}
		}
		m.Ack() // too late
		s = NewSubscriber(b, SubscriberConfig{Group: "g"})
		next(t, subscribe(t, s), "a")
		closeAll(t, s)
	})
}

// What was acked before Close is settled, whatever comes first to the
// subscription: here, both at once.
func TestAckRightBeforeClose(t *testing.T) {
	for range 50 { // a select of both takes either
		ctx, cancel := context.WithCancel(t.Context())
		m := message.NewMessage("1", nil)
		m.Ack()
		cancel()
		if acked, err := outcome(ctx, m); !acked || err != nil {
			t.Fatalf("an ack and then the end give %v, %v", acked, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b := topic(t, 1, "a", "b")
		s := NewSubscriber(b, SubscriberConfig{Group: "g"})
		next(t, subscribe(t, s), "a").Ack()
		closeAll(t, s)
		s = NewSubscriber(b, SubscriberConfig{Group: "g"})
		next(t, subscribe(t, s), "b")
		closeAll(t, s)
	})
}

// A subscription that was closed in the middle of a nack's delay loses nothing.
func TestCloseWhileNacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := topic(t, 1, "a", "b")
		s := NewSubscriber(b, SubscriberConfig{Group: "g", Retry: time.Hour})
		next(t, subscribe(t, s), "a").Nack()
		synctest.Wait()
		start := time.Now()
		closeAll(t, s)
		if d := time.Since(start); d > 0 {
			t.Errorf("Close took %v", d)
		}
		s = NewSubscriber(b, SubscriberConfig{Group: "g"})
		messages := subscribe(t, s)
		next(t, messages, "a").Ack()
		next(t, messages, "b").Ack()
		closeAll(t, s)
	})
}

func TestSubscribeContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := topic(t, 1, "a")
		s := NewSubscriber(b, SubscriberConfig{Group: "g"})
		type key struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		messages, err := s.Subscribe(ctx, "topic")
		if err != nil {
			t.Fatal(err)
		}
		m := next(t, messages, "a")
		if got := m.Context().Value(key{}); got != "value" {
			t.Errorf("the value of Subscribe's context is %v", got)
		}
		cancel()
		ended(t, m.Context())
		if _, open := <-messages; open {
			t.Error("the channel is open")
		}
		next(t, subscribe(t, s), "a").Ack() // the same Subscriber may go on
		closeAll(t, s)
	})
}

func TestSubscribeErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := topic(t, 1)
		s := NewSubscriber(b, SubscriberConfig{Group: "g", Partitions: 3})
		if _, err := s.Subscribe(t.Context(), "nowhere"); !errors.Is(err, stream.ErrNoTopic) {
			t.Errorf("no topic: %v", err)
		}
		for range 2 {
			if err := s.SubscribeInitialize("nowhere"); err != nil {
				t.Error(err)
			}
		}
		if ranges, err := b.Ranges(t.Context(), "nowhere"); err != nil || len(ranges) != 3 {
			t.Errorf("the topic has %d partitions, want 3: %v", len(ranges), err)
		}
		if _, err := NewSubscriber(b, SubscriberConfig{}).Subscribe(t.Context(), "topic"); err == nil {
			t.Error("no group, and no error")
		}
		closeAll(t, s)
		if _, err := s.Subscribe(t.Context(), "topic"); !errors.Is(err, stream.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := s.SubscribeInitialize("topic"); !errors.Is(err, stream.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// A subscription whose source ends says why, and leaves the others alone.
func TestTopicDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := topic(t, 1)
		if err := b.Create(t.Context(), "other", 1); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s := NewSubscriber(b, SubscriberConfig{Group: "g", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		messages := subscribe(t, s)
		others, err := s.Subscribe(t.Context(), "other")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), "topic"); err != nil {
			t.Fatal(err)
		}
		if _, open := <-messages; open {
			t.Error("the channel is open")
		}
		if !strings.Contains(log.String(), stream.ErrNoTopic.Error()) {
			t.Errorf("log: %s", &log)
		}
		nothing(t, others, time.Hour)
		log.Reset()
		closeAll(t, s)
		if log.Len() > 0 {
			t.Errorf("closing logs %s", &log)
		}
	})
}

// fake is a Broker whose one source does as its functions say.
type fake struct {
	Broker
	open   func(ctx context.Context) error
	fetch  func() error
	settle func(error) error
	close  func() error

	fetched int64
}

func (f *fake) Open(ctx context.Context, _ stream.Subscription) (stream.SourceCloser, error) {
	if f.open != nil {
		return nil, f.open(ctx)
	}
	return f, nil
}

func (f *fake) Fetch(ctx context.Context, _ int) ([]stream.Record, stream.AckFunc, error) {
	if f.fetch != nil {
		if err := f.fetch(); err != nil {
			return nil, nil, err
		}
	}
	f.fetched++
	return []stream.Record{{Value: []byte{'0' + byte(f.fetched)}}}, func(ctx context.Context, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if f.settle != nil {
			return f.settle(err)
		}
		return nil
	}, nil
}

func (f *fake) Close() error {
	if f.close != nil {
		return f.close()
	}
	return nil
}

// failing returns a function that gives these errors, one a call, and then nil.
func failing(errs ...error) func() error {
	return func() error {
		if len(errs) == 0 {
			return nil
		}
		err := errs[0]
		errs = errs[1:]
		return err
	}
}

func TestUnreachableForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		settle := failing(stream.ErrUnreachable, errors.New("busy"))
		var outcomes []error
		b := &fake{
			fetch: failing(stream.ErrUnreachable, stream.ErrUnreachable),
			settle: func(err error) error {
				outcomes = append(outcomes, err)
				return settle()
			},
		}
		s := NewSubscriber(b, SubscriberConfig{Group: "g"})
		messages := subscribe(t, s)
		next(t, messages, "1").Ack()
		next(t, messages, "2")
		closeAll(t, s)
		if !slices.Equal(outcomes, []error{nil, nil, nil}) {
			t.Errorf("told the broker %v, want the same ack until it takes it", outcomes)
		}
	})
}

func TestFencedGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(&fake{settle: func(error) error { return stream.ErrFenced }}, SubscriberConfig{Group: "g"})
		messages := subscribe(t, s)
		next(t, messages, "1").Ack()
		next(t, messages, "2").Ack()
		closeAll(t, s)
	})
}

func TestSourceClosedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(&fake{settle: func(error) error { return stream.ErrClosed }}, SubscriberConfig{Group: "g"})
		messages := subscribe(t, s)
		next(t, messages, "1").Ack()
		if _, open := <-messages; open {
			t.Error("the channel is open")
		}
		closeAll(t, s)
	})
}

// An outcome that the broker does not take does not keep Close from returning.
func TestCloseWhileUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(&fake{settle: func(error) error { return stream.ErrUnreachable }}, SubscriberConfig{Group: "g", Retry: time.Second})
		next(t, subscribe(t, s), "1").Ack()
		synctest.Wait()
		start := time.Now()
		closeAll(t, s)
		if d := time.Since(start); d > settleWithin {
			t.Errorf("Close took %v", d)
		}
	})
}

func TestCloseError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("positions were not stored")
		s := NewSubscriber(&fake{close: func() error { return failed }}, SubscriberConfig{Group: "g"})
		subscribe(t, s)
		for range 2 {
			if err := s.Close(); !errors.Is(err, failed) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestCloseEndsSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSubscriber(&fake{open: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}, SubscriberConfig{Group: "g"})
		failed := make(chan error)
		go func() {
			_, err := s.Subscribe(t.Context(), "topic")
			failed <- err
		}()
		synctest.Wait()
		go s.Close()
		if err := <-failed; !errors.Is(err, stream.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}
