package rules_test

import (
	"context"
	"encoding/json"
	"testing"
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
