package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// dlqCmd looks at dead letters and brings them back.
type dlqCmd struct {
	List    dlqListCmd    `cmd:"" help:"List dead letters, with the reason of each."`
	Show    dlqShowCmd    `cmd:"" help:"Show one whole."`
	Redrive dlqRedriveCmd `cmd:"" help:"Publish them to the topics they came from, each once."`
	Release dlqReleaseCmd `cmd:"" help:"Give one up that records of its key wait for."`
}

// lettersFlags say where dead letters lie, and which of them are meant.
type lettersFlags struct {
	Topic string `arg:"" help:"Topic of dead letters, as orders.microbatch.dlq."`

	brokerFlag
	registryFlag
	outputFlag
	Reason []string          `placeholder:"CODE,…" help:"Only those with one of these reasons, as unknown-schema."`
	Since  time.Time         `placeholder:"TIME" help:"Only those set aside at this time (RFC 3339) or after it."`
	Before time.Time         `placeholder:"TIME" help:"Only those set aside before it."`
	Header map[string]string `placeholder:"NAME=VALUE" help:"Only those with this header."`
}

func (f *lettersFlags) selects(l consumers.Letter) bool {
	if !f.Since.IsZero() && l.At.Before(f.Since) || !f.Before.IsZero() && !l.At.Before(f.Before) {
		return false
	}
	for name, want := range f.Header {
		if got, ok := l.Header(name); !ok || string(got) != want {
			return false
		}
	}
	for _, code := range f.Reason {
		if string(l.Code) == code {
			return true
		}
	}
	return len(f.Reason) == 0
}

// each hands the dead letters that are selected to do, run by run, from the
// oldest to the newest that is there now, at most max at a time.
func (f *lettersFlags) each(ctx context.Context, broker stream.Broker, max int, do func([]consumers.Letter) error) error {
	return eachRecord(ctx, broker, f.Topic, "dlq-"+rand.Text(), max, func(records []stream.Record) error {
		var letters []consumers.Letter
		for _, r := range records {
			if l := consumers.ReadLetter(r); f.selects(l) {
				letters = append(letters, l)
			}
		}
		if len(letters) == 0 {
			return nil
		}
		return do(letters)
	})
}

// from is where a dead letter lay first, in words.
func from(l consumers.Letter) string {
	switch {
	case l.From.Topic == "":
		return "an unknown topic"
	case l.From.Offset < 0:
		return l.From.Topic
	}
	return fmt.Sprintf("%s %d/%d", l.From.Topic, l.From.Partition, l.From.Offset)
}

// summary is a dead letter for scripts.
func summary(l consumers.Letter) map[string]any {
	return map[string]any{
		"partition": l.Partition, "offset": l.Offset, "reason": l.Code, "error": l.Error, "pointer": l.Pointer,
		"group": l.Group, "time": l.At.Format(time.RFC3339Nano), "attempt": l.Attempt,
		"from": map[string]any{"topic": l.From.Topic, "partition": l.From.Partition, "offset": l.From.Offset},
	}
}

// dlqListCmd lists dead letters.
type dlqListCmd struct {
	lettersFlags
	Limit int `default:"1000" placeholder:"N" help:"List this many at most (default ${default})."`
}

// errEnough ends a list at its limit.
var errEnough = errors.New("that is enough")

// Run lists them.
func (c *dlqListCmd) Run(ctx context.Context, t *terminal) error {
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	left := c.Limit
	err = c.each(ctx, broker, 1000, func(letters []consumers.Letter) error {
		for _, l := range letters {
			if left--; left < 0 {
				return errEnough
			}
			if c.json() {
				if err := t.object(summary(l)); err != nil {
					return err
				}
				continue
			}
			t.printf("%d/%d from %s: %s: %s\n", l.Partition, l.Offset, from(l), l.Code, l.Error)
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		t.notef("there are more; --limit says how many to list\n")
		return nil
	}
	return err
}

// letterFlags say which dead letter is meant.
type letterFlags struct {
	lettersFlags
	Place string `arg:"" placeholder:"PARTITION/OFFSET" help:"Which, as dlq list names it."`
}

// find returns it. Without an error, the broker is to be closed.
func (c *letterFlags) find(ctx context.Context, t *terminal) (_ stream.Broker, found *consumers.Letter, err error) {
	p, o, ok := strings.Cut(c.Place, "/")
	partition, err1 := strconv.ParseInt(p, 10, 32)
	offset, err2 := strconv.ParseInt(o, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return nil, nil, usagef("%q is no place; write PARTITION/OFFSET, as in 0/17", c.Place)
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = broker.Close()
		}
	}()
	err = c.each(ctx, broker, 1000, func(letters []consumers.Letter) error {
		for _, l := range letters {
			if l.Partition == int32(partition) && l.Offset == offset {
				found = &l
				return errEnough
			}
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		return nil, nil, err
	case found == nil:
		return nil, nil, noError{fmt.Errorf("topic %q holds nothing at %s that is selected; see penstock dlq list", c.Topic, c.Place)}
	}
	return broker, found, nil
}

// dlqShowCmd shows a dead letter.
type dlqShowCmd struct{ letterFlags }

// Run shows it.
func (c *dlqShowCmd) Run(ctx context.Context, t *terminal) error {
	broker, found, err := c.find(ctx, t)
	if err != nil {
		return err
	}
	defer broker.Close()
	out := summary(*found)
	headers := make([][2]string, len(found.Headers))
	for i, h := range found.Headers {
		headers[i] = [2]string{h.Key, printable(h.Value)}
	}
	out["headers"], out["key"], out["raw"] = headers, printable(found.Key), found.Value
	if c.json() {
		return t.object(out)
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	t.printf("%s\n", text)
	return nil
}

// dlqRedriveCmd brings dead letters back.
type dlqRedriveCmd struct {
	lettersFlags
	DryRun   bool `help:"Say what would be done, and do nothing."`
	Rate     int  `placeholder:"N" help:"Redrive this many a second at most."`
	Attempts int  `default:"3" placeholder:"N" help:"Leave those that were redriven this often and came back (default ${default})."`
}

// Help shows examples.
func (dlqRedriveCmd) Help() string {
	return `Examples:
  penstock dlq redrive orders.microbatch.dlq --reason unknown-schema --dry-run
  penstock dlq redrive orders.microbatch.dlq --since 2026-11-01T00:00:00Z --rate 100 -o json >> audit.jsonl

Each is decoded first, as consumers would do it today; what cannot pass stays where
it is, and the answer is 1. A line says of each what became of it. However often this
is called and wherever it is interrupted, a record is redriven once for each time
that it was set aside: which ones were is kept with the topic, in the transaction
that redrives them (Kafka, JetStream). Dead letters stay in their topic.`
}

// Run redrives what is selected.
func (c *dlqRedriveCmd) Run(ctx context.Context, t *terminal) error {
	if c.Rate < 0 || c.Attempts < 1 {
		return usagef("--rate is %d and --attempts %d; expected no less than 0 and 1", c.Rate, c.Attempts)
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	resumer, ok := broker.(stream.Resumer)
	if !ok {
		return fmt.Errorf("redrive: %w: it cannot keep what was redriven", stream.ErrUnsupported)
	}
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	redriver := &consumers.Redriver{
		Broker: resumer, Decoder: consumers.NewDecoder(reg, schemas.Limits{}), Pipeline: c.Topic, Attempts: c.Attempts, DryRun: c.DryRun,
	}
	atOnce := 500
	if c.Rate > 0 {
		atOnce = min(atOnce, c.Rate)
	}
	done := map[consumers.Outcome]int64{}
	err = c.each(ctx, broker, atOnce, func(letters []consumers.Letter) error {
		verdicts, err := redriver.Redrive(ctx, letters)
		if err != nil {
			return err
		}
		for i, v := range verdicts {
			done[v.Outcome]++
			if err := c.say(t, letters[i], v); err != nil {
				return err
			}
		}
		if c.Rate == 0 || c.DryRun {
			return nil
		}
		select {
		case <-time.After(time.Duration(len(letters)) * time.Second / time.Duration(c.Rate)):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if !c.json() {
		what, n := "redriven", done[consumers.Redriven]
		if c.DryRun {
			what, n = "would be redriven", done[consumers.WouldRedrive]
		}
		t.printf("%s %s, %s were before, %s stay\n", count(n), what, count(done[consumers.RedrivenOnce]),
			count(done[consumers.StillRefused]+done[consumers.TooOften]+done[consumers.NeverAnywhere]))
	}
	if err == nil && done[consumers.StillRefused]+done[consumers.TooOften]+done[consumers.NeverAnywhere] > 0 {
		err = errNo
	}
	return err
}

// say is the line of the audit about one dead letter.
func (c *dlqRedriveCmd) say(t *terminal, l consumers.Letter, v consumers.Verdict) error {
	why := ""
	if v.Why != nil {
		why = v.Why.Error()
	}
	if c.json() {
		out := summary(l)
		out["outcome"], out["at"] = v.Outcome, time.Now().UTC().Format(time.RFC3339Nano)
		if why != "" {
			out["why"] = why
		}
		return t.object(out)
	}
	if why != "" {
		why = ": " + oneLine(v.Why)
	}
	t.printf("%d/%d from %s: %s%s\n", l.Partition, l.Offset, from(l), v.Outcome, why)
	return nil
}

// dlqReleaseCmd gives a dead letter up that others wait for.
type dlqReleaseCmd struct{ letterFlags }

// Help shows an example.
func (dlqReleaseCmd) Help() string {
	return `Example:
  penstock dlq release orders.microbatch.dlq 0/17

With --ordering park the records of a key wait behind the first of them that cannot
pass. If that one never will, release it: it stays in its topic, and those behind it
pass once they are redriven. A consumer that runs sees it within ten seconds.`
}

// Run gives it up.
func (c *dlqReleaseCmd) Run(ctx context.Context, t *terminal) error {
	broker, l, err := c.find(ctx, t)
	if err != nil {
		return err
	}
	defer broker.Close()
	logs, ok := broker.(consumers.ParkingBroker)
	if !ok || l.From.Offset < 0 || l.Group == "" {
		return noError{fmt.Errorf("nothing waits for %s, which no consumer parked", c.Place)}
	}
	waited, err := consumers.NewParking(logs, l.Group).Release(ctx, l.From.Topic, l.From.Partition, l.From.Offset)
	if err != nil {
		return err
	}
	if !waited {
		return noError{fmt.Errorf("the record from %s does not wait: it was released before, or passed, or its consumer parks nothing", from(*l))}
	}
	t.printf("released %s, the record from %s\n", c.Place, from(*l))
	return nil
}
