package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"penstock/consumers"
	"penstock/stream"
	"penstock/telemetry"
)

// ends is a broker of which only the ends are asked.
type ends struct {
	stream.Broker
	asked atomic.Int64
}

func (e *ends) Ranges(context.Context, string) ([]stream.Range, error) {
	switch e.asked.Add(1) {
	case 2:
		return nil, errors.New("away")
	case 3:
		return []stream.Range{{Partition: stream.Partition{Number: 0}, End: 30}, {Partition: stream.Partition{Number: 1}, End: 5}}, nil
	}
	return []stream.Range{{Partition: stream.Partition{Number: 0}, End: 10}, {Partition: stream.Partition{Number: 1}, End: 5}}, nil
}

func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l := newLag("t")
		var all lags
		all.add(l)
		done := make(chan struct{})
		go func() {
			l.follow(ctx, &ends{}, func() {})
			close(done)
		}()
		expect := func(want string, partitions ...telemetry.Lag) {
			t.Helper()
			synctest.Wait()
			got := l.partitions()
			slices.SortFunc(got, func(a, b telemetry.Lag) int { return int(a.Partition - b.Partition) })
			if !slices.Equal(got, partitions) || all.String() != want {
				t.Errorf("got %v, %q, want %v, %q", got, &all, partitions, want)
			}
		}
		expect("up to date") // of no partition is anything known
		owner := followed{noPositions{}, l}
		l.reached(1, 5, time.Time{}) // its position is at the end
		l.settled(consumers.Batch{Partition: 0, Next: 4, Messages: []consumers.Message{{Record: stream.Record{Time: time.Now().Add(-time.Minute)}}}})
		expect("6 behind, 1m0s", telemetry.Lag{Topic: "t", Partition: 0, Records: 6, Age: time.Minute}, telemetry.Lag{Topic: "t", Partition: 1})
		time.Sleep(2*askEvery + time.Second) // the second time nobody answers
		expect("26 behind, 1m5s", telemetry.Lag{Topic: "t", Partition: 0, Records: 26, Age: time.Minute + 5*time.Second}, telemetry.Lag{Topic: "t", Partition: 1})
		l.settled(consumers.Batch{Partition: 0, Next: 31}) // beyond what the broker has said, and nothing in it
		expect("up to date", telemetry.Lag{Topic: "t", Partition: 0}, telemetry.Lag{Topic: "t", Partition: 1})
		if err := owner.Lost(ctx, []stream.Partition{{Number: 0}}); err != nil {
			t.Fatal(err)
		}
		expect("up to date", telemetry.Lag{Topic: "t", Partition: 1})
		cancel()
		<-done
	})
}

// What a pipeline does can be read while it runs.
func TestMetrics(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := &crashed{t: t, ctx: ctx, dir: t.TempDir(), listen: freeAddr(t), gateway: freeAddr(t)}
	if err := os.WriteFile(filepath.Join(c.dir, "event.avsc"), []byte(`{"type":"record","name":"Event","fields":[{"name":"id","type":"string"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	up := c.up()
	defer kill(t, up)
	c.done("produce", "events", "-", "--schema", "event.avsc", "--dry-run")
	var events []string
	for i := range 100 {
		events = append(events, fmt.Sprint("event-", i))
	}
	if !c.publish(events) {
		t.Fatal("the events were not published")
	}
	var posts atomic.Int64
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if posts.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer endpoint.Close()
	var traced atomic.Bool
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if text, err := io.ReadAll(r.Body); err == nil && bytes.Contains(text, []byte(`"name":"process events"`)) {
			traced.Store(true)
		}
	}))
	defer collector.Close()
	metrics := freeAddr(t)
	consumer := c.start("consume", "microbatch", "events", "--to", endpoint.URL, "--linger", "10ms", "--metrics", metrics, "--traces", collector.URL,
		"--filter", `message.id == "event-7" ? [true][1] : true`)
	c.listening(metrics)
	await := func(want ...string) {
		t.Helper()
		var text string
		for tick := time.Tick(20 * time.Millisecond); ; {
			text = get(ctx, t, "http://"+metrics+"/metrics")
			if !slices.ContainsFunc(want, func(s string) bool { return !strings.Contains(text, s) }) {
				return
			}
			select {
			case <-tick:
			case <-ctx.Done():
				t.Fatalf("%q are not all in\n%s", want, text)
			}
		}
	}
	await(`penstock_consumer_records_total{pipeline="microbatch"} 100`,
		`penstock_consumer_dead_letters_total{pipeline="microbatch",reason="expression-failed"} 1`,
		`penstock_consumer_retries_total{pipeline="microbatch",what="write"} 1`,
		`penstock_consumer_lag_records{partition="0",pipeline="microbatch",topic="events"} 0`,
		`penstock_consumer_lag_seconds{partition="0",pipeline="microbatch",topic="events"} 0`,
		`cause="linger",outcome="stored"`)
	if err := consumer.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := consumer.Wait(); err != nil {
		t.Errorf("it did not stop cleanly: %v", err)
	}
	if !traced.Load() {
		t.Error("no batch was traced")
	}
}

// The trace of a batch is linked with those that its records carry.
func TestTraced(t *testing.T) {
	sent := make(chan []byte, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		sent <- text
	}))
	defer collector.Close()
	m, err := metricsFlag{Traces: collector.URL, TraceRatio: 1}.open(newTerminal(strings.NewReader(""), io.Discard, io.Discard, false))
	if err != nil {
		t.Fatal(err)
	}
	parent := stream.Header{Key: "traceparent", Value: []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")}
	m.traced("shop", consumers.Batch{Topic: "orders", Messages: []consumers.Message{{}, {Record: stream.Record{Headers: []stream.Header{parent}}}}}, time.Second)
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	text := <-sent
	if want := `"links":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331"}]`; !bytes.Contains(text, []byte(want)) {
		t.Errorf("sent %s, want %s in it", text, want)
	}
}

func get(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
