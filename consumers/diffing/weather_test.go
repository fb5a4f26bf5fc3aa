package diffing

import (
	"slices"
	"testing"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/samples"
	"penstock/stream"
)

// heldTexts are the values of a sample that the program holds, as canonical JSON,
// by the field that is their key.
func heldTexts(t testing.TB, name, key string) map[string][]string {
	t.Helper()
	sample, err := samples.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := sample.Held()
	if err != nil {
		t.Fatal(err)
	}
	events, err := sample.Events(n)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string][]string{}
	for event := range events {
		k, _ := event[key].(string) // no tail number: cancelled
		texts[k] = append(texts[k], canonical(t, event))
	}
	return texts
}

// From each observation of an airport to the next, and from each flight of an
// aircraft to the next, patches lead there and back.
func TestPatchesOfRealData(t *testing.T) {
	for name, key := range map[string]string{"weather": "origin", "flights": "tailnum"} {
		var c Comparer
		pairs := 0
		for _, states := range heldTexts(t, name, key) {
			for i := range len(states) - 1 {
				checkPatch(t, &c, states[i], states[i+1])
				pairs++
			}
		}
		if pairs < 1000 {
			t.Errorf("%s: only %d pairs", name, pairs)
		}
	}
}

// sampleInAvro is a sample, its schema, and n of its events.
func sampleInAvro(t testing.TB, name string, n int) (samples.Sample, schemas.Schema, []map[string]any) {
	t.Helper()
	sample, err := samples.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	text, err := sample.Schema(schemas.Avro)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := avro.Format{}.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	events, err := sample.Events(n)
	if err != nil {
		t.Fatal(err)
	}
	return sample, schema, slices.Collect(events)
}

// Real hourly weather at three airports, as it comes out of Avro: whoever
// applies the patches has the last observation of each airport, hour by hour.
func TestWeather(t *testing.T) {
	sample, schema, events := sampleInAvro(t, "weather", 3000)
	b := consumers.Batch{Topic: "in"}
	for _, event := range events {
		payload, err := schema.AppendEncode(nil, event)
		if err != nil {
			t.Fatal(err)
		}
		data, err := schema.Decode(payload)
		if err != nil {
			t.Fatal(err)
		}
		b.Messages = append(b.Messages, consumers.Message{
			Record: stream.Record{Topic: "in", Key: []byte(event[sample.Key].(string)), Value: payload, Offset: b.Next, Time: time.UnixMilli(b.Next)},
			Data:   data,
		})
		b.Next++
	}

	var out output
	d, _ := open(t, t.TempDir(), Config{Broker: &out, Format: MergePatch})
	write(t, d, b)
	have := map[string]any{}
	next := 0
	for i, m := range b.Messages {
		key := string(m.Key)
		if next < len(out.records) && out.records[next].Time.Equal(m.Time) {
			have[key] = ApplyMerge(have[key], reread(t, string(out.records[next].Value)))
			next++
		}
		want := withoutNulls(reread(t, canonical(t, m.Data)))
		if got := have[key]; canonical(t, got) != canonical(t, want) {
			t.Fatalf("after record %d of %s: %s, want %s", i, key, canonical(t, got), canonical(t, want))
		}
	}
	if next != len(out.records) || len(have) != 3 {
		t.Errorf("%d events of %d used, for %d airports", next, len(out.records), len(have))
	}

	// Whoever cares for rain alone hears less.
	var ignore []string
	for _, f := range schema.Model().Fields {
		if f.Name != "precip" {
			ignore = append(ignore, "/"+f.Name)
		}
	}
	all := len(out.records)
	out = output{}
	d, _ = open(t, t.TempDir(), Config{Broker: &out, Rules: Rules{Ignore: ignore}})
	write(t, d, b)
	t.Logf("of %d observations %d differ, %d in precipitation", len(b.Messages), all, len(out.records))
	if len(out.records) > all/2 || len(out.records) < 100 {
		t.Errorf("%d events, and %d for precipitation alone", all, len(out.records))
	}
}
