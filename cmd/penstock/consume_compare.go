package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"penstock/consumers"
	"penstock/consumers/diffing"
	"penstock/schemas"
	"penstock/stream"
)

// compare compares two topics by key and prints where they differ.
func (c *diffCmd) compare(ctx context.Context, t *terminal) (err error) {
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	dir, err := os.MkdirTemp("", "penstock-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	comparison, err := diffing.OpenComparison(dir, c.Key, c.rules(), c.Cache<<20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, comparison.Close()) }()
	decoder := consumers.NewDecoder(reg, schemas.Limits{})
	var left, extra, different, unread int64
	for side, topic := range map[diffing.Side]string{diffing.Left: c.Compare, diffing.Right: c.Topic} {
		err := eachRecord(ctx, broker, topic, "compare-"+rand.Text(), 5000, func(records []stream.Record) error {
			messages := make([]consumers.Message, 0, len(records))
			for _, r := range records {
				m, err := decoder.Decode(ctx, r)
				if reason := (*consumers.Reason)(nil); errors.As(err, &reason) {
					unread++
					t.log.Warn("left out", "topic", topic, "partition", r.Partition, "offset", r.Offset, "reason", reason.Error())
					continue
				}
				if err != nil {
					return err
				}
				messages = append(messages, m)
			}
			err := comparison.Add(side, messages...)
			if refused := (*stream.BatchError)(nil); errors.As(err, &refused) {
				for i, why := range refused.Errs {
					unread++
					t.log.Warn("left out", "topic", topic, "partition", messages[i].Partition, "offset", messages[i].Offset, "reason", why)
				}
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("read topic %q: %w", topic, err)
		}
	}
	same, err := comparison.Report(func(d diffing.Difference) error {
		what, text := "different", d.Patch
		switch {
		case d.Right == nil:
			what, text = "missing", d.Left
			left++
		case d.Left == nil:
			what, text = "extra", d.Right
			extra++
		default:
			different++
		}
		if c.json() {
			row := map[string]any{"key": printable([]byte(d.Key)), "what": what, "left": rawOrNull(d.Left), "right": rawOrNull(d.Right)}
			if d.Patch != nil {
				row["patch"] = rawOrNull(d.Patch)
			}
			return t.object(row)
		}
		t.printf("%-9s %s %s\n", what, printable([]byte(d.Key)), text)
		return nil
	})
	if err != nil {
		return err
	}
	if c.json() {
		err = t.object(map[string]any{"left": c.Compare, "right": c.Topic, "same": same, "missing": left, "extra": extra, "different": different, "leftOut": unread})
	} else {
		t.printf("%s the same, %s missing in %s, %s extra, %s different, %s left out\n",
			count(same), count(left), c.Topic, count(extra), count(different), count(unread))
	}
	if err == nil && left+extra+different+unread > 0 {
		err = errNo
	}
	return err
}

// rawOrNull is JSON as it is; nothing is null.
func rawOrNull(text []byte) json.RawMessage {
	if text == nil {
		return json.RawMessage("null")
	}
	return text
}
