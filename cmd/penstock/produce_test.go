package main

import (
	"bytes"
	"iter"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"penstock/schemas"
)

// What a Parquet file says of times, decimals, lists and records is what the
// schemas take; a damaged file is an error, wherever the damage is.
func TestParquet(t *testing.T) {
	type place struct {
		City string `parquet:"city"`
	}
	type row struct {
		ID    string    `parquet:"id"`
		Count *int32    `parquet:"count,optional"`
		At    time.Time `parquet:"at,timestamp(millisecond)"`
		Day   int32     `parquet:"day,date"`
		Price int64     `parquet:"price,decimal(2:12)"`
		Tags  []string  `parquet:"tags,list"`
		Place place     `parquet:"place"`
		UUID  [16]byte  `parquet:"uuid,uuid"`
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 7_000_000, time.UTC)
	seven := int32(7)
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b)
	if _, err := w.Write([]row{
		{ID: "a", Count: &seven, At: at, Day: 20487, Price: -1250, Tags: []string{"x", "y"}, Place: place{"Lima"}, UUID: [16]byte{0: 1, 15: 2}},
		{ID: "b", At: at},
	}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	read := func(content []byte) (values []any, failed error) {
		t.Helper()
		name := filepath.Join(t.TempDir(), "f.parquet")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c := produceCmd{File: name, Format: "auto"}
		s, err := c.openFile(&terminal{}, nil)
		if err != nil {
			return nil, err
		}
		defer s.close()
		for in := range s.all {
			if in.err != nil {
				return values, in.err
			}
			values = append(values, in.event.Value)
		}
		return values, nil
	}
	got, err := read(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := []any{
		map[string]any{
			"id": "a", "count": int32(7), "at": at, "day": time.Date(2026, 2, 3, 0, 0, 0, 0, time.UTC), "price": big.NewRat(-1250, 100),
			"tags": []any{"x", "y"}, "place": map[string]any{"city": "Lima"}, "uuid": "01000000-0000-0000-0000-000000000002",
		},
		map[string]any{
			"id": "b", "count": nil, "at": at, "day": time.Unix(0, 0).UTC(), "price": big.NewRat(0, 1),
			"tags": []any{}, "place": map[string]any{"city": ""}, "uuid": "00000000-0000-0000-0000-000000000000",
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *big.Rat) bool { return a.Cmp(b) == 0 })); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	type large struct {
		Price int64 `parquet:"price,decimal(2:18)"`
	}
	big := parquet.NewGenericWriter[large](&b)
	if _, err := big.Write([]large{{123456789012345678}}); err != nil {
		t.Fatal(err)
	}
	if err := big.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := read(b.Bytes()); err == nil || !strings.Contains(err.Error(), "at most 15 digits") {
		t.Errorf("a decimal that is rounded: %v", err)
	}
	for i := 0; i < b.Len(); i += 17 {
		broken := bytes.Clone(b.Bytes())
		broken[i] ^= 0xff
		_, _ = read(broken) // a panic fails the test
		if _, err := read(broken[:i]); err == nil {
			t.Errorf("the first %d bytes of the file are taken for a whole one", i)
		}
	}
}

// A line that is too long is refused, and the next one is read.
func TestLongLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	in := `{"a":1}` + "\n" + `"` + long + `"` + "\n\n# comment\n" + `{"a":2}` + "\n" + long + "x"
	var got []string
	for in := range (&produceCmd{}).readLines(strings.NewReader(in)) {
		what := string(in.raw)
		if in.err != nil {
			what = in.err.Error()
		}
		got = append(got, what)
	}
	if diff := cmp.Diff([]string{`{"a":1}`, errLong.Error(), `{"a":2}`, errLong.Error()}, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever a file holds, reading it ends, and each input is an event or says
// why it is none.
func FuzzReadEvents(f *testing.F) {
	f.Add([]byte("id,b.c\n1,2\n\"x\ny\",\n"))
	f.Add([]byte("penstock-reason,id\nwhy,\"\"\"\"\n"))
	f.Add([]byte("\ufeffid,id\n"))
	f.Add([]byte("{\"key\":1,\"headers\":[[\"a\",\"b\"]],\"value\":null}\n# x\n[\n"))
	model := &schemas.Node{Kind: schemas.Record, Fields: []schemas.Field{
		{Name: "id", Node: &schemas.Node{Kind: schemas.Int}},
		{Name: "b", Node: &schemas.Node{Kind: schemas.Record, Fields: []schemas.Field{{Name: "c", Node: &schemas.Node{Kind: schemas.String}}}}},
	}}
	f.Fuzz(func(t *testing.T, content []byte) {
		read := func(all iter.Seq[input]) {
			last := int64(0)
			for in := range all {
				if in.nth != last+1 {
					t.Fatalf("input %d comes after %d", in.nth, last)
				}
				last = in.nth
				if in.err == nil && in.event.Value == nil && in.event.Key == nil && !bytes.Contains(in.raw, []byte("null")) {
					t.Fatalf("%q is neither an event nor an error", in.raw)
				}
			}
		}
		for _, envelope := range []bool{false, true} {
			read((&produceCmd{Envelope: envelope}).readLines(bytes.NewReader(content)))
		}
		s := &source{}
		(&produceCmd{}).readCSV(s, bytes.NewReader(content), model)
		read(s.all)
	})
}
