package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"penstock/producers"
	"penstock/stream"
)

// session is what outlives a connection.
type session struct {
	*Bridge
	queue chan *delivery

	mu   sync.Mutex
	conn *conn // nil: none
	// pending are deliveries of QoS 1 and 2 by packet id: those that no
	// acknowledgement was sent for, and of QoS 2 also those whose id the broker
	// has not released. Ids are of use only within the broker's session.
	pending    map[uint16]*delivery
	subscribed bool // the broker's session has our filters
}

// delivery is a message on its way.
type delivery struct {
	Message
	id       uint16
	tooLarge bool
	on       *conn // on which it arrived last
	done     bool  // durable, or refused
}

// receive takes in a PUBLISH. It waits while too much is on its way, until ctx
// ends.
func (s *session) receive(ctx context.Context, c *conn, pk *packet) {
	d := &delivery{
		Message:  Message{Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Retained: pk.FixedHeader.Retain},
		id:       pk.PacketID,
		tooLarge: pk.tooLarge,
		on:       c,
	}
	if d.QoS > 0 && s.known(c, d, pk.FixedHeader.Dup) {
		return
	}
	select {
	case s.queue <- d:
	case <-ctx.Done():
	}
}

// known says whether a delivery is one that is pending already, come again on
// another connection, and answers it if it is done. The broker cannot have given
// its id to another message, since it has no acknowledgement of it; what it sends
// for the first time is another one whatever its id.
func (s *session) known(c *conn, d *delivery, again bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.pending[d.id]
	if !again || old == nil || old.QoS != d.QoS || old.Topic != d.Topic {
		s.pending[d.id] = d
		return false
	}
	old.on = c
	if old.done {
		s.acknowledge(old)
	}
	return true
}

// publish publishes what gathers, batch after batch, until ctx ends.
func (s *session) publish(ctx context.Context) {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finishWithin, stop) })()
	for {
		var batch []*delivery
		select {
		case d := <-s.queue:
			batch = append(batch, d)
		case <-ctx.Done():
			return
		}
		for gathered := len(s.queue); gathered > 0; gathered-- {
			batch = append(batch, <-s.queue)
		}
		if !s.settle(ctx, work, batch) {
			return
		}
		s.mu.Lock()
		s.acknowledge(batch...)
		s.mu.Unlock()
	}
}

// settle returns true when each of a batch is durable or refused. It tries again,
// in the order of arrival, until ctx ends; what it has begun by then ends with
// work.
func (s *session) settle(ctx, work context.Context, batch []*delivery) bool {
	retry := producers.Backoff{First: s.c.Retry}
	for {
		again, err := s.try(work, batch)
		if len(again) == 0 {
			return true
		}
		s.c.Logger.Warn("messages not published yet", "messages", len(again), "error", err)
		if !retry.Wait(ctx) {
			return false
		}
		batch = again
	}
}

// try returns those that are to be tried again, and why.
func (s *session) try(ctx context.Context, batch []*delivery) (again []*delivery, why error) {
	events := make([]producers.Event, 0, len(batch))
	sent := make([]*delivery, 0, len(batch))
	refused := map[*delivery]error{}
	for _, d := range batch {
		e, err := s.event(d.Message)
		if d.tooLarge {
			err = fmt.Errorf("%w: the limit of a message is %d bytes", stream.ErrTooLarge, s.c.MaxPacket)
		}
		d.To = e.Topic
		if err != nil {
			refused[d] = err
			continue
		}
		events, sent = append(events, e), append(sent, d)
	}
	failed := map[*delivery]error{}
	if len(events) > 0 {
		err := s.to.Publish(ctx, events...)
		partly := (*stream.BatchError)(nil)
		if err != nil && !errors.As(err, &partly) {
			partly = &stream.BatchError{}
			for i := range sent {
				partly.Fail(i, err)
			}
		}
		if partly != nil {
			for i, err := range partly.Errs {
				if producers.IsFinal(err) {
					refused[sent[i]] = err
				} else {
					failed[sent[i]] = err
				}
			}
		}
	}
	for _, d := range batch {
		err := failed[d]
		if final := refused[d]; final != nil {
			err = s.c.Refused(ctx, d.Message, final)
		}
		if err != nil {
			again, why = append(again, d), err
		}
	}
	return again, why
}

// acknowledge says to the broker that messages are done, in the order of their
// arrival, as far as they arrived on the connection that there is; of the others
// it waits until they come again. It is called under mu.
func (s *session) acknowledge(batch ...*delivery) {
	var out bytes.Buffer
	for _, d := range batch {
		d.done = true
		d.Payload = nil
		if d.QoS == 0 || d.on != s.conn || s.pending[d.id] != d {
			continue
		}
		if d.QoS == 2 {
			s.c.encode(&out, packets.Pubrec, d.id)
			continue
		}
		// From here on the broker may give the id to another message.
		delete(s.pending, d.id)
		s.c.encode(&out, packets.Puback, d.id)
	}
	if out.Len() > 0 {
		s.conn.write(out.Bytes())
	}
}

// release takes in a PUBREL.
func (s *session) release(c *conn, id uint16) {
	var out bytes.Buffer
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.pending[id]; d != nil && d.done {
		delete(s.pending, id)
	}
	s.c.encode(&out, packets.Pubcomp, id)
	c.write(out.Bytes())
}
