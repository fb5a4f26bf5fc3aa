package diffing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"penstock/stream"
)

// output is a broker that holds the topic "out", logs and positions. Its zero
// value keeps them apart, as JetStream does; spanning makes one commit of both.
type output struct {
	records []stream.Record // of the topic
	logs    map[string]*log
	inputs  map[string]*input
	largest int // value; 0 for any

	// before and after are called around each commit; their error is that of
	// the commit, which then has not, or has taken place.
	before, after func(topic string) error
	// reading is called before a part of a log is read.
	reading func(context.Context) error
}

type log struct {
	life    int
	records []stream.Record
}

type input struct {
	at    stream.Position
	owner *transactor
}

var errPublish = errors.New("connection lost")

func (o *output) Resume(_ context.Context, topic, name string) (stream.Transactor, stream.Position, error) {
	if o.inputs == nil {
		o.inputs = map[string]*input{}
	}
	id := topic + "/" + name
	if o.inputs[id] == nil {
		o.inputs[id] = &input{}
	}
	x := &transactor{o: o, topic: topic, in: o.inputs[id]}
	x.in.owner = x
	return x, x.in.at, nil
}

func (o *output) CreateLog(_ context.Context, topic string) error {
	if o.logs == nil {
		o.logs = map[string]*log{}
	}
	if o.logs[topic] == nil {
		o.logs[topic] = &log{life: len(o.logs) + 1}
	}
	return nil
}

func (o *output) Ranges(_ context.Context, topic string) ([]stream.Range, error) {
	l := o.logs[topic]
	return []stream.Range{{Partition: stream.Partition{Topic: topic, Incarnation: fmt.Sprint(l.life)}, End: int64(len(l.records))}}, nil
}

// ReadLog reads three records at a time, and leaves out those that compaction
// would remove, as far as it would.
func (o *output) ReadLog(ctx context.Context, topic string, from int64, read func([]stream.Record) error) (int64, error) {
	all := o.logs[topic].records
	for from < int64(len(all)) {
		if o.reading != nil {
			if err := o.reading(ctx); err != nil {
				return from, err
			}
		}
		part := slices.Clone(all[from:min(from+3, int64(len(all)))])
		from += int64(len(part))
		part = slices.DeleteFunc(part, func(r stream.Record) bool {
			return slices.ContainsFunc(all[r.Offset+1:], func(later stream.Record) bool { return string(later.Key) == string(r.Key) })
		})
		if len(part) == 0 {
			continue
		}
		if err := read(part); err != nil {
			return from, err
		}
	}
	return from, nil
}

// spanning is an output whose commits span the topic and its logs.
type spanning struct{ *output }

func (s spanning) Span(ctx context.Context, topic, name string, _ ...string) (stream.Transactor, stream.Position, error) {
	return s.Resume(ctx, topic, name)
}

type transactor struct {
	o     *output
	topic string
	in    *input
	over  bool
}

func (x *transactor) Close() error {
	x.over = true
	return nil
}

func (x *transactor) Commit(_ context.Context, out []stream.Record, at stream.Position) (err error) {
	o := x.o
	if x.over {
		return stream.ErrClosed
	}
	if x.in.owner != x {
		return stream.ErrFenced
	}
	var failed stream.BatchError
	for i, r := range out {
		if o.largest > 0 && len(r.Value) > o.largest {
			failed.Fail(i, stream.ErrTooLarge)
		}
	}
	if err := failed.OrNil(); err != nil {
		return err
	}
	defer func() { x.over = x.over || err != nil }()
	if o.before != nil {
		if err := o.before(x.topic); err != nil {
			return err
		}
	}
	for i, r := range out {
		if r.Topic == "out" {
			o.records = append(o.records, r)
			continue
		}
		l := o.logs[r.Topic]
		out[i].Offset = int64(len(l.records))
		l.records = append(l.records, out[i])
	}
	x.in.at = at
	if o.after != nil {
		return o.after(x.topic)
	}
	return nil
}

// contents are the entries of partition 0 in the folder.
func contents(d *Differ) map[string]string {
	out := map[string]string{}
	err := d.store.each(0, "", func(key string, e *entry) bool {
		out[key] = string(e.value)
		return true
	})
	if err != nil {
		out["error"] = err.Error()
	}
	return out
}

// logged are the entries that the log of partition 0 says.
func (o *output) logged() map[string]string {
	out := map[string]string{}
	for _, r := range o.logs["in.g.state.0"].records {
		if r.Key[0] != entryRecord[0] {
			continue
		}
		key := string(r.Key[1:])
		if r.Value == nil {
			delete(out, key)
			continue
		}
		e, err := parseEntry(r.Value)
		if err != nil {
			return map[string]string{"error": err.Error()}
		}
		out[key] = string(e.value)
	}
	return maps.Clone(out)
}
