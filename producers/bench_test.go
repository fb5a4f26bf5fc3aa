package producers

import (
	"context"
	"strconv"
	"testing"

	"github.com/twmb/avro"

	"penstock/schemas"
	pavro "penstock/schemas/avro"
	"penstock/stream"
)

// BenchmarkPublish compares, on a publisher that does nothing, events of Go
// structs with the same encoder called by hand with a fresh buffer a record.
func BenchmarkPublish(b *testing.B) {
	const text = `{"type":"record","name":"Reading","fields":[
		{"name":"device","type":"string"},{"name":"sequence","type":"long"},
		{"name":"celsius","type":"double"},{"name":"site","type":"string"},
		{"name":"ok","type":"boolean"},{"name":"note","type":["null","string"]},
		{"name":"samples","type":{"type":"array","items":"float"}}]}`
	type Reading struct {
		Device   string    `avro:"device"`
		Sequence int64     `avro:"sequence"`
		Celsius  float64   `avro:"celsius"`
		Site     string    `avro:"site"`
		OK       bool      `avro:"ok"`
		Note     *string   `avro:"note"`
		Samples  []float32 `avro:"samples"`
	}
	const batch = 500
	note := "calibrated"
	readings := make([]Reading, batch)
	events := make([]Event, batch)
	for i := range readings {
		readings[i] = Reading{"device-" + strconv.Itoa(i), int64(i), 21.5, "north", true, &note, []float32{1, 2, 3, 4}}
		events[i] = Event{Topic: "t", Key: []byte(readings[i].Device), Value: &readings[i]}
	}
	ctx := context.Background()
	perRecord := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/record")
	}

	b.Run("raw", func(b *testing.B) {
		s := avro.MustParse(text)
		var pub stream.Publisher = discard{}
		b.ReportAllocs()
		for b.Loop() {
			records := make([]stream.Record, 0, batch)
			for i := range readings {
				value, err := s.AppendEncode([]byte{0, 0, 0, 0, 1}, &readings[i])
				if err != nil {
					b.Fatal(err)
				}
				records = append(records, stream.Record{Topic: "t", Key: events[i].Key, Value: value})
			}
			if err := pub.Publish(ctx, records...); err != nil {
				b.Fatal(err)
			}
		}
		perRecord(b)
	})
	b.Run("producer", func(b *testing.B) {
		s, err := pavro.Format{}.Parse(text, nil)
		if err != nil {
			b.Fatal(err)
		}
		p := New(discard{}, &registry{subjects: []string{"t-value"}, schemas: []schemas.Schema{s}}, Config{})
		b.ReportAllocs()
		for b.Loop() {
			if err := p.Publish(ctx, events...); err != nil {
				b.Fatal(err)
			}
		}
		perRecord(b)
	})
}
