package telemetry

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Consumers measures what consumers do. Its methods may be called concurrently.
type Consumers struct {
	records     *prometheus.CounterVec
	batches     *prometheus.CounterVec
	size        *prometheus.HistogramVec
	bytes       *prometheus.HistogramVec
	gathered    *prometheus.HistogramVec
	flush       *prometheus.HistogramVec
	retries     *prometheus.CounterVec
	deadLetters *prometheus.CounterVec

	lagRecords, lagSeconds *prometheus.Desc

	mu   sync.Mutex
	lags map[string]func() []Lag // by pipeline
}

// Lag is how far a pipeline is behind the end of a partition.
type Lag struct {
	Topic     string
	Partition int32
	Records   int64
	// Age is how long ago the newest record that is done with was published, 0
	// where nothing is left to do.
	Age time.Duration
}

// Consumers adds the metrics of consumers to what is shown. It is called once.
func (t *Telemetry) Consumers() (*Consumers, error) {
	pipeline := []string{"pipeline"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "penstock_consumer_" + name, Help: help}, append(pipeline[:1:1], labels...))
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "penstock_consumer_" + name, Help: help, Buckets: buckets}, pipeline)
	}
	times := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	partition := []string{"pipeline", "topic", "partition"}
	c := &Consumers{
		records:     counter("records_total", "Records that are done with: stored, set aside, or passed over by a filter."),
		batches:     counter("batches_total", "Batches that were settled, by why they ended there.", "cause", "outcome"),
		size:        histogram("batch_records", "Records of a batch.", prometheus.ExponentialBuckets(1, 4, 10)), // to 262144
		bytes:       histogram("batch_bytes", "Bytes of keys, values and headers of a batch.", prometheus.ExponentialBuckets(256, 8, 8)),
		gathered:    histogram("gather_seconds", "From the first record of a batch to its end.", times),
		flush:       histogram("flush_seconds", "From the end of a batch until it is settled.", times),
		retries:     counter("retries_total", "Attempts that failed for a passing reason, by what was tried.", "what"),
		deadLetters: counter("dead_letters_total", "Records that were set aside, by reason.", "reason"),
		lagRecords:  prometheus.NewDesc("penstock_consumer_lag_records", "Records between the position and the end of a partition.", partition, nil),
		lagSeconds:  prometheus.NewDesc("penstock_consumer_lag_seconds", "Age of the newest record that is done with, 0 where none is left to do.", partition, nil),
		lags:        map[string]func() []Lag{},
	}
	for _, m := range []prometheus.Collector{c.records, c.batches, c.size, c.bytes, c.gathered, c.flush, c.retries, c.deadLetters, (*lagCollector)(c)} {
		if err := t.metrics.Register(m); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	return c, nil
}

// lagCollector asks for the lag when the metrics are read.
type lagCollector Consumers

// Describe implements prometheus.Collector.
func (c *lagCollector) Describe(to chan<- *prometheus.Desc) {
	to <- c.lagRecords
	to <- c.lagSeconds
}

// Collect implements prometheus.Collector.
func (c *lagCollector) Collect(to chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pipeline, lags := range c.lags {
		for _, l := range lags() {
			partition := strconv.Itoa(int(l.Partition))
			to <- prometheus.MustNewConstMetric(c.lagRecords, prometheus.GaugeValue, float64(l.Records), pipeline, l.Topic, partition)
			to <- prometheus.MustNewConstMetric(c.lagSeconds, prometheus.GaugeValue, l.Age.Seconds(), pipeline, l.Topic, partition)
		}
	}
}

// Consumer measures one pipeline. Its methods may be called concurrently.
type Consumer struct {
	of       *Consumers
	pipeline string
}

// Of measures a pipeline, whose lag is asked for each time the metrics are read,
// with no two partitions the same. A pipeline that is started anew counts on.
func (c *Consumers) Of(pipeline string, lag func() []Lag) *Consumer {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lags[pipeline] = lag
	c.records.WithLabelValues(pipeline) // there from the start, at 0
	return &Consumer{c, pipeline}
}

// Close takes away the lag of a pipeline that has stopped.
func (m *Consumer) Close() {
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	delete(m.of.lags, m.pipeline)
}

// Flushed counts a batch that is settled, or no longer may be.
func (m *Consumer) Flushed(cause string, records, bytes int, gathered, took time.Duration, err error) {
	outcome := "stored"
	if err != nil {
		outcome = "given back"
	}
	m.of.batches.WithLabelValues(m.pipeline, cause, outcome).Inc()
	m.of.size.WithLabelValues(m.pipeline).Observe(float64(records))
	m.of.bytes.WithLabelValues(m.pipeline).Observe(float64(bytes))
	m.of.gathered.WithLabelValues(m.pipeline).Observe(gathered.Seconds())
	m.of.flush.WithLabelValues(m.pipeline).Observe(took.Seconds())
	if err == nil {
		m.of.records.WithLabelValues(m.pipeline).Add(float64(records))
	}
}

// Retry counts an attempt that failed; what is a word or two of a fixed set.
func (m *Consumer) Retry(what string) { m.of.retries.WithLabelValues(m.pipeline, what).Inc() }

// DeadLetter counts a record that was set aside; reason is one of a fixed set.
func (m *Consumer) DeadLetter(reason string) {
	m.of.deadLetters.WithLabelValues(m.pipeline, reason).Inc()
}

// TraceParent is the header in which a record carries the context of the trace that
// it was published in, as W3C Trace Context has it.
const TraceParent = "traceparent"

// maxLinks is how many traces a batch is linked with at most.
const maxLinks = 128

// Batch is what became of records of one partition.
type Batch struct {
	Pipeline, Topic string
	Partition       int32
	First, Next     int64
	Records         int
	// Took is how long it took until now.
	Took time.Duration
	// Parents are the values of TraceParent of its records; what is none is passed
	// over.
	Parents iter.Seq[string]
}

// Batch traces a batch that was stored: one span, linked with the traces in which
// its records were published.
func (t *Telemetry) Batch(b Batch) {
	var links []trace.Link
	seen := map[string]bool{}
	for parent := range b.Parents {
		if len(links) == maxLinks {
			break
		}
		ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{TraceParent: parent})
		if s := trace.SpanContextFromContext(ctx); s.IsValid() && !seen[parent] {
			seen[parent] = true
			links = append(links, trace.Link{SpanContext: s})
		}
	}
	now := time.Now()
	_, span := t.tracer.Start(context.Background(), "process "+b.Topic,
		trace.WithTimestamp(now.Add(-b.Took)), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...),
		trace.WithAttributes(
			attribute.String("messaging.operation.name", "process"),
			attribute.String("messaging.destination.name", b.Topic),
			attribute.String("messaging.destination.partition.id", strconv.Itoa(int(b.Partition))),
			attribute.String("penstock.pipeline", b.Pipeline),
			attribute.Int("messaging.batch.message_count", b.Records),
			attribute.Int64("penstock.first", b.First),
			attribute.Int64("penstock.next", b.Next),
		))
	span.End(trace.WithTimestamp(now))
}
