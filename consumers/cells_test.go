package consumers

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"penstock/schemas"
)

// celled is text that can be read into cells, unless it begins with "!" or "?".
type celled struct{ text }

func (celled) Cells() int { return 2 }

func (celled) ReadCells(cells []schemas.Cell, src []byte, at int) bool {
	cells[0] = schemas.Cell{Kind: schemas.CellInt, N: int64(len(src) - at)}
	cells[1] = schemas.Cell{Kind: schemas.CellText, From: uint32(at), To: uint32(len(src))}
	if src[at] == '#' {
		panic("as libraries do")
	}
	return !bytes.ContainsAny(src[at:at+1], "!?")
}

type celledRegistry struct{}

func (celledRegistry) Schema(context.Context, schemas.ID) (schemas.Schema, error) {
	return celled{}, nil
}

// maybeCellSink takes cells and looks at them for a while.
type maybeCellSink struct {
	sinkFunc
	cells bool
}

func (s maybeCellSink) TakesCells(schemas.Schema) bool { return s.cells }

// A sink gets its own record's cells for as long as it writes, and values where
// there are no cells; a sink that wants none gets values.
func TestCells(t *testing.T) {
	const batches, size = 40, 300
	for _, takes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			src := &script{}
			for b := range batches {
				values := make([]string, size)
				for i := range values {
					values[i] = fmt.Sprintf("%d of %d", i, b)
					switch i % 10 {
					case 3:
						values[i] = "!" + values[i]
					case 4:
						values[i] = "?" + values[i]
					case 5:
						values[i] = "#" + values[i]
					}
				}
				rs := records(int64(b*size), values...)
				for i := range rs {
					rs[i].Partition = int32(b % 5)
				}
				src.batches = append(src.batches, rs)
			}
			var seen, celled, settled atomic.Int64
			check := func(b Batch) {
				for _, m := range b.Messages {
					want := string(m.Value[5:])
					if m.Cells == nil {
						if m.Data != want {
							t.Errorf("record %d: data %v, want %q", m.Offset, m.Data, want)
						}
						continue
					}
					celled.Add(1)
					if got := string(m.Cells[1].Text(m.Value)); got != want || m.Cells[0].N != int64(len(want)) || m.Data != nil {
						t.Errorf("record %d: cells %q of %d, data %v, want %q", m.Offset, got, m.Cells[0].N, m.Data, want)
					}
				}
			}
			sink := maybeCellSink{func(_ context.Context, b Batch) error {
				check(b)
				time.Sleep(time.Duration(b.First%7) * time.Millisecond) // of the bubble's time: others are decoded
				check(b)
				seen.Add(int64(len(b.Messages)))
				return nil
			}, takes}
			dead := &nowhere{}
			err := Run(ctx, src, sink, Config{
				Group: "g", Registry: celledRegistry{}, DeadLetters: dead, MaxRecords: size,
				Hooks: Hooks{Settled: func(Batch, time.Duration) {
					if settled.Add(1) == batches {
						cancel()
					}
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			if takes {
				want = batches * size * 7 / 10 * 2 // looked at twice
			}
			if seen.Load() != batches*size*9/10 || len(dead.letters) != batches*size/10 || celled.Load() != want {
				t.Errorf("takes cells %v: %d messages, %d dead letters, %d cells; want %d", takes, seen.Load(), len(dead.letters), celled.Load(), want)
			}
		})
	}
}
