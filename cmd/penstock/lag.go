package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/stream"
	"penstock/telemetry"
)

// metricsFlag is embedded by the commands that run pipelines.
type metricsFlag struct {
	Metrics    string  `placeholder:"ADDR" help:"Serve /metrics for Prometheus, and /livez, on this address."`
	Traces     string  `placeholder:"URL" help:"Send a trace of each batch, linked with those that its records carry, to this OpenTelemetry collector (OTLP over HTTP)."`
	TraceRatio float64 `default:"1" placeholder:"R" help:"Part of the batches that are traced (default ${default})."`
}

// measured is what is shown of pipelines.
type measured struct {
	consumers *telemetry.Consumers // nil: no metrics
	traces    *telemetry.Telemetry // nil: no traces
	close     func() error
}

// open serves the metrics, and begins to trace, if either is asked for. Whoever
// calls it calls close.
func (f metricsFlag) open(t *terminal) (m measured, err error) {
	m.close = func() error { return nil }
	if f.Metrics == "" && f.Traces == "" {
		return m, nil
	}
	all, err := telemetry.New(telemetry.Config{Version: version, Traces: f.Traces, TraceRatio: f.TraceRatio, Logger: t.log})
	if err != nil {
		return m, usageError{err}
	}
	m.close = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		return all.Close(ctx)
	}
	if f.Traces != "" {
		m.traces = all
	}
	if f.Metrics == "" {
		return m, nil
	}
	if m.consumers, err = all.Consumers(); err != nil {
		return m, errors.Join(err, m.close())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", all.Metrics())
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	s, err := serve("metrics", f.Metrics, mux, nil, t.log)
	if err != nil {
		return m, errors.Join(err, m.close())
	}
	t.notef("metrics  %s/metrics\n", s.url)
	flush := m.close
	m.close = func() error { return errors.Join(s.stop(), flush()) }
	return m, nil
}

// traced traces a batch that was stored.
func (m measured) traced(pipeline string, b consumers.Batch, took time.Duration) {
	m.traces.Batch(telemetry.Batch{
		Pipeline: pipeline, Topic: b.Topic, Partition: b.Partition, First: b.First, Next: b.Next, Records: len(b.Messages), Took: took,
		Parents: func(yield func(string) bool) {
			for i := range b.Messages {
				if v, ok := b.Messages[i].Header(telemetry.TraceParent); ok && !yield(string(v)) {
					return
				}
			}
		},
	})
}

// lag follows how far one pipeline is behind the ends of its partitions. Of a
// partition that the broker keeps the position of and that has moved to another
// consumer it does not know so.
type lag struct {
	topic string

	mu     sync.Mutex
	places map[int32]reached
	ends   map[int32]int64
}

// reached is how far a partition is done.
type reached struct {
	next int64
	at   time.Time // when the newest of that was published, or when this was first seen
}

func newLag(topic string) *lag {
	return &lag{topic: topic, places: map[int32]reached{}, ends: map[int32]int64{}}
}

// settled notes that a batch is done.
func (l *lag) settled(b consumers.Batch) {
	var at time.Time
	if n := len(b.Messages); n > 0 {
		at = b.Messages[n-1].Time
	}
	l.reached(b.Partition, b.Next, at)
}

func (l *lag) reached(partition int32, next int64, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, ok := l.places[partition]
	switch {
	case !at.IsZero():
	case ok:
		at = known.at
	default:
		at = time.Now()
	}
	l.places[partition] = reached{next, at}
	l.ends[partition] = max(l.ends[partition], next)
}

// lost forgets partitions.
func (l *lag) lost(partitions []stream.Partition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range partitions {
		delete(l.places, p.Number)
	}
}

// askEvery is how often the broker is asked where the partitions end.
const askEvery = 2 * time.Second

// follow asks the broker where the partitions end, until ctx ends, and calls
// asked each time.
func (l *lag) follow(ctx context.Context, broker stream.Broker, asked func()) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		if ranges, err := broker.Ranges(ctx, l.topic); err == nil { // else the last answer holds
			l.mu.Lock()
			for _, r := range ranges {
				l.ends[r.Partition.Number] = max(l.ends[r.Partition.Number], r.End)
			}
			l.mu.Unlock()
			asked()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// partitions is how far each partition is behind.
func (l *lag) partitions() []telemetry.Lag {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]telemetry.Lag, 0, len(l.places))
	for n, p := range l.places {
		one := telemetry.Lag{Topic: l.topic, Partition: n, Records: l.ends[n] - p.next}
		if one.Records > 0 {
			one.Age = max(time.Since(p.at), 0)
		}
		all = append(all, one)
	}
	return all
}

// lags are those of the pipelines that run.
type lags struct {
	mu  sync.Mutex
	all map[*lag]bool
}

func (l *lags) add(one *lag) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[*lag]bool{}
	}
	l.all[one] = true
}

func (l *lags) remove(one *lag) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, one)
}

// String is the sum of the records, and the greatest of the ages, for a progress
// line.
func (l *lags) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var records int64
	var age time.Duration
	for one := range l.all {
		for _, p := range one.partitions() {
			records += p.Records
			age = max(age, p.Age)
		}
	}
	if records == 0 {
		return "up to date"
	}
	return fmt.Sprintf("%s behind, %s", count(records), age.Round(time.Second))
}

// followed is an owner whose positions a lag learns.
type followed struct {
	stream.Owner
	lag *lag
}

// Assigned implements stream.Owner.
func (f followed) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	positions, err := f.Owner.Assigned(ctx, partitions)
	for p, next := range positions {
		f.lag.reached(p.Number, next, time.Time{})
	}
	return positions, err
}

// Lost implements stream.Owner.
func (f followed) Lost(ctx context.Context, partitions []stream.Partition) error {
	f.lag.lost(partitions)
	return f.Owner.Lost(ctx, partitions)
}
