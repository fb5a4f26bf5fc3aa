package telemetry

import (
	"errors"
	"strings"
	"testing"
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
