package avro

import (
	"encoding/json"
	"testing"
	"time"

	lib "github.com/twmb/avro"

	"penstock/schemas"
	"penstock/schemas/samples"
)

// flight is the flights sample as a Go struct.
type flight struct {
	Year         int32     `avro:"year"`
	Month        int32     `avro:"month"`
	Day          int32     `avro:"day"`
	DepTime      *int32    `avro:"dep_time"`
	SchedDepTime int32     `avro:"sched_dep_time"`
	DepDelay     *int32    `avro:"dep_delay"`
	ArrTime      *int32    `avro:"arr_time"`
	SchedArrTime int32     `avro:"sched_arr_time"`
	ArrDelay     *int32    `avro:"arr_delay"`
	Carrier      string    `avro:"carrier"`
	Flight       int32     `avro:"flight"`
	Tailnum      *string   `avro:"tailnum"`
	Origin       string    `avro:"origin"`
	Dest         string    `avro:"dest"`
	AirTime      *int32    `avro:"air_time"`
	Distance     int32     `avro:"distance"`
	Hour         int32     `avro:"hour"`
	Minute       int32     `avro:"minute"`
	TimeHour     time.Time `avro:"time_hour"`
	Cancelled    bool      `avro:"cancelled"`
}

func flightsFor(t testing.TB) (*Schema, *lib.Schema, map[string]any, *flight) {
	t.Helper()
	sample, err := samples.Get("flights")
	if err != nil {
		t.Fatal(err)
	}
	text, err := sample.Schema(schemas.Avro)
	if err != nil {
		t.Fatal(err)
	}
	s := parse(t, text)
	raw, err := lib.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	events, err := sample.Events(1)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	for m = range events {
	}
	b, err := s.AppendEncode(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	f := &flight{}
	if _, err := raw.Decode(b, f); err != nil {
		t.Fatal(err)
	}
	return s, raw, m, f
}

// Encoding allocates nothing beyond what the library does.
func TestEncodingAllocatesAsTheLibrary(t *testing.T) {
	s, raw, m, f := flightsFor(t)
	buf := make([]byte, 0, 1024)
	for name, v := range map[string]any{"map": m, "struct": f} {
		ours := testing.AllocsPerRun(200, func() { _, _ = s.AppendEncode(buf, v) })
		theirs := testing.AllocsPerRun(200, func() { _, _ = raw.AppendEncode(buf, v) })
		if ours > theirs {
			t.Errorf("%s: %v allocations, the library makes %v", name, ours, theirs)
		}
	}
}

func BenchmarkAppendEncode(b *testing.B) {
	s, raw, m, f := flightsFor(b)
	buf := make([]byte, 0, 1024)
	run := func(name string, encode func() ([]byte, error)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := encode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("struct/raw", func() ([]byte, error) { return raw.AppendEncode(buf, f) })
	run("struct/ours", func() ([]byte, error) { return s.AppendEncode(buf, f) })
	run("map/raw", func() ([]byte, error) { return raw.AppendEncode(buf, m) })
	run("map/ours", func() ([]byte, error) { return s.AppendEncode(buf, m) })
}

func BenchmarkAppendText(b *testing.B) {
	s, raw, m, _ := flightsFor(b)
	text, err := json.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 1024)
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v map[string]any
			if err := json.Unmarshal(text, &v); err != nil {
				b.Fatal(err)
			}
			if _, err := raw.AppendEncode(buf, v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.AppendText(buf, text); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	s, raw, m, _ := flightsFor(b)
	payload, err := s.AppendEncode(nil, m)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v any
			if _, err := raw.Decode(payload, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := schemas.Decode(s, payload, schemas.Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
