package rules_test

import (
	"context"
	"encoding/json"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"penstock/schemas/protobuf"
)

// BenchmarkWrite is what a rule costs a record of eight fields.
func BenchmarkWrite(b *testing.B) {
	in := record{"carrier": "LH", "number": int32(400), "pilot": "Ann", "legs": []any{record{"from": "FRA", "seats": int64(5)}}, "notes": record{"a": "b"}}
	for name, rule := range map[string]string{
		"condition":  `"kind":"CONDITION","type":"CEL","expr":"message.number > 0 && message.carrier.size() == 2"`,
		"tagged":     `"kind":"TRANSFORM","type":"CEL_FIELD","tags":["PII"],"expr":"value + '!'"`,
		"all-fields": `"kind":"CONDITION","type":"CEL_FIELD","expr":"typeName == 'STRING'; size(value) > 0"`,
		"jsonata":    `"kind":"TRANSFORM","type":"JSONATA","expr":` + quoted(`$merge([$sift($, function($v, $k) {$k != 'pilot'}), {'captain': pilot}])`),
	} {
		set := compile(b, flight, domain(`{"name":"r","mode":"WRITE",`+rule+`}`))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := set.Write(context.Background(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// BenchmarkConstraints is what the constraints of a message of eleven fields cost,
// beside its decoding, which they need, and what their library alone takes.
func BenchmarkConstraints(b *testing.B) {
	c, s := constraintsOf(b, constrained)
	payload, err := s.AppendEncode(nil, fitting())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Check(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	message := dynamicpb.NewMessage(s.(*protobuf.Schema).MessageDescriptor())
	b.Run("decoding", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(payload, message); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		validator, err := protovalidate.New()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := validator.Validate(message); err != nil {
				b.Fatal(err)
			}
		}
	})
}
