package diffing

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// What a differ is given as cells it takes for what it is given as maps.
func TestCells(t *testing.T) {
	_, schema, events := sampleInAvro(t, "flights", 500)
	for _, field := range []string{"origin", "flight", "tailnum"} { // a text, a number, and what may be null
		f := func(byCells bool) (output, map[int]error) {
			b := consumers.Batch{Topic: "in"}
			var out output
			d, _ := open(t, t.TempDir(), Config{Broker: &out, KeyField: field})
			if !d.TakesCells(schema) {
				t.Fatal("it takes no cells of the flights' schema")
			}
			for i, event := range events {
				payload, err := schema.AppendEncode(schemas.AppendHeader(nil, 7), event)
				if err != nil {
					t.Fatal(err)
				}
				m := consumers.Message{
					Record:   stream.Record{Topic: "in", Value: payload, Offset: int64(i), Time: time.UnixMilli(int64(i))},
					SchemaID: 7, Schema: schema,
				}
				if byCells {
					r := schema.(schemas.CellReader)
					m.Cells = make([]schemas.Cell, r.Cells())
					if !schemas.ReadCells(r, m.Cells, payload, 5) {
						t.Fatalf("event %d is not read into cells", i)
					}
				} else if m.Data, err = schemas.Decode(schema, payload[5:], schemas.Limits{}); err != nil {
					t.Fatal(err)
				}
				b.Messages = append(b.Messages, m)
				b.Next++
			}
			refused := map[int]error{}
			if err := d.Write(t.Context(), b); err != nil {
				var named *stream.BatchError
				if !errors.As(err, &named) {
					t.Fatal(err)
				}
				for i, err := range named.Errs {
					refused[i] = err
				}
				rest := b
				rest.Messages = nil
				for i, m := range b.Messages {
					if refused[i] == nil {
						rest.Messages = append(rest.Messages, m)
					}
				}
				write(t, d, rest)
			}
			return out, refused
		}
		maps, refusedMaps := f(false)
		cells, refusedCells := f(true)
		if diff := cmp.Diff(maps.records, cells.records); diff != "" || len(maps.records) == 0 {
			t.Errorf("key %s: events from maps and from cells (%d): %s", field, len(maps.records), diff)
		}
		if len(refusedMaps) != len(refusedCells) {
			t.Errorf("key %s: %d refused from maps, %d from cells", field, len(refusedMaps), len(refusedCells))
		}
		for i, err := range refusedMaps {
			if refusedCells[i] == nil || refusedCells[i].Error() != err.Error() {
				t.Errorf("key %s, event %d: %v from maps, %v from cells", field, i, err, refusedCells[i])
			}
		}
	}
}
