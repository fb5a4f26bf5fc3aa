package telemetry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConsumers(t *testing.T) {
	tel := open(t, Config{})
	c, err := tel.Consumers()
	if err != nil {
		t.Fatal(err)
	}
	m := c.Of("shop", func() []Lag { return []Lag{{"orders", 3, 17, 90 * time.Second}} })
	m.Flushed("count", 100, 2000, time.Second, 20*time.Millisecond, nil)
	m.Flushed("linger", 7, 70, time.Second, 20*time.Millisecond, errors.New("moved"))
	m.Retry("write")
	m.DeadLetter("decode-failed")
	c.Of("idle", func() []Lag { return nil })
	text := scrape(t, tel)
	for _, want := range []string{
		`penstock_consumer_records_total{pipeline="shop"} 100`,
		`penstock_consumer_records_total{pipeline="idle"} 0`,
		`penstock_consumer_batches_total{cause="count",outcome="stored",pipeline="shop"} 1`,
		`penstock_consumer_batches_total{cause="linger",outcome="given back",pipeline="shop"} 1`,
		`penstock_consumer_batch_records_sum{pipeline="shop"} 107`,
		`penstock_consumer_batch_bytes_sum{pipeline="shop"} 2070`,
		`penstock_consumer_gather_seconds_sum{pipeline="shop"} 2`,
		`penstock_consumer_flush_seconds_sum{pipeline="shop"} 0.04`,
		`penstock_consumer_retries_total{pipeline="shop",what="write"} 1`,
		`penstock_consumer_dead_letters_total{pipeline="shop",reason="decode-failed"} 1`,
		`penstock_consumer_lag_records{partition="3",pipeline="shop",topic="orders"} 17`,
		`penstock_consumer_lag_seconds{partition="3",pipeline="shop",topic="orders"} 90`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	m.Close()
	text = scrape(t, tel)
	if strings.Contains(text, "lag_records{") || !strings.Contains(text, `records_total{pipeline="shop"} 100`) {
		t.Error("a pipeline that has stopped keeps what it has counted, and has no lag")
	}
	if _, err := tel.Consumers(); err == nil {
		t.Error("the metrics of consumers were added twice")
	}
}

// A batch is one span, linked with the traces that its records carry, each once.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &collector{status: 200}
		tel := open(t, Config{Traces: "http://collector:4318", HTTP: &http.Client{Transport: c}})
		const a, b = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203332-00"
		time.Sleep(time.Minute)
		tel.Batch(Batch{Pipeline: "shop", Topic: "orders", Partition: 3, First: 10, Next: 14, Records: 4, Took: time.Second, Parents: slices.Values([]string{a, "no trace", b, a})})
		var many []string
		for i := range 1000 {
			many = append(many, fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%016x-01", i+1))
		}
		tel.Batch(Batch{Topic: "many", Parents: slices.Values(many)})
		end := time.Now()
		if err := tel.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		var sent struct {
			ResourceSpans []struct {
				ScopeSpans []struct {
					Spans []struct {
						Name                               string
						Kind                               int
						StartTimeUnixNano, EndTimeUnixNano string
						Links                              []struct{ TraceID, SpanID string }
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(c.bodies[0]), &sent); err != nil {
			t.Fatal(err)
		}
		spans := sent.ResourceSpans[0].ScopeSpans[0].Spans
		if len(spans) != 2 {
			t.Fatalf("%d spans, want 2", len(spans))
		}
		s := spans[0]
		if s.Name != "process orders" || s.Kind != 5 || s.StartTimeUnixNano != fmt.Sprint(end.Add(-time.Second).UnixNano()) || s.EndTimeUnixNano != fmt.Sprint(end.UnixNano()) {
			t.Errorf("got %+v", s)
		}
		if len(s.Links) != 2 || s.Links[0].TraceID != "0af7651916cd43dd8448eb211c80319c" || s.Links[1].SpanID != "b7ad6b7169203332" {
			t.Errorf("got links %+v", s.Links)
		}
		if n := len(spans[1].Links); n != maxLinks {
			t.Errorf("a batch has %d links", n)
		}
		for _, want := range []string{`{"key":"messaging.batch.message_count","value":{"intValue":"4"}}`, `{"key":"penstock.first","value":{"intValue":"10"}}`} {
			if !strings.Contains(c.bodies[0], want) {
				t.Errorf("%s is missing in %s", want, c.bodies[0])
			}
		}
	})
}
