package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/stream"
)

// Publish implements stream.Publisher. It is idempotent as far as the client's
// own retries go: a record that the caller publishes again after an error may
// be there twice. A record whose outcome the broker did not tell within
// Config.Timeout is named as failed with stream.ErrUnreachable, and may be there.
func (b *Broker) Publish(ctx context.Context, records ...stream.Record) error {
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	p := publication{broker: b, topics: map[string]*topic{}, missing: map[string]error{}}
	out := toKafka(records)
	done := p.done
	// Not the client's own timeout: it counts from a record's Time, which may be
	// long ago.
	asked, cancel := b.ask(ctx)
	defer cancel()
	for i := range out {
		p.write(asked, &out[i], done)
	}
	p.waiting.Wait()
	if len(p.failed) == 0 {
		place(records, out)
		return nil
	}
	if again := p.again(out); len(again) > 0 {
		for _, r := range again {
			p.write(asked, r, done)
		}
		p.waiting.Wait()
	}

	var failed stream.BatchError
	for i := range out {
		err := p.failed[&out[i]]
		switch {
		case err == nil:
		case ended(ctx, err):
			return fmt.Errorf("publish: %w", ctx.Err())
		case errors.Is(err, kgo.ErrClientClosed):
			return fmt.Errorf("publish: %w", stream.ErrClosed)
		default:
			failed.Fail(i, p.explain(ctx, &out[i], err))
		}
	}
	place(records, out)
	return failed.OrNil()
}

// place says of records where they lie.
func place(records []stream.Record, out []kgo.Record) {
	for i := range out {
		records[i].Partition, records[i].Offset = out[i].Partition, out[i].Offset
	}
}

// publication is one call of Publish.
type publication struct {
	broker  *Broker
	topics  map[string]*topic // those that exist
	missing map[string]error  // and those that do not
	last    string            // the last topic that was found to exist

	waiting sync.WaitGroup
	mu      sync.Mutex
	failed  map[*kgo.Record]error
}

// write hands r to the client, or notes why it cannot be written.
func (p *publication) write(ctx context.Context, r *kgo.Record, done func(*kgo.Record, error)) {
	p.waiting.Add(1)
	if err := p.admit(ctx, r); err != nil {
		done(r, err)
		return
	}
	p.broker.client.Produce(ctx, r, done)
}

func (p *publication) done(r *kgo.Record, err error) {
	if err != nil {
		p.mu.Lock()
		if p.failed == nil {
			p.failed = map[*kgo.Record]error{}
		}
		p.failed[r] = err
		p.mu.Unlock()
	}
	p.waiting.Done()
}

// admit says why r cannot be written. The client alone would take seconds to
// find that a topic does not exist.
func (p *publication) admit(ctx context.Context, r *kgo.Record) error {
	if r.Topic != p.last || p.last == "" {
		if err := p.missing[r.Topic]; err != nil {
			return err
		}
		if p.topics[r.Topic] == nil {
			t, err := p.broker.known(ctx, r.Topic)
			if err != nil {
				err = fmt.Errorf("topic %q: %w", r.Topic, err)
				p.missing[r.Topic] = err
				return err
			}
			p.topics[r.Topic] = t
		}
		p.last = r.Topic
	}
	if n, limit := len(r.Value), p.broker.config.MaxValueBytes; n > limit {
		return fmt.Errorf("%w: the value has %d bytes, the limit is %d", stream.ErrTooLarge, n, limit)
	}
	return nil
}

// again returns, in their order, the records that were refused because their
// topic is no longer the one that was known. None of them was written where it
// could be read, so they may go to the topic that has the name now.
func (p *publication) again(out []kgo.Record) []*kgo.Record {
	var records []*kgo.Record
	gone := map[string]bool{}
	for i := range out {
		r := &out[i]
		err, t := p.failed[r], p.topics[r.Topic]
		if err == nil || t == nil {
			continue
		}
		if !gone[r.Topic] {
			if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition) {
				p.broker.forget(r.Topic, t)
			}
			// Another call may have been faster to forget it.
			now, _ := p.broker.topics.Load(r.Topic)
			gone[r.Topic] = now != t
		}
		if gone[r.Topic] {
			records = append(records, r)
			delete(p.failed, r)
		}
	}
	for name := range gone {
		if gone[name] {
			delete(p.topics, name)
		}
	}
	p.last = ""
	return records
}

// explain puts the error of r in words of package stream.
func (p *publication) explain(ctx context.Context, r *kgo.Record, err error) error {
	if !errors.Is(err, kerr.MessageTooLarge) {
		return translate(ctx, err)
	}
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value)
	}
	return fmt.Errorf("%w: the record has %d bytes, and max.message.bytes of topic %q is %d", stream.ErrTooLarge, size, r.Topic, p.topics[r.Topic].maxBytes)
}

// toKafka returns records as the client takes them. They share their bytes.
func toKafka(records []stream.Record) []kgo.Record {
	n := 0
	for i := range records {
		n += len(records[i].Headers)
	}
	headers := make([]kgo.RecordHeader, 0, n)
	out := make([]kgo.Record, len(records))
	for i := range records {
		r := &records[i]
		first := len(headers)
		for _, h := range r.Headers {
			headers = append(headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		out[i] = kgo.Record{
			Topic: r.Topic, Key: r.Key, Value: r.Value, Timestamp: r.Time,
			Headers: headers[first:len(headers):len(headers)],
		}
	}
	return out
}

// fromKafka returns records as package stream has them. They share their bytes.
func fromKafka(records []*kgo.Record) []stream.Record {
	n := 0
	for _, r := range records {
		n += len(r.Headers)
	}
	headers := make([]stream.Header, 0, n)
	out := make([]stream.Record, len(records))
	for i, r := range records {
		first := len(headers)
		for _, h := range r.Headers {
			if h.Value == nil {
				h.Value = []byte{}
			}
			headers = append(headers, stream.Header{Key: h.Key, Value: h.Value})
		}
		out[i] = stream.Record{
			Topic: r.Topic, Key: r.Key, Value: r.Value, Time: r.Timestamp,
			Headers:   headers[first:len(headers):len(headers)],
			Partition: r.Partition, Offset: r.Offset,
		}
	}
	return out
}
