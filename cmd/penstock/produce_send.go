package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"slices"
	"strings"
	"text/template"
	"time"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// publishing is one run of produce.
type publishing struct {
	*produceCmd
	t        *terminal
	source   *source
	producer *producers.Producer

	key     keyMaker // nil: the events come with theirs, or have none
	headers []headerMaker
	rejects *os.File // nil: none

	// Of a file that is resumed:
	tx   *committing
	done int64 // inputs that are in from before

	accepted, refused int64
}

// prepare reads what the flags say, and opens the file of rejects.
func (p *publishing) prepare() (err error) {
	if p.Key != "" {
		if p.key, err = newKeyMaker(p.Key); err != nil {
			return err
		}
	}
	for _, text := range p.Headers {
		h, err := newHeaderMaker(text)
		if err != nil {
			return err
		}
		p.headers = append(p.headers, h)
	}
	if p.Rejects != "" {
		events, err1 := os.Stat(p.File)
		rejects, err2 := os.Stat(p.Rejects)
		if err1 == nil && err2 == nil && os.SameFile(events, rejects) {
			return usagef("--rejects %s: it is the file of events itself", p.Rejects)
		}
		flags := os.O_CREATE | os.O_RDWR
		if p.Resume == "" {
			flags |= os.O_TRUNC
		}
		if p.rejects, err = os.OpenFile(p.Rejects, flags, 0o666); err != nil {
			return usageError{fmt.Errorf("open file of rejects: %w", err)}
		}
	}
	return nil
}

func (p *publishing) close() {
	if p.rejects != nil {
		_ = p.rejects.Close() // what was refused has been written
	}
	if p.tx != nil {
		_ = p.tx.Close() // what it has not committed is not there
	}
}

// run publishes all events, in batches, and says how many.
func (p *publishing) run(ctx context.Context) error {
	batch := 1000
	if p.tx != nil {
		batch = stream.MaxCommit
	}
	pace := pacer{every: p.Rate.every()}
	if pace.every > 0 {
		batch = max(1, min(batch, int(float64(p.Rate)/10)))
	}
	bar := p.t.progress("published", p.source.total)
	bar.part = p.source.part
	var pending []input
	size := 0
	send := func() error {
		pace.wait(ctx.Done(), len(pending))
		if err := p.send(ctx, pending); err != nil {
			return err
		}
		bar.add(int64(len(pending)))
		pending, size = pending[:0], 0
		return nil
	}
	var err error
	var sum uint64 // of all that was read
	read := int64(0)
	for in := range p.source.all {
		read = in.nth
		if p.tx != nil {
			sum = crc64.Update(sum, crcTable, in.raw)
			in.sum = sum
			if in.nth < p.done {
				continue
			}
			if in.nth == p.done {
				if err = p.tx.recognise(sum); err != nil {
					break
				}
				continue
			}
		}
		pending, size = append(pending, in), size+len(in.raw)
		if len(pending) == batch || size >= maxLine {
			if err = send(); err != nil {
				break
			}
		}
	}
	if err == nil && p.tx != nil && read < p.done {
		err = p.tx.recognise(^p.tx.before.Sum)
	}
	if err == nil {
		err = send()
	}
	bar.stop()
	if p.rejects != nil {
		if failed := p.rejects.Sync(); err == nil && failed != nil {
			err = fmt.Errorf("write file of rejects: %w", failed)
		}
	}
	if err != nil && !errors.Is(err, errNo) {
		return err
	}
	if err := p.summary(); err != nil {
		return err
	}
	if p.refused > 0 {
		return errNo
	}
	return nil
}

// send publishes a batch and reports what of it was refused; it is errNo if
// that ends the run.
func (p *publishing) send(ctx context.Context, batch []input) error {
	for i := range batch {
		if in := &batch[i]; in.err == nil {
			in.err = p.finish(&in.event)
		}
	}
	if !p.Stop {
		return p.publish(ctx, batch)
	}
	if err := p.each(ctx, batch, p.producer.Check); err != nil {
		return err
	}
	i := slices.IndexFunc(batch, func(in input) bool { return in.err != nil })
	if i < 0 {
		return p.publish(ctx, batch)
	}
	if err := p.publish(ctx, batch[:i]); err != nil {
		return err
	}
	// A position does not pass it: it is to be mended, and read again.
	if err := p.report(batch[i : i+1]); err != nil {
		return err
	}
	return errNo
}

func (p *publishing) publish(ctx context.Context, batch []input) error {
	if p.tx != nil {
		return p.commit(ctx, batch)
	}
	do := p.producer.Publish
	if p.DryRun {
		do = p.producer.Check
	}
	if err := p.each(ctx, batch, do); err != nil {
		return err
	}
	return p.report(batch)
}

// commit publishes a batch together with the position behind it. What is
// refused lies in the file of rejects before, so that it is there once.
func (p *publishing) commit(ctx context.Context, batch []input) error {
	if len(batch) == 0 {
		return nil
	}
	if err := p.each(ctx, batch, p.producer.Check); err != nil {
		return err
	}
	last := &batch[len(batch)-1]
	for p.tx.moved = false; !p.tx.moved; {
		for i := range batch {
			if batch[i].err != nil {
				if err := p.report(batch[i : i+1]); err != nil {
					return err
				}
			}
		}
		text, err := p.note(last.sum)
		if err != nil {
			return err
		}
		p.tx.at = stream.Position{Next: last.nth, Note: text}
		refused := p.refusedOf(batch)
		if err := p.each(ctx, batch, p.producer.Publish); err != nil {
			return err
		}
		if !p.tx.moved && p.refusedOf(batch) == refused {
			// There is no record to go with it.
			if err := p.tx.Publish(ctx); err != nil {
				return err
			}
		}
	}
	return p.report(batch)
}

// refusedOf is how many of a batch are refused.
func (p *publishing) refusedOf(batch []input) (n int) {
	for i := range batch {
		if batch[i].err != nil {
			n++
		}
	}
	return n
}

// each hands what is not refused yet to do, and notes what do refuses.
func (p *publishing) each(ctx context.Context, batch []input, do func(context.Context, ...producers.Event) error) error {
	events := make([]producers.Event, 0, len(batch))
	indexes := make([]int, 0, len(batch)) // of each event in batch
	for i := range batch {
		if batch[i].err == nil {
			events, indexes = append(events, batch[i].event), append(indexes, i)
		}
	}
	var partly *stream.BatchError
	err := do(ctx, events...)
	if !errors.As(err, &partly) {
		return err
	}
	for i, reason := range partly.Errs {
		in := &batch[indexes[i]]
		if !isRefusal(reason) {
			return fmt.Errorf("publish %s:%d: %w", p.source.name, in.line, reason)
		}
		in.err = reason
	}
	return nil
}

// isRefusal tells a record that was refused from a failure to publish.
func isRefusal(err error) bool {
	var value *schemas.ValueError
	return errors.As(err, &value) || errors.Is(err, stream.ErrTooLarge)
}

// report counts a batch, and reports what of it was refused. What was reported
// before is passed over.
func (p *publishing) report(batch []input) error {
	for i := range batch {
		in := &batch[i]
		switch {
		case in.reported:
			continue
		case in.err == nil:
			p.accepted++
		default:
			p.refused++
			if err := p.refuse(in); err != nil {
				return err
			}
		}
		in.reported = true
	}
	return nil
}

// refuse reports one refused event. In text, without --dry-run, the first ten
// are printed.
func (p *publishing) refuse(in *input) error {
	why := in.err.Error()
	if in.note != "" {
		why += " (broken on purpose: " + in.note + ")"
	}
	if p.rejects != nil {
		if err := p.reject(in, why); err != nil {
			return fmt.Errorf("write file of rejects: %w", err)
		}
	}
	if p.json() {
		out := map[string]any{"line": in.line, "error": in.err.Error()}
		if in.note != "" {
			out["mistake"] = in.note
		}
		var value *schemas.ValueError
		if errors.As(in.err, &value) {
			out["violations"] = value.Violations
		}
		return p.t.object(out)
	}
	switch {
	case p.refused <= 10 || p.DryRun:
		p.t.notef("refused, %s:%d: %s\n", p.source.name, in.line, oneLine(errors.New(why)))
	case p.refused == 11:
		p.t.notef("refused: more; --dry-run or -o json lists all, --rejects keeps them\n")
	}
	return nil
}

// reject writes a refused event to the file of rejects.
func (p *publishing) reject(in *input, why string) error {
	if in.raw == nil && in.event.Value != nil {
		in.raw, _ = schemas.AppendJSON(nil, in.event.Value) // else the reason has to do
	}
	end, err := p.rejects.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	var out []byte
	if end == 0 {
		out = p.source.header()
	}
	_, err = p.rejects.Write(append(out, p.source.reject(in, why)...))
	return err
}

// summary says how many events passed.
func (p *publishing) summary() error {
	if p.json() {
		name := "published"
		if p.DryRun {
			name = "valid"
		}
		out := map[string]any{"topic": p.Topic, name: p.accepted, "refused": p.refused}
		if p.tx != nil {
			out["before"] = p.done
		}
		return p.t.object(out)
	}
	verb := "published to " + p.Topic
	if p.DryRun {
		verb = "valid (nothing was published)"
	}
	before := ""
	if p.done > 0 {
		before = fmt.Sprintf(", after %s from before", count(p.done))
	}
	p.t.printf("%s %s, %s refused%s\n", count(p.accepted), verb, count(p.refused), before)
	return nil
}

// finish gives an event what the flags say: its key, its headers, and whether
// it is a tombstone.
func (p *publishing) finish(e *producers.Event) error {
	dead := false
	if fields, ok := e.Value.(map[string]any); ok && p.Tombstone != "" {
		switch said := fields[p.Tombstone].(type) {
		case nil:
		case bool:
			dead = said
		case string:
			if dead = said == "true" || said == "1"; !dead && said != "false" && said != "0" && said != "" {
				return misfit("/"+schemas.EscapePointer(p.Tombstone), "true or false, because --tombstone names this field", said)
			}
		default:
			return misfit("/"+schemas.EscapePointer(p.Tombstone), "true or false, because --tombstone names this field", said)
		}
		delete(fields, p.Tombstone)
	}
	for _, h := range p.headers {
		header, err := h(e.Value)
		if err != nil {
			return err
		}
		e.Headers = append(e.Headers, header)
	}
	if p.key != nil && e.Value != nil {
		key, err := p.key(e.Value)
		if err != nil {
			return err
		}
		e.Key = key
	}
	if dead {
		e.Value = nil
	}
	if e.Value == nil && e.Key == nil {
		return misfit("", "an event, or a tombstone with a key", nil)
	}
	return nil
}

func misfit(pointer, expected string, found any) error {
	hint := "change the value"
	if pointer == "" {
		hint = "name the field of the key with --key, or use --envelope"
	}
	return &schemas.ValueError{Violations: []schemas.Violation{{Pointer: pointer, Expected: expected, Found: schemas.Describe(found), Hint: hint}}}
}

// keyMaker makes the key of an event.
type keyMaker func(value any) ([]byte, error)

// newKeyMaker reads a field's name or a template.
func newKeyMaker(text string) (keyMaker, error) {
	if !strings.Contains(text, "{{") {
		return func(value any) ([]byte, error) { return keyOf(value, text) }, nil
	}
	return newTemplate("--key", text)
}

// headerMaker makes a header of an event.
type headerMaker func(value any) (stream.Header, error)

// newHeaderMaker reads NAME=TEXT.
func newHeaderMaker(text string) (headerMaker, error) {
	name, text, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return nil, usagef("--header %q: write NAME=TEXT", name)
	}
	if !strings.Contains(text, "{{") {
		h := stream.Header{Key: name, Value: []byte(text)}
		return func(any) (stream.Header, error) { return h, nil }, nil
	}
	made, err := newTemplate("--header", text)
	if err != nil {
		return nil, err
	}
	return func(value any) (stream.Header, error) {
		out, err := made(value)
		return stream.Header{Key: name, Value: out}, err
	}, nil
}

// newTemplate reads a template of text/template over the fields of an event.
func newTemplate(flag, text string) (func(value any) ([]byte, error), error) {
	tmpl, err := template.New(flag).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, usagef("%s %q: %v; write a field as {{.name}}", flag, text, err)
	}
	return func(value any) ([]byte, error) {
		var out bytes.Buffer
		err := tmpl.Execute(&out, value)
		if err == nil && strings.Contains(out.String(), "<no value>") {
			err = errors.New("a field it names is null")
		}
		if err != nil {
			return nil, &schemas.ValueError{Violations: []schemas.Violation{{
				Expected: fmt.Sprintf("an event with the fields that %s %q names", flag, text), Found: schemas.Describe(value),
				Hint: oneLine(err),
			}}}
		}
		return out.Bytes(), nil
	}, nil
}

// keyOf is the record key that a field of the event gives.
func keyOf(value any, field string) ([]byte, error) {
	m, ok := value.(map[string]any)
	v, there := m[field]
	if !ok || !there || v == nil {
		return nil, &schemas.ValueError{Violations: []schemas.Violation{{
			Pointer: "/" + schemas.EscapePointer(field), Expected: "a value, because --key names this field", Found: "nothing",
			Hint: "add the field, or choose another with --key",
		}}}
	}
	return keyText(v)
}

// keyText is v as a key: a string as it is, anything else as JSON.
func keyText(v any) ([]byte, error) {
	if s, ok := v.(string); ok {
		return []byte(s), nil
	}
	return schemas.AppendJSON(nil, v)
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// note is what is kept with the position of a file: what was read up to there,
// and how long the file of rejects is.
func (p *publishing) note(sum uint64) (string, error) {
	n := note{Sum: sum}
	if p.rejects != nil {
		if err := p.rejects.Sync(); err != nil {
			return "", fmt.Errorf("write file of rejects: %w", err)
		}
		end, err := p.rejects.Seek(0, io.SeekEnd)
		if err != nil {
			return "", fmt.Errorf("write file of rejects: %w", err)
		}
		n.Rejects = end
	}
	text, err := json.Marshal(n)
	return string(text), err
}

type note struct {
	Sum     uint64 `json:"sum,string"`
	Rejects int64  `json:"rejects,omitempty"`
}

// resume takes the file's position over, and returns the publisher that moves it.
func (p *publishing) resume(ctx context.Context, broker stream.Broker) (stream.Publisher, error) {
	resumer, ok := broker.(stream.Resumer)
	if !ok {
		return nil, usageError{fmt.Errorf("--resume: %w", stream.ErrUnsupported)}
	}
	tx, at, err := resumer.Resume(ctx, p.Topic, p.Resume)
	if errors.Is(err, stream.ErrUnsupported) {
		return nil, usageError{fmt.Errorf("--resume: %w", err)}
	}
	if err != nil {
		return nil, fmt.Errorf("resume %q: %w", p.Resume, err)
	}
	p.tx, p.done = &committing{Transactor: tx, name: p.Resume, file: p.source.name}, at.Next
	if at.Note != "" {
		if err := json.Unmarshal([]byte(at.Note), &p.tx.before); err != nil {
			return nil, fmt.Errorf("resume %q: read its position: %w", p.Resume, err)
		}
	}
	if p.rejects != nil {
		// Behind it lie those of a batch that did not get in.
		if err := p.rejects.Truncate(p.tx.before.Rejects); err != nil {
			return nil, fmt.Errorf("resume %q: %w", p.Resume, err)
		}
	}
	return p.tx, nil
}

// committing is a publisher that moves the position of a file with the records.
type committing struct {
	stream.Transactor
	name, file string
	before     note            // as it was when the file was resumed
	at         stream.Position // behind the records being published
	moved      bool            // the position is there
}

// recognise says whether what was read up to the position is what was
// published.
func (c *committing) recognise(sum uint64) error {
	if sum == c.before.Sum {
		return nil
	}
	return noError{fmt.Errorf("resume %q: %s is another file than was published under that name, or what has been published of it was changed; use another name", c.name, c.file)}
}

// Publish publishes the records and moves the position. Where it returns a
// *BatchError it has done neither.
func (c *committing) Publish(ctx context.Context, records ...stream.Record) error {
	err := c.Commit(ctx, records, c.at)
	c.moved = err == nil
	return err
}

// pacer keeps to a rate.
type pacer struct {
	every time.Duration // 0: as fast as can be
	next  time.Time
}

// wait waits until n more may go, or done is closed.
func (p *pacer) wait(done <-chan struct{}, n int) {
	if p.every == 0 {
		return
	}
	now := time.Now()
	if p.next.IsZero() {
		p.next = now
	}
	timer := time.NewTimer(p.next.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	}
	p.next = p.next.Add(time.Duration(n) * p.every)
}
