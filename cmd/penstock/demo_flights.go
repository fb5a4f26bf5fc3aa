package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/consumers/diffing"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/sqlsink"
	"penstock/producers"
	"penstock/registry"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
)

const (
	demoPartitions = 4
	demoGroup      = "demo"
	// demoPatience is how often the demo tries what a user would wait for.
	demoPatience = 6
	// breakEvery is how often an event of the demo is broken on purpose.
	breakEvery = 100
)

// refusedTopic is where the demo keeps what the producer refused.
func refusedTopic(topic string) string { return topic + ".dlq" }

// publishFlights publishes real departures, some of them broken on purpose.
func (d *demo) publishFlights(ctx context.Context, n int) error {
	topic := d.topic("flights")
	sample, err := d.open(ctx, "flights", topic, refusedTopic(topic))
	if err != nil {
		return err
	}
	events, err := sample.Events(n)
	if err != nil {
		return err
	}
	d.say("%s, registered as subject %s", sample.About, topicSubject(topic))
	var (
		p     = producers.New(d.stack.broker, d.stack.client, producers.Config{})
		batch []producers.Event
		shown int
		bar   = d.t.progress("flights", int64(n))
	)
	send := func() error {
		err := p.Publish(ctx, batch...)
		var partly *stream.BatchError
		if err != nil && !errors.As(err, &partly) {
			return err
		}
		if partly != nil {
			refused := make([]stream.Record, 0, len(partly.Errs))
			for _, i := range slices.Sorted(maps.Keys(partly.Errs)) {
				var value *schemas.ValueError
				if !errors.As(partly.Errs[i], &value) {
					return partly.Errs[i]
				}
				text, err := schemas.AppendJSON(nil, batch[i].Value)
				if err != nil {
					return err
				}
				refused = append(refused, stream.Record{
					Topic: refusedTopic(topic), Key: batch[i].Key, Value: text,
					Headers: []stream.Header{{Key: stream.HeaderError, Value: []byte(value.Error())}},
				})
				if shown++; shown <= 2 {
					v := value.Violations[0]
					d.say("refused: flight %s at %s", batch[i].Key, v.Pointer)
					d.say("         expected %s, found %s", v.Expected, v.Found)
					if v.Hint != "" {
						d.say("         what to do: %s", v.Hint)
					}
				}
			}
			if err := d.stack.broker.Publish(ctx, refused...); err != nil {
				return err
			}
		}
		bar.add(int64(len(batch)))
		batch = batch[:0]
		return nil
	}
	i := 0
	for event := range events {
		if i++; i%breakEvery == 0 {
			event, _ = sample.Break(i/breakEvery-1, event)
		}
		batch = append(batch, producers.Event{Topic: topic, Key: fmt.Appendf(nil, "%v", event[sample.Key]), Value: event})
		if len(batch) == 500 {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := send(); err != nil {
		return err
	}
	bar.stop()

	// What no producer of Penstock's would send.
	past := []stream.Record{
		{Topic: topic, Key: []byte("truncated"), Value: []byte{0, 0, 0}},
		{Topic: topic, Key: []byte("unknown id"), Value: []byte{0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3}},
		{Topic: topic, Key: []byte("not framed"), Value: []byte(`{"carrier":"UA"}`)},
	}
	if err := d.stack.broker.Publish(ctx, past...); err != nil {
		return err
	}
	d.say("and %d malformed records go onto the topic past the producer, as a careless client would write them", len(past))

	onTopic, err := d.records(ctx, topic)
	if err != nil {
		return err
	}
	refused, err := d.records(ctx, refusedTopic(topic))
	if err != nil {
		return err
	}
	offered := d.ledger.add("flights offered", fmt.Sprintf("the sample, and %d malformed records", len(past)), int64(n+len(past)))
	d.onTopic = d.ledger.add("on the topic", "end offsets of "+topic, onTopic)
	d.ledger.balance(offered, d.onTopic,
		d.ledger.add("refused by the producer", "end offsets of "+refusedTopic(topic), refused))
	d.say("%s published, %s refused", count(onTopic-int64(len(past))), count(refused))
	return nil
}

// storeFlights stores the topic in SQLite and asks it two questions.
func (d *demo) storeFlights(ctx context.Context) (err error) {
	topic, file := d.topic("flights"), filepath.Join(d.dir, "flights.db")
	sink, err := openSink(ctx, "sqlite:"+file, sqlsink.Config{Table: "flights", Pipeline: demoGroup, Logger: d.t.log})
	if err != nil {
		return err
	}
	bar := d.t.progress("flights", d.ledger.entries[d.onTopic].Count)
	var shown bool
	err = runJob(ctx, d.stack.broker, d.stack.client, job{
		topic: topic, group: demoGroup, until: true, patience: demoPatience, sink: sink, owner: sink,
		policy: &microbatch.Policy{Count: 1000, Bytes: 1 << 20, Linger: 100 * time.Millisecond},
		hooks: consumers.Hooks{
			Settled: func(b consumers.Batch, _ time.Duration) { bar.add(b.Next - b.First) },
			DeadLetter: func(_ stream.Record, why *consumers.Reason) {
				if !shown {
					shown = true
					d.say("set aside: %v", why)
				}
			},
		},
	})
	bar.stop()
	if err = errors.Join(err, sink.Close()); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return err
	}
	defer db.Close()
	var (
		rows, flights int64
		carrier       string
		delay         float64
		hour          int
	)
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM flights`).Scan(&rows); err != nil {
		return fmt.Errorf("count rows: %w", err)
	}
	if err := db.QueryRowContext(ctx, `SELECT carrier, avg(dep_delay), count(*) FROM flights
		WHERE NOT cancelled GROUP BY carrier HAVING count(*) >= 30 ORDER BY 2 DESC LIMIT 1`).Scan(&carrier, &delay, &flights); err != nil {
		return fmt.Errorf("ask for the worst carrier: %w", err)
	}
	d.say("worst carrier by mean delay: %s, %.1f minutes over %s flights", carrier, delay, count(flights))
	if err := db.QueryRowContext(ctx, `SELECT hour, count(*) FROM flights GROUP BY hour ORDER BY 2 DESC LIMIT 1`).Scan(&hour, &flights); err != nil {
		return fmt.Errorf("ask for the flights an hour: %w", err)
	}
	perHour := `SELECT cast(count(*) AS REAL) / count(DISTINCT time_hour) FROM flights`
	var mean float64
	if err := db.QueryRowContext(ctx, perHour).Scan(&mean); err != nil {
		return fmt.Errorf("ask for the flights an hour: %w", err)
	}
	d.say("flights an hour: %.0f on average; most leave between %d and %d o'clock, %s of %s", mean, hour, hour+1, count(flights), count(rows))

	dead := consumers.DeadLetterTopic(topic, demoGroup)
	letters, err := d.records(ctx, dead)
	if err != nil {
		return err
	}
	d.ledger.balance(d.onTopic,
		d.ledger.add("stored", "SELECT count(*) FROM flights in "+file, rows),
		d.ledger.add("dead letters", "end offsets of "+dead, letters))
	return nil
}

// clock are the fields of a weather observation that say when it was made.
var clock = []string{"/time_hour", "/year", "/month", "/day", "/hour"}

// diffWeather turns hourly observations into change events.
func (d *demo) diffWeather(ctx context.Context) error {
	topic, changes := d.topic("weather"), d.topic("weather.changes")
	sample, err := d.open(ctx, "weather", topic, changes)
	if err != nil {
		return err
	}
	held, err := sample.Held()
	if err != nil {
		return err
	}
	events, err := sample.Events(held)
	if err != nil {
		return err
	}
	var batch []producers.Event
	for event := range events {
		batch = append(batch, producers.Event{Topic: topic, Key: fmt.Appendf(nil, "%v", event[sample.Key]), Value: event})
	}
	if err := producers.New(d.stack.broker, d.stack.client, producers.Config{}).Publish(ctx, batch...); err != nil {
		return err
	}
	d.say("%s: %s observations, keyed by %s", sample.About, count(int64(held)), sample.Key)

	keeper, ok := d.stack.broker.(diffing.Broker)
	if !ok {
		return fmt.Errorf("diff %s: %w", topic, stream.ErrUnsupported)
	}
	differ, err := diffing.Open(filepath.Join(d.dir, "weather-state"), diffing.Config{
		Broker: keeper, Name: demoGroup, Topic: changes, Rules: diffing.Rules{Ignore: clock},
	})
	if err != nil {
		return err
	}
	bar := d.t.progress("observations", int64(held))
	err = runJob(ctx, d.stack.broker, d.stack.client, job{
		topic: topic, group: demoGroup, until: true, patience: demoPatience, sink: differ, owner: differ,
		hooks: consumers.Hooks{Settled: func(b consumers.Batch, _ time.Duration) { bar.add(int64(len(b.Messages))) }},
	})
	bar.stop()
	if err = errors.Join(err, differ.Close()); err != nil {
		return err
	}

	out, err := d.readAll(ctx, changes)
	if err != nil {
		return err
	}
	shown := 0
	for _, r := range out {
		if line := describeChange(r); line != "" && shown < 3 {
			shown++
			d.say("%s", line)
		}
	}
	unchanged, err := d.unchanged(ctx, topic)
	if err != nil {
		return err
	}
	observed, err := d.records(ctx, topic)
	if err != nil {
		return err
	}
	d.ledger.balance(d.ledger.add("weather observations", "end offsets of "+topic, observed),
		d.ledger.add("change events", "records read from "+changes, int64(len(out))),
		d.ledger.add("no change", "neighbours compared in "+topic, unchanged))
	return nil
}

// unchanged counts the observations that say what the one before them at the
// same airport said, the clock apart: from the topic, and without the differ.
func (d *demo) unchanged(ctx context.Context, topic string) (n int64, err error) {
	records, err := d.readAll(ctx, topic)
	if err != nil {
		return 0, err
	}
	decoder := consumers.NewDecoder(d.stack.client, schemas.Limits{})
	last := map[string]string{}
	for _, r := range records {
		m, err := decoder.Decode(ctx, r)
		if err != nil {
			return 0, err
		}
		fields, _ := m.Data.(map[string]any)
		for _, pointer := range clock {
			delete(fields, strings.TrimPrefix(pointer, "/"))
		}
		now := fmt.Sprint(fields) // maps print sorted
		if last[string(r.Key)] == now {
			n++
		}
		last[string(r.Key)] = now
	}
	return n, nil
}

// describeChange puts an update's change event in words; empty for others.
func describeChange(r stream.Record) string {
	var e struct {
		Op            string
		Before, After map[string]any
	}
	if json.Unmarshal(r.Value, &e) != nil || e.Op != "u" {
		return ""
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e.After)) {
		was, is := fmt.Sprint(e.Before[name]), fmt.Sprint(e.After[name])
		if was != is && !slices.Contains(clock, "/"+name) {
			parts = append(parts, fmt.Sprintf("%s %s → %s", name, was, is))
		}
	}
	const most = 4
	if len(parts) > most {
		parts = append(parts[:most], fmt.Sprintf("and %d more", len(parts)-most))
	}
	return fmt.Sprintf("%s at %v: %s", r.Key, e.After["time_hour"], strings.Join(parts, ", "))
}

// changeSchema checks two changes of the flights schema, and registers the one
// that is fine.
func (d *demo) changeSchema(ctx context.Context) error {
	subject := topicSubject(d.topic("flights"))
	now, err := d.stack.client.Version(ctx, subject, -1, false)
	if err != nil {
		return err
	}
	before, err := d.stack.client.Versions(ctx, subject, false)
	if err != nil {
		return err
	}
	accepted := 0
	for _, change := range []struct{ what, field string }{
		{"an optional field", `{"name":"gate","type":["null","string"],"default":null}`},
		{"a field that old records lack", `{"name":"terminal","type":"string"}`},
	} {
		text, err := withField(now.Schema, change.field)
		if err != nil {
			return err
		}
		d.say("add %s: %s", change.what, change.field)
		candidate := registry.Schema{Schema: text, SchemaType: schemas.Avro}
		findings, err := d.stack.client.Check(ctx, subject, registry.AllVersions, candidate)
		if err != nil {
			return err
		}
		if !registry.Compatible(findings) {
			d.say("  incompatible, and refused:")
			printFindings(d.t, findings, "     ")
			continue
		}
		if _, err := d.stack.client.Register(ctx, subject, candidate); err != nil {
			return err
		}
		accepted++
		d.say("  compatible; registered as the next version")
	}
	after, err := d.stack.client.Versions(ctx, subject, false)
	if err != nil {
		return err
	}
	d.ledger.balance(d.ledger.add("schema versions", "the registry's list for "+subject, int64(len(after))),
		d.ledger.add("before the changes", "the same list before", int64(len(before))),
		d.ledger.add("changes that were fine", "registered", int64(accepted)))
	return nil
}

// withField is an Avro record schema with one more field.
func withField(text, field string) (string, error) {
	var record map[string]any
	if err := json.Unmarshal([]byte(text), &record); err != nil {
		return "", fmt.Errorf("read schema: %w", err)
	}
	fields, _ := record["fields"].([]any)
	record["fields"] = append(fields, json.RawMessage(field))
	out, err := json.Marshal(record)
	return string(out), err
}

// open registers a sample's schema for a topic and makes the topics.
func (d *demo) open(ctx context.Context, sample, topic string, others ...string) (samples.Sample, error) {
	s, err := samples.Get(sample)
	if err != nil {
		return s, err
	}
	if err := registerSample(ctx, d.stack.client, topicSubject(topic), s); err != nil {
		return s, err
	}
	for _, name := range append([]string{topic}, others...) {
		if err := d.stack.broker.Create(ctx, name, demoPartitions); err != nil {
			return s, fmt.Errorf("create topic %q: %w", name, err)
		}
	}
	return s, nil
}

// records is how many records the broker says a topic holds.
func (d *demo) records(ctx context.Context, topic string) (n int64, err error) {
	ranges, err := d.stack.broker.Ranges(ctx, topic)
	for _, r := range ranges {
		n += r.Records
	}
	return n, err
}

// readAll is readTopic for the demo.
func (d *demo) readAll(ctx context.Context, topic string) ([]stream.Record, error) {
	return readTopic(ctx, d.stack.broker, topic, "demo-reader-"+filepath.Base(d.dir))
}

// readTopic reads what a topic holds now, partition by partition in order.
func readTopic(ctx context.Context, broker stream.Broker, topic, group string) (records []stream.Record, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = eachRecord(ctx, broker, topic, group, 1000, func(batch []stream.Record) error {
		records = append(records, batch...)
		return nil
	})
	return records, err
}
