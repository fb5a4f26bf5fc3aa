package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

const (
	// maxLine bounds one event of a file, in bytes.
	maxLine = 4 << 20
	// maxColumns bounds the columns of a CSV file.
	maxColumns = 10_000
	// reasonColumn is the column of a CSV file of rejects that says why; it is
	// passed over where such a file is published again.
	reasonColumn = "penstock-reason"
)

// input is an event and where it came from.
type input struct {
	nth   int64 // which input of its source it is, from 1
	line  int64 // of the file, from 1; of Parquet the row
	raw   []byte
	event producers.Event
	note  string // what was broken on purpose
	err   error  // why it is no event, or was refused

	sum      uint64 // of raw, and of all that was read before
	reported bool
}

// source is where events come from.
type source struct {
	name string // as messages name the place, before a colon and the line
	all  iter.Seq[input]
	// header begins a file of rejects, and reject is a rejected input in it.
	header func() []byte
	reject func(in *input, why string) []byte
	// part says how much has been read, from 0 to 1; nil if nobody knows.
	part  func() float64
	total int64 // how many events there are; 0: nobody knows
	close func()
}

// openFile opens the file of events, which are to fit model.
func (c *produceCmd) openFile(t *terminal, model *schemas.Node) (*source, error) {
	format := c.Format
	if format == "auto" {
		switch filepath.Ext(c.File) {
		case ".csv":
			format = "csv"
		case ".parquet":
			format = "parquet"
		default:
			format = "jsonl"
		}
	}
	if c.Envelope && format != "jsonl" {
		return nil, usagef("--envelope is for JSON lines, not for %s", format)
	}
	var in io.Reader = t.in
	var file *os.File
	if c.File != "-" {
		var err error
		if file, err = os.Open(c.File); err != nil {
			return nil, usageError{fmt.Errorf("open events: %w", err)}
		}
		in = file
	}
	s := &source{name: filepath.Base(c.File), header: func() []byte { return nil }, reject: rejectLine, close: func() {}}
	if file != nil {
		s.close = func() { _ = file.Close() } // it was read
	} else {
		s.name = "standard input"
	}
	if format == "parquet" {
		if file == nil {
			return nil, usagef("a Parquet file is read from its end, so it cannot come on standard input")
		}
		var err error
		if s.all, err = c.readParquet(file); err != nil {
			_ = file.Close() // it was read
			return nil, usageError{err}
		}
		return s, nil
	}
	counted := &countingReader{r: in}
	if file != nil {
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			s.part = func() float64 { return float64(counted.n) / float64(info.Size()) }
		}
	}
	if format == "csv" {
		c.readCSV(s, counted, model)
	} else {
		s.all = c.readLines(counted)
	}
	return s, nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	return n, err
}

// readLines reads one JSON event a line. Empty lines are passed over, and so
// are those that begin with #, which no JSON does.
func (c *produceCmd) readLines(r io.Reader) iter.Seq[input] {
	return func(yield func(input) bool) {
		in := input{}
		for text, err := range textLines(r) {
			in.line++
			text = bytes.TrimSpace(text)
			if err == nil && (len(text) == 0 || text[0] == '#') {
				continue
			}
			in.nth++
			in.raw, in.event, in.err = text, producers.Event{Topic: c.Topic}, err
			switch {
			case err != nil:
			case c.looksInside() || string(text) == "null":
				in.event.Value, in.err = schemas.ParseJSON(text)
			default:
				in.event.Value = producers.JSON(text)
			}
			if in.err == nil && c.Envelope {
				in.err = unpack(&in.event)
			}
			if !yield(in) {
				return
			}
		}
	}
}

// looksInside reports whether a flag asks for what is in an event.
func (c *produceCmd) looksInside() bool {
	return c.Envelope || c.Key != "" || len(c.Headers) > 0 || c.Tombstone != ""
}

// errLong marks a line that is too long to be read; the next one is not harmed.
var errLong = fmt.Errorf("expected a line of at most %d bytes, found a longer one: split the event, or leave something out", maxLine)

// textLines yields the lines of r, each in memory of its own. An error that is
// not errLong ends them.
func textLines(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		b := bufio.NewReaderSize(r, 64<<10)
		for {
			var text []byte
			long := false
			for {
				part, err := b.ReadSlice('\n')
				if long = long || len(text)+len(part) > maxLine; !long {
					text = append(text, part...)
				}
				if err == nil {
					break
				}
				if errors.Is(err, bufio.ErrBufferFull) {
					continue
				}
				if err != io.EOF {
					yield(nil, fmt.Errorf("read line: %w", err))
				} else if long {
					yield(nil, errLong)
				} else if len(text) > 0 {
					yield(text, nil)
				}
				return
			}
			if long {
				if !yield(nil, errLong) {
					return
				}
			} else if !yield(text, nil) {
				return
			}
		}
	}
}

// unpack replaces the value of e, which is an envelope, by what is in it.
func unpack(e *producers.Event) error {
	envelope, ok := e.Value.(map[string]any)
	wrong := func(pointer, expected string, found any) error {
		return &schemas.ValueError{Violations: []schemas.Violation{{
			Pointer: pointer, Expected: expected, Found: schemas.Describe(found),
			Hint: "with --envelope a line is as 'penstock consume tail -o json' prints it",
		}}}
	}
	if !ok {
		return wrong("", `an envelope: {"key":…,"headers":[["name","text"],…],"value":…}`, e.Value)
	}
	value, there := envelope["value"]
	if !there {
		return wrong("/value", "the event, or null for a tombstone", "nothing")
	}
	e.Value = value
	for name, v := range envelope {
		switch name {
		case "value", "topic", "partition", "offset":
		case "key":
			if v != nil {
				e.Key, _ = keyText(v)
			}
		case "time":
			at, ok := schemas.AsTime(v)
			if !ok {
				return wrong("/time", "a timestamp", v)
			}
			e.Time = at
		case "headers":
			list, ok := v.([]any)
			if !ok {
				return wrong("/headers", "an array", v)
			}
			for i, item := range list {
				pair, _ := item.([]any)
				if len(pair) != 2 {
					return wrong(fmt.Sprintf("/headers/%d", i), "an array of a name and a text", item)
				}
				k, isName := pair[0].(string)
				text, isText := pair[1].(string)
				if !isName || !isText {
					return wrong(fmt.Sprintf("/headers/%d", i), "an array of a name and a text", item)
				}
				e.Headers = append(e.Headers, stream.Header{Key: k, Value: []byte(text)})
			}
		default:
			return wrong("/"+schemas.EscapePointer(name), "one of key, headers, time and value", v)
		}
	}
	return nil
}

// rejectLine is a rejected input in a file of JSON lines: the reason as a
// comment, which a reader passes over, and the line as it was.
func rejectLine(in *input, why string) []byte {
	out := fmt.Appendf(nil, "# line %d: %s\n", in.line, oneLine(errors.New(why)))
	if len(in.raw) > 0 {
		out = append(append(out, in.raw...), '\n')
	}
	return out
}

// readCSV reads one event a row. The first row names the fields; a name with
// dots, if the schema has no such field, is one within a record. What a cell
// says depends on the field's type; an empty one is null where that is allowed,
// nothing where the field may be left out, and else empty text.
func (c *produceCmd) readCSV(s *source, r io.Reader, model *schemas.Node) {
	var columns []string
	write := func(cells []string) []byte {
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		_ = w.Write(cells) // a buffer takes all
		w.Flush()
		return b.Bytes()
	}
	s.header = func() []byte { return write(append([]string{reasonColumn}, columns...)) }
	s.reject = func(in *input, why string) []byte {
		return write(append([]string{fmt.Sprintf("line %d: %s", in.line, oneLine(errors.New(why)))}, in.cells()...))
	}
	s.all = func(yield func(input) bool) {
		limited := &limitedReader{r: r, left: maxLine}
		rows := csv.NewReader(limited)
		rows.FieldsPerRecord = -1
		rows.ReuseRecord = true
		in := input{}
		fail := func(line int64, err error) {
			in.nth++
			in.line, in.raw, in.err = line, nil, err
			yield(in)
		}
		first, err := rows.Read()
		switch {
		case err == io.EOF:
			return
		case err != nil:
			fail(1, readCSVError(err))
			return
		case len(first) > maxColumns:
			fail(1, fmt.Errorf("expected at most %d columns, found %d", maxColumns, len(first)))
			return
		}
		columns = slices.Clone(first)
		columns[0] = strings.TrimPrefix(columns[0], "\ufeff")
		for i, name := range columns {
			if name == "" || slices.Contains(columns[:i], name) {
				fail(1, fmt.Errorf("expected a name of its own for each column, found %q as number %d: write the names of the fields in the first line", name, i+1))
				return
			}
		}
		skip := slices.Index(columns, reasonColumn)
		if skip >= 0 {
			columns = slices.Delete(columns, skip, skip+1)
		}
		for {
			limited.left = maxLine
			cells, err := rows.Read()
			if err == io.EOF {
				return
			}
			if err != nil {
				var at *csv.ParseError
				line := in.line + 1
				if errors.As(err, &at) {
					line = int64(at.StartLine)
				}
				fail(line, readCSVError(err))
				return
			}
			at, _ := rows.FieldPos(0)
			in.nth++
			in.line = int64(at)
			if skip >= 0 && skip < len(cells) {
				cells = slices.Delete(cells, skip, skip+1)
			}
			in.raw, in.err, in.event = write(cells), nil, producers.Event{Topic: c.Topic}
			if len(cells) != len(columns) {
				in.err = fmt.Errorf("expected %d cells, as the first line has, found %d: put text with a comma in quotes", len(columns), len(cells))
			} else {
				in.event.Value, in.err = fromCells(model, columns, cells)
			}
			if !yield(in) {
				return
			}
		}
	}
}

// cells are those of a row that was read.
func (in *input) cells() []string {
	cells, err := csv.NewReader(bytes.NewReader(in.raw)).Read()
	if err != nil {
		return nil
	}
	return cells
}

// readCSVError says what to do about an error of the library's.
func readCSVError(err error) error {
	var at *csv.ParseError
	if errors.As(err, &at) {
		return fmt.Errorf("column %d: %w: write a quote within quotes twice", at.Column, at.Err)
	}
	return err
}

// limitedReader stops a row that does not end.
type limitedReader struct {
	r    io.Reader
	left int
}

func (r *limitedReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, fmt.Errorf("expected a row of at most %d bytes, found a longer one: is a quote not closed?", maxLine)
	}
	n, err := r.r.Read(p)
	r.left -= n
	return n, err
}

// fromCells is the event that a row says.
func fromCells(model *schemas.Node, columns, cells []string) (any, error) {
	event := map[string]any{}
	for i, name := range columns {
		into, n := event, model
		f := n.Field(name)
		for f == nil {
			// a.b is b of a, where a is a record of the schema
			outer, rest, nested := strings.Cut(name, ".")
			around := n.Field(outer)
			if !nested || around == nil {
				break
			}
			inner, _ := around.Node.Nullable()
			if inner.Kind != schemas.Record {
				break
			}
			if cells[i] == "" && !around.Required && into[outer] == nil {
				break // nothing is said of it yet
			}
			below, ok := into[outer].(map[string]any)
			if !ok {
				below = map[string]any{}
				into[outer] = below
			}
			into, n, name, f = below, inner, rest, inner.Field(rest)
		}
		if f == nil {
			if cells[i] != "" || !strings.Contains(name, ".") {
				into[name] = cells[i] // which the schema refuses, by its name
			}
			continue
		}
		v, some, err := fromCell(f, cells[i])
		if err != nil {
			return nil, fmt.Errorf("column %q: %w", columns[i], err)
		}
		if some {
			into[name] = v
		}
	}
	return event, nil
}

// fromCell is what a cell says of f; some is false if that is nothing.
func fromCell(f *schemas.Field, cell string) (v any, some bool, err error) {
	n, nullable := f.Node.Nullable()
	if cell == "" {
		switch {
		case nullable:
			return nil, f.OneOf == "", nil
		case !f.Required || n.Kind != schemas.String && n.Kind != schemas.Any && n.Kind != schemas.Bytes:
			return nil, false, nil
		}
	}
	switch n.Kind {
	case schemas.String, schemas.Enum, schemas.Bytes, schemas.Fixed:
		return cell, true, nil
	case schemas.Int:
		if _, err := strconv.ParseInt(cell, 10, 64); err != nil && n.Logical != schemas.NoLogical {
			return cell, true, nil // a date or timestamp
		}
	}
	// A number, a boolean, an array or an object are as in JSON. What is none
	// stays the text it is, for the schema to refuse or take.
	if parsed, err := schemas.ParseJSON([]byte(cell)); err == nil {
		if _, isText := parsed.(string); !isText {
			return parsed, true, nil
		}
	} else if first := cell[:min(1, len(cell))]; first == "{" || first == "[" {
		return nil, false, err
	}
	return cell, true, nil
}
