package amqp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"penstock/stream"
)

// source091 is a source of AMQP 0.9.1. What is not acknowledged when its connection
// is closed the broker puts back, in order.
type source091 struct {
	conn       *amqp091.Connection
	deliveries <-chan amqp091.Delivery
	closed     chan *amqp091.Error
}

func (b *Bridge) open091(ctx context.Context) (_ source, err error) {
	d := &net.Dialer{Timeout: answerWithin}
	conn, err := amqp091.DialConfig(b.c.URL, amqp091.Config{
		Heartbeat:       heartbeat,
		TLSClientConfig: b.c.TLS,
		Dial: func(network, address string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, address)
			if err == nil {
				err = c.SetDeadline(time.Now().Add(answerWithin)) // the client ends it once it is in
			}
			return c, err
		},
	})
	if err != nil {
		if errors.As(err, new(*amqp091.Error)) {
			return nil, fmt.Errorf("connect to AMQP: %w", err)
		}
		return nil, fmt.Errorf("connect to AMQP: %w: %w", stream.ErrUnreachable, err)
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	ch, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel of AMQP: %w", err)
	}
	s := &source091{conn: conn, closed: ch.NotifyClose(make(chan *amqp091.Error, 1))}
	if err := ch.Qos(b.c.InFlight, 0, false); err != nil {
		return nil, fmt.Errorf("limit what is in flight: %w", err)
	}
	if s.deliveries, err = ch.Consume(b.c.Queue, "", false, false, false, false, nil); err != nil {
		return nil, fmt.Errorf("consume queue %q: %w", b.c.Queue, err)
	}
	return s, nil
}

func (s *source091) receive(ctx context.Context) (message, error) {
	select {
	case d, ok := <-s.deliveries:
		if ok {
			return message091(d), nil
		}
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
	select {
	case err := <-s.closed:
		if err != nil {
			return message{}, err
		}
	default:
	}
	return message{}, errors.New("the broker has ended the delivery")
}

func (s *source091) received() (message, bool) {
	select {
	case d, ok := <-s.deliveries:
		return message091(d), ok
	default:
		return message{}, false
	}
}

func message091(d amqp091.Delivery) message {
	return message{
		key: d.RoutingKey, body: d.Body,
		accept:  func() error { return d.Ack(false) },
		reject:  func(error) error { return d.Reject(false) },
		release: func() error { return nil }, // it goes back with the connection
	}
}

func (s *source091) close() { _ = s.conn.Close() } // it may be closed already
