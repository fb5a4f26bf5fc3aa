package amqp

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	amqp10 "github.com/Azure/go-amqp"

	"penstock/schemas"
	"penstock/stream"
)

// reasonLimit bounds the reason of a rejection in bytes: it has to fit a frame, of
// which a broker takes 512 bytes at least.
const reasonLimit = 256

// source10 is a source of AMQP 1.0.
type source10 struct {
	conn     *amqp10.Conn
	session  *amqp10.Session
	receiver *amqp10.Receiver
	inFlight int
}

func (b *Bridge) open10(ctx context.Context) (_ source, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	u, err := url.Parse(b.c.URL)
	if err != nil {
		return nil, err
	}
	options := &amqp10.ConnOptions{TLSConfig: b.c.TLS, IdleTimeout: 3 * heartbeat, WriteTimeout: answerWithin}
	if host := u.Path; len(host) > 1 {
		options.HostName = "vhost:" + host[1:] // as RabbitMQ has it
		if options.TLSConfig != nil && options.TLSConfig.ServerName == "" {
			options.TLSConfig = options.TLSConfig.Clone()
			options.TLSConfig.ServerName = u.Hostname()
		}
	}
	if u.User == nil {
		options.SASLType = amqp10.SASLTypeAnonymous()
	}
	conn, err := amqp10.Dial(ctx, b.c.URL, options)
	if err != nil {
		if errors.As(err, new(*amqp10.Error)) {
			return nil, fmt.Errorf("connect to AMQP: %w", err)
		}
		return nil, fmt.Errorf("connect to AMQP: %w: %w", stream.ErrUnreachable, err)
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	session, err := conn.NewSession(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("open a session of AMQP: %w", err)
	}
	unsettled := amqp10.SenderSettleModeUnsettled
	receiver, err := session.NewReceiver(ctx, b.c.Queue, &amqp10.ReceiverOptions{
		Credit:                    int32(b.c.InFlight), //nolint:gosec // 65535 at most
		RequestedSenderSettleMode: &unsettled,
	})
	if err != nil {
		return nil, fmt.Errorf("receive from %q: %w", b.c.Queue, err)
	}
	return &source10{conn, session, receiver, b.c.InFlight}, nil
}

func (s *source10) receive(ctx context.Context) (message, error) {
	m, err := s.receiver.Receive(ctx, nil)
	if err != nil {
		return message{}, err
	}
	return s.message(m), nil
}

func (s *source10) received() (message, bool) {
	m := s.receiver.Prefetched()
	if m == nil {
		return message{}, false
	}
	return s.message(m), true
}

// message reads data, text and binary values; other bodies are misfits. The key is
// RabbitMQ's routing key, or the subject.
func (s *source10) message(m *amqp10.Message) message {
	out := message{
		accept: func() error {
			return s.settle(func(ctx context.Context) error { return s.receiver.AcceptMessage(ctx, m) })
		},
		reject: func(why error) error {
			text := why.Error()
			return s.settle(func(ctx context.Context) error {
				return s.receiver.RejectMessage(ctx, m, &amqp10.Error{Condition: "penstock:refused", Description: text[:min(len(text), reasonLimit)]})
			})
		},
		release: func() error {
			return s.settle(func(ctx context.Context) error { return s.receiver.ReleaseMessage(ctx, m) })
		},
	}
	if key, ok := m.Annotations["x-routing-key"].(string); ok {
		out.key = key
	} else if m.Properties != nil && m.Properties.Subject != nil {
		out.key = *m.Properties.Subject
	}
	switch v := m.Value.(type) {
	case nil:
		if len(m.Sequence) > 0 {
			out.amiss = misfit("a sequence")
		}
		out.body = slices.Concat(m.Data...)
	case string:
		out.body = []byte(v)
	case []byte:
		out.body = v
	default:
		out.amiss = misfit(fmt.Sprintf("a value of AMQP's type %T", v))
	}
	return out
}

func misfit(found string) error {
	return &schemas.ValueError{Violations: []schemas.Violation{{Expected: "a body of data, text or a binary value", Found: found}}}
}

// settle bounds how long it waits for the way to the broker, of whose connection
// nothing is known.
func (s *source10) settle(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	return f(ctx)
}

// close gives back what has been received and not been looked at. The broker may
// deliver it again at once, so that there is no end of it.
func (s *source10) close() {
	for range s.inFlight {
		m, ok := s.received()
		if !ok || m.release() != nil {
			break
		}
	}
	// RabbitMQ drops what it has read of a session and not looked at yet when the
	// connection is closed, and answers the session's end only after that. Its
	// version 3 may never answer the link's. Either may be closed already.
	_ = s.settle(s.session.Close)
	_ = s.conn.Close()
}
