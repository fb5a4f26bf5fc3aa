package rules

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"penstock/schemas/avro"
)

func flightRecord(t *testing.T, tag string) *Record {
	t.Helper()
	s, err := avro.Format{}.Parse(`{"type":"record","name":"F","fields":[{"name":"id","type":"string"`+tag+`},{"name":"n","type":"long"},{"name":"d","type":{"type":"int","logicalType":"date"}}]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Record{
		Schema: s, Value: map[string]any{"id": "UA1", "n": int64(7), "d": time.Unix(86400, 0).UTC()},
		Key: []byte("k"), Headers: func() map[string]string { return map[string]string{"h": "v"} },
		Topic: "t", Partition: 3, Offset: 42, Time: time.Unix(1_700_000_000, 0),
	}
}

func TestFilter(t *testing.T) {
	for text, want := range map[string]string{
		`message.id.startsWith("UA") && message.n == 7 && message.d == 1`: "true",
		`message.n > 7`: "false",
		`key == "k" && headers["h"] == "v" && topic == "t" && partition == 3 && offset == 42`: "true",
		`time < now && time == timestamp("2023-11-14T22:13:20Z") && !("x" in headers)`:        "true",
		`message.nn > 7`:     "no such key",
		`headers["x"] == ""`: "no such key",
		`message.n`:          "expected true or false, found int",
		`[1,2,3].map(x, [1,2,3].map(y, x*y)).size() == 3 && message.id.matches("^(U|A)+1$")`:                            "true",
		`"a".replace("a", "` + strings.Repeat("b", 9000) + `").replace("b", "` + strings.Repeat("c", 5000) + `") == ""`: "would take too long",
	} {
		e, err := Filter(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := e.Holds(flightRecord(t, ""))
		if s := fmt.Sprintf("%t %v", got, err); !strings.Contains(s, want) {
			t.Errorf("%s: got %s, want %s", text, s, want)
		}
	}
}

func TestMap(t *testing.T) {
	r := flightRecord(t, "")
	e, err := Map(`{"id": message.id + "-" + key, "n": offset, "d": message.d + 1}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Map(r, r.Schema)
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprint(got); s != "map[d:1970-01-03 00:00:00 +0000 UTC id:UA1-k n:42]" {
		t.Errorf("got %s", s)
	}
	r.Schema, r.Value = nil, nil // a tombstone
	if _, err := e.Map(r, flightRecord(t, "").Schema); err == nil {
		t.Error("a field of nothing was found")
	}
}

// What is tagged stays out of errors.
func TestExpressionShowsNothingTagged(t *testing.T) {
	e, err := Filter(`message.id.matches(message.id + "(")`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Holds(flightRecord(t, "")); err == nil || !strings.Contains(err.Error(), "UA1") {
		t.Errorf("got %v, which does not show what is at fault", err)
	}
	if _, err := e.Holds(flightRecord(t, `,"confluent:tags":["PII"]`)); err == nil || strings.Contains(err.Error(), "UA1") {
		t.Errorf("got %v", err)
	}
}

func TestSyntaxError(t *testing.T) {
	for _, c := range []struct {
		compile func(string) (*Expression, error)
		text    string
		want    string
	}{
		{Filter, "message.a ==\n  mesage.b", "at line 2, column 3: undeclared reference to 'mesage'"},
		{Filter, "", "at line 1, column 1: Syntax error"},
		{Filter, "1", "at line 1, column 1: expected an expression that gives true or false, found one that gives int"},
		{Map, "true", "expected an expression that gives a record"},
		{Mark, "message.a == 1", "undeclared reference to 'message'"},
		{Mark, strings.Repeat("true || ", 4000) + "true", "expected at most 16384 bytes"},
		{Filter, "name == 'x'", "undeclared reference to 'name'"},
	} {
		_, err := c.compile(c.text)
		var at *SyntaxError
		if !errors.As(err, &at) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: got %v, want %s", c.text, err, c.want)
		}
	}
}
