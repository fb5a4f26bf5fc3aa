package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"penstock/producers"
	"penstock/schemas"
)

// readParquet reads one event a row, columns as the fields of the same names.
func (c *produceCmd) readParquet(file *os.File) (all iter.Seq[input], err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open Parquet file %s: the library panicked on it: %v", file.Name(), p)
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("open Parquet file: %w", err)
	}
	f, err := parquet.OpenFile(file, info.Size())
	if err != nil {
		return nil, fmt.Errorf("open Parquet file %s: %w", file.Name(), err)
	}
	if n := len(f.Schema().Columns()); n > maxColumns {
		return nil, fmt.Errorf("open Parquet file %s: expected at most %d columns, found %d", file.Name(), maxColumns, n)
	}
	return func(yield func(input) bool) {
		rows := parquet.NewGenericReader[any](f)
		defer rows.Close()
		in := input{}
		batch := make([]any, 100)
		for {
			n, err := readRows(rows, batch)
			for _, row := range batch[:n] {
				in.nth++
				in.line = in.nth
				var conv fromParquet
				in.event = producers.Event{Topic: c.Topic, Value: conv.value(f.Schema(), row)}
				in.raw, in.err = schemas.AppendJSON(nil, in.event.Value)
				if conv.err != nil {
					in.err = conv.err
				}
				if !yield(in) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				in.nth++
				in.line, in.raw, in.err = in.nth, nil, fmt.Errorf("read Parquet: %w", err)
				yield(in)
				return
			}
		}
	}, nil
}

// readRows reads what the library may panic on.
func readRows(rows *parquet.GenericReader[any], batch []any) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("the library panicked on this file: %v", p)
		}
	}()
	n, err = rows.Read(batch)
	if n == 0 && err == nil {
		err = errors.New("it has fewer rows than it says")
	}
	return n, err
}

// fromParquet turns the library's values into those that schemas.Schema takes.
type fromParquet struct{ err error }

// value is v, of the node n.
func (c *fromParquet) value(n parquet.Node, v any) any {
	if v == nil {
		return nil
	}
	if n.Repeated() {
		if items, ok := v.([]any); ok {
			out := make([]any, len(items))
			for i, item := range items {
				out[i] = c.value(parquet.Required(n), item)
			}
			return out
		}
	}
	logical := n.Type().LogicalType()
	var kind format.LogicalTypeValue
	if logical != nil {
		kind = logical.Value
	}
	if !n.Leaf() {
		fields := n.Fields()
		_, isList := kind.(*format.ListType)
		_, isMap := kind.(*format.MapType)
		switch v := v.(type) {
		case []any:
			if !isList || len(fields) != 1 || fields[0].Leaf() || len(fields[0].Fields()) != 1 {
				return v
			}
			out := make([]any, len(v))
			for i, item := range v {
				out[i] = c.value(fields[0].Fields()[0], item)
			}
			return out
		case map[string]any:
			if isMap {
				return v
			}
			out := make(map[string]any, len(v))
			for _, f := range fields {
				if part, ok := v[f.Name()]; ok {
					out[f.Name()] = c.value(f, part)
				}
			}
			return out
		}
		return v
	}
	whole, isWhole := schemas.AsInt64(v)
	switch kind := kind.(type) {
	case *format.TimestampType:
		if !isWhole {
			return v
		}
		switch kind.Unit.Value.(type) {
		case *format.MilliSeconds:
			return time.UnixMilli(whole).UTC()
		case *format.MicroSeconds:
			return time.UnixMicro(whole).UTC()
		}
		return time.Unix(0, whole).UTC()
	case *format.DateType:
		if isWhole {
			return time.Unix(whole*24*60*60, 0).UTC()
		}
	case *format.DecimalType:
		// The library gives a floating-point number.
		if f, ok := v.(float64); ok {
			text := strconv.FormatFloat(f, 'f', int(kind.Scale), 64)
			if digits := strings.TrimLeft(strings.Trim(text, "-"), "0."); len(digits) > 16 {
				c.err = fmt.Errorf("expected a decimal of at most 15 digits, found about %s: more cannot be read exactly", text)
			}
			r, _ := new(big.Rat).SetString(text)
			return r
		}
	case *format.UUIDType:
		if b, ok := v.([]byte); ok && len(b) == 16 {
			return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
		}
	}
	return v
}
