// Package samples holds events to try Penstock with, and their schemas in each
// language: real departures and weather, real handwritten digits, and made-up
// sensors and orders. README.md names the sources and licences. A Maker makes up
// events for any other schema.
package samples

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/csv"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"penstock/schemas"
)

//go:embed *.avsc *.json *.proto data/*.csv.gz
var files embed.FS

// Sample is a kind of event.
type Sample struct {
	Name  string // also a good name for the topic
	About string // one sentence
	Key   string // the field to use as the key of a record
	// Fields that Break breaks: an integer, a required string, and two that
	// are required.
	number, text, gone, typo string
	// read returns the events at hand, in order, and span, by which time moves
	// on when they begin again.
	read func() (at func(i int) map[string]any, held int, span time.Duration, err error)
}

func all() []Sample {
	return []Sample{
		{
			Name: "digits", About: "1,797 handwritten digits of 64 grey values each, and what was meant", Key: "class",
			number: "class", text: "", gone: "pixels", typo: "pixels", read: digits,
		},
		{
			Name: "flights", About: "real departures from New York City in February 2013, cancelled ones included", Key: "carrier",
			number: "distance", text: "origin", gone: "dest", typo: "carrier", read: flights,
		},
		{
			Name: "orders", About: "made-up orders of a shop, each seen several times as it moves on", Key: "id",
			text: "customer", gone: "id", typo: "status", read: orders,
		},
		{
			Name: "sensors", About: "made-up readings of machines", Key: "device",
			number: "sequence", text: "device", gone: "at", typo: "celsius", read: sensors,
		},
		{
			Name: "weather", About: "real hourly weather at three airports in February 2013: a state by airport that changes", Key: "origin",
			number: "year", text: "origin", gone: "time_hour", typo: "pressure", read: weather,
		},
	}
}

// Names returns the names of the samples, sorted.
func Names() []string {
	var names []string
	for _, s := range all() {
		names = append(names, s.Name)
	}
	return names
}

// Get returns the sample of that name. Its error lists the names there are.
func Get(name string) (Sample, error) {
	for _, s := range all() {
		if s.Name == name {
			return s, nil
		}
	}
	return Sample{}, fmt.Errorf("get sample %q: there is none; the samples are %s", name, strings.Join(Names(), ", "))
}

// Schema returns the text of the sample's schema in a language.
func (s Sample) Schema(t schemas.Type) (string, error) {
	extension := map[schemas.Type]string{schemas.Avro: ".avsc", schemas.JSON: ".json", schemas.Protobuf: ".proto"}[t]
	text, err := files.ReadFile(s.Name + extension)
	if err != nil {
		return "", fmt.Errorf("get schema of sample %q: %w", s.Name, err)
	}
	return string(text), nil
}

// Held returns how many events there are before they begin again. Those that
// are made up never do, for any count an int32 holds.
func (s Sample) Held() (int, error) {
	_, held, _, err := s.read()
	return held, err
}

// Events yields the first n events, each a new map that fits the schemas.
// After those held they begin again, with dates and timestamps moved on by
// whole days, so that time goes on.
func (s Sample) Events(n int) (iter.Seq[map[string]any], error) {
	at, held, span, err := s.read()
	if err != nil {
		return nil, err
	}
	return func(yield func(map[string]any) bool) {
		for i := range n {
			e := at(i % held)
			moveOn(e, time.Duration(i/held)*span)
			if !yield(e) {
				return
			}
		}
	}, nil
}

// moveOn adds d, which is whole days, to an event's timestamp and date.
func moveOn(e map[string]any, d time.Duration) {
	if d == 0 {
		return
	}
	for k, v := range e {
		if t, ok := v.(time.Time); ok {
			e[k] = t.Add(d)
		}
	}
	if year, ok := e["year"].(int32); ok {
		date := time.Date(int(year), time.Month(e["month"].(int32)), int(e["day"].(int32)), 0, 0, 0, 0, time.UTC).Add(d)
		e["year"], e["month"], e["day"] = int32(date.Year()), int32(date.Month()), int32(date.Day())
	}
}

// Break returns a copy of an event of s with one thing wrong, and says what.
// The i-th call makes the i-th mistake: a value of the wrong type, a missing
// field, a misspelled name, a number out of range, and from the start.
func (s Sample) Break(i int, event map[string]any) (broken map[string]any, what string) {
	e := maps.Clone(event)
	switch i % 4 {
	case 0:
		if s.text == "" {
			e[s.number] = "unknown"
			return e, fmt.Sprintf("%s is text", s.number)
		}
		e[s.text] = int32(42)
		return e, fmt.Sprintf("%s is a number", s.text)
	case 1:
		delete(e, s.gone)
		return e, fmt.Sprintf("%s is missing", s.gone)
	case 2:
		misspelled := s.typo[:len(s.typo)-2] + s.typo[len(s.typo)-1:] + s.typo[len(s.typo)-2:len(s.typo)-1]
		e[misspelled] = e[s.typo]
		delete(e, s.typo)
		return e, fmt.Sprintf("%s is misspelled %s", s.typo, misspelled)
	}
	if s.number == "" {
		e["lines"] = []any{map[string]any{"sku": "A-1", "quantity": int64(5_000_000_000), "cents": int64(100)}}
		return e, "the quantity is out of range"
	}
	e[s.number] = 1e30
	return e, fmt.Sprintf("%s is out of range", s.number)
}

// table reads a CSV file and returns its rows and where each column is.
func table(name string) (rows [][]string, column map[string]int, err error) {
	packed, err := files.ReadFile("data/" + name + ".csv.gz")
	if err != nil {
		return nil, nil, fmt.Errorf("read sample %q: %w", name, err)
	}
	plain, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, nil, fmt.Errorf("read sample %q: %w", name, err)
	}
	rows, err = csv.NewReader(plain).ReadAll()
	if err != nil {
		return nil, nil, fmt.Errorf("read sample %q: %w", name, err)
	}
	column = map[string]int{}
	for i, c := range rows[0] {
		column[c] = i
	}
	return rows, column, nil
}

// cell reads one value of a table; NA is null.
func cell(column, text string) any {
	if text == "NA" {
		return nil
	}
	switch column {
	case "carrier", "tailnum", "origin", "dest":
		return text
	case "time_hour":
		t, _ := time.Parse(time.RFC3339, text)
		return t
	case "temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib":
		f, _ := strconv.ParseFloat(text, 64)
		return f
	}
	n, _ := strconv.ParseInt(text, 10, 32)
	return int32(n)
}

func fromTable(name string, more func(map[string]any)) (func(int) map[string]any, int, time.Duration, error) {
	rows, column, err := table(name)
	if err != nil {
		return nil, 0, 0, err
	}
	header, rows := rows[0], rows[1:]
	at := func(i int) map[string]any {
		e := make(map[string]any, len(header)+1)
		for j, c := range header {
			e[c] = cell(c, rows[i][j])
		}
		more(e)
		return e
	}
	first, _ := time.Parse(time.RFC3339, rows[0][column["time_hour"]])
	last, _ := time.Parse(time.RFC3339, rows[len(rows)-1][column["time_hour"]])
	const day = 24 * time.Hour
	return at, len(rows), (last.Sub(first)/day + 1) * day, nil
}

func flights() (func(int) map[string]any, int, time.Duration, error) {
	return fromTable("flights", func(e map[string]any) { e["cancelled"] = e["dep_time"] == nil })
}

func weather() (func(int) map[string]any, int, time.Duration, error) {
	return fromTable("weather", func(map[string]any) {})
}

// Digit is a handwritten digit.
type Digit struct {
	Pixels [64]uint8 // grey values, 0 to 16, row by row
	Class  uint8     // 0 to 9
}

// Digits returns all digits, in the order published.
func Digits() ([]Digit, error) {
	rows, _, err := table("digits")
	if err != nil {
		return nil, err
	}
	out := make([]Digit, len(rows))
	for i, row := range rows {
		for j, text := range row {
			n, err := strconv.ParseUint(text, 10, 8)
			if err != nil {
				return nil, fmt.Errorf("read sample %q: row %d: %w", "digits", i, err)
			}
			if j < len(out[i].Pixels) {
				out[i].Pixels[j] = uint8(n)
			} else {
				out[i].Class = uint8(n)
			}
		}
	}
	return out, nil
}

func digits() (func(int) map[string]any, int, time.Duration, error) {
	held, err := Digits()
	at := func(i int) map[string]any {
		pixels := make([]any, len(held[i].Pixels))
		for j, p := range held[i].Pixels {
			pixels[j] = int32(p)
		}
		return map[string]any{"pixels": pixels, "class": int32(held[i].Class)}
	}
	return at, len(held), 0, err
}

var epoch = time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)

// chance is the source of what is made up about event i, the same each time.
func chance(i int) *rand.Rand { return rand.New(rand.NewPCG(1, uint64(i))) }

func sensors() (func(int) map[string]any, int, time.Duration, error) {
	const devices, period = 20, 10 * time.Second
	at := func(i int) map[string]any {
		r := chance(i)
		device := i % devices
		e := map[string]any{
			"device":   fmt.Sprintf("press-%02d", device+1),
			"sequence": int64(i / devices),
			"at":       epoch.Add(time.Duration(i/devices) * period),
			"status":   "OK",
			"celsius":  float64(600+device*5+r.IntN(80)) / 10,
			"volts":    float64(2280+r.IntN(40)) / 10,
			"tags":     map[string]any{"hall": string(rune('A' + device%3)), "line": strconv.Itoa(device % 4)},
		}
		switch r.IntN(50) {
		case 0:
			e["status"] = "FAULT"
		case 1, 2:
			e["status"] = "WARN"
		case 3:
			e["volts"] = nil
		}
		return e
	}
	return at, math.MaxInt32, 0, nil
}

func orders() (func(int) map[string]any, int, time.Duration, error) {
	// Each order is seen at three steps, among those of seven others.
	const among, steps = 8, 3
	at := func(i int) map[string]any {
		group, step := i/(among*steps), i%(among*steps)/among
		number := group*among + i%among
		r := chance(number)
		var lines []any
		for range 1 + r.IntN(3) {
			lines = append(lines, map[string]any{
				"sku":      fmt.Sprintf("%c-%03d", 'A'+rune(r.IntN(5)), r.IntN(200)),
				"quantity": int32(1 + r.IntN(4)),
				"cents":    int64(199 + 50*r.IntN(100)),
			})
		}
		var note any
		if r.IntN(10) == 0 {
			note = "gift"
		}
		status := []string{"PLACED", "PAID", "SHIPPED"}[step]
		if step == 2 && r.IntN(12) == 0 {
			status = "CANCELLED"
		}
		return map[string]any{
			"id":        fmt.Sprintf("O-%06d", number),
			"customer":  fmt.Sprintf("C-%04d", r.IntN(500)),
			"placed_at": epoch.Add(time.Duration(number) * time.Minute),
			"status":    status,
			"lines":     lines,
			"note":      note,
		}
	}
	return at, math.MaxInt32, 0, nil
}
