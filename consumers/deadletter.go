package consumers

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/stream"
)

// DeadLetterTopic is where Run puts what cannot pass, unless Config names another
// topic. It must exist, and
// is best made with as many partitions as the topic itself has, so that records
// of one key stay together.
func DeadLetterTopic(topic, group string) string {
	return topic + "." + group + ".dlq"
}

// deadLetter is a record that cannot pass.
type deadLetter struct {
	record stream.Record
	why    *Reason
}

// build returns what is published: key, value, time and headers as they were,
// and where it came from and why. The value stays whole: it came from a broker.
// topic is where it goes, if not to the DeadLetterTopic.
func (d deadLetter) build(topic, group string, now time.Time) stream.Record {
	out := stream.Record{
		Topic: cmp.Or(topic, DeadLetterTopic(d.record.Topic, group)),
		Key:   d.record.Key,
		Value: d.record.Value,
		Time:  d.record.Time,
	}
	out.Headers = slices.DeleteFunc(slices.Clone(d.record.Headers), func(h stream.Header) bool {
		return strings.HasPrefix(h.Key, "penstock-dlq-")
	})
	stage := "VALUE_CONVERTER"
	if d.why.Code == RefusedBySink || d.why.Code == Parked {
		stage = "TASK_PUT"
	}
	text := stream.HeaderText(d.why.Err.Error())
	for _, h := range [][2]string{
		{stream.HeaderTopic, d.record.Topic},
		{stream.HeaderPartition, strconv.Itoa(int(d.record.Partition))},
		{stream.HeaderOffset, strconv.FormatInt(d.record.Offset, 10)},
		{stream.HeaderStage, stage},
		{stream.HeaderClass, "penstock." + string(d.why.Code)},
		{stream.HeaderMessage, text},
	} {
		if _, ok := out.Header(h[0]); !ok {
			out.Headers = append(out.Headers, stream.Header{Key: h[0], Value: []byte(h[1])})
		}
	}
	for _, h := range [][2]string{
		{stream.HeaderReason, string(d.why.Code)},
		{stream.HeaderError, text},
		{stream.HeaderPointer, stream.HeaderText(d.why.Pointer())},
		{stream.HeaderGroup, group},
		{stream.HeaderTime, now.UTC().Format(time.RFC3339Nano)},
	} {
		out.Headers = append(out.Headers, stream.Header{Key: h[0], Value: []byte(h[1])})
	}
	return out
}

// setAside publishes dead letters and returns once they are durable. It fails
// only if the run ends first, or must end for it.
func (r *run) setAside(letters []deadLetter) error {
	if len(letters) == 0 {
		return nil
	}
	if r.cfg.Parking != nil {
		if err := r.note(letters[0].record.Topic, r.cfg.Parking.waits(letters)); err != nil {
			return err
		}
	}
	if r.cfg.DeadLetters == nil {
		d := letters[0].record
		err := fmt.Errorf("record %d of %s/%d cannot pass, and there is no dead-letter topic: %w", d.Offset, d.Topic, d.Partition, letters[0].why)
		r.fail(err)
		return err
	}
	tooLarge := func(err error) bool { return errors.Is(err, stream.ErrTooLarge) }
	err := r.retry("publish dead letters", tooLarge, func() error {
		now := time.Now()
		records := make([]stream.Record, len(letters))
		for i, d := range letters {
			records[i] = d.build(r.cfg.DeadLetterTopic, r.cfg.Group, now)
		}
		err := r.cfg.DeadLetters.Publish(r.work, records...)
		var partly *stream.BatchError
		if err != nil && !errors.As(err, &partly) {
			return err
		}
		var failed []deadLetter
		for i, d := range letters {
			switch {
			case partly != nil && partly.Errs[i] != nil:
				failed = append(failed, d)
				err = fmt.Errorf("record %d of %s/%d to topic %q: %w", d.record.Offset, d.record.Topic, d.record.Partition, records[i].Topic, partly.Errs[i])
				if tooLarge(err) {
					return err
				}
			case r.cfg.Hooks.DeadLetter != nil:
				r.cfg.Hooks.DeadLetter(d.record, d.why)
			}
		}
		letters = failed
		return err
	})
	if tooLarge(err) {
		err = fmt.Errorf("set aside %w; raise the limit of that topic", err)
		r.fail(err)
	}
	return err
}
