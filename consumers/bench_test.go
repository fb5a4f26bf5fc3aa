package consumers

import (
	"context"
	"testing"

	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
)

type one struct{ s schemas.Schema }

func (o one) Schema(context.Context, schemas.ID) (schemas.Schema, error) { return o.s, nil }

// BenchmarkDecode compares the decoder with its guards to the schema alone.
func BenchmarkDecode(b *testing.B) {
	s, err := avro.Format{}.Parse(`{"type":"record","name":"Reading","fields":[
		{"name":"device","type":"string"},{"name":"sequence","type":"long"},
		{"name":"celsius","type":"double"},{"name":"ok","type":"boolean"},
		{"name":"note","type":["null","string"]}]}`, nil)
	if err != nil {
		b.Fatal(err)
	}
	value, err := s.AppendEncode(schemas.AppendFrame(nil, 7, s), map[string]any{"device": "d-1", "sequence": 3, "celsius": 21.5, "ok": true, "note": "n"})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("schema", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Decode(value[5:]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decoder", func(b *testing.B) {
		d := NewDecoder(one{s}, schemas.Limits{})
		r := stream.Record{Value: value}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Decode(context.Background(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
