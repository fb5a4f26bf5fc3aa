package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// Each row of the table of docs/gateway.md is what the gateway does.
func TestRefusedAsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| what comes | answer |\n| --- | --- |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	g, _ := rest(t, Config{})
	long := `{"id":"a","amount":9007199254740993}`
	type request struct {
		topic, media string
		body         io.Reader
		encoding     string
	}
	of := func(body string) request { return request{"orders", typeEvent, strings.NewReader(body), ""} }
	cases := map[string]request{
		"a body that does not arrive within 15 s":          {"orders", typeEvent, io.MultiReader(strings.NewReader(`{"id"`), iotest.ErrReader(errors.New("deadline"))), ""},
		"a body of more than 2 MiB":                        of(strings.Repeat(" ", 2<<20) + fit),
		"text that is not UTF-8":                           of("{\"id\":\"\xff\",\"amount\":1}"),
		"an integer beyond 2^53 in a field of type double": of(long),
		"an integer beyond 2^53 in a field of type long":   {"orders", "application/vnd.kafka.avro.v2+json", strings.NewReader(`{"value_schema":"\"long\"","records":[{"value":9007199254740993}]}`), ""},
		"NaN or Infinity":                                  of(`{"id":"a","amount":NaN}`),
		"JSON nested deeper than 512":                      of(strings.Repeat("[", 513) + strings.Repeat("]", 513)),
		"an object with the same name twice":               of(`{"id":"a","id":"b","amount":1}`),
		"a Content-Type that is none of those above":       {"orders", "text/plain", strings.NewReader(fit), ""},
		"a Content-Encoding":                               {"orders", typeEvent, strings.NewReader(fit), "gzip"},
		"a topic that is not there":                        {"ghosts", typeEvent, strings.NewReader(fit), ""},
		"a topic without a schema":                         {"strangers", typeEvent, strings.NewReader(fit), ""},
		"a name that no topic can have":                    {"a%20b", typeEvent, strings.NewReader(fit), ""},
		"a header that does not arrive within 10 s":        {},
	}
	rows := 0
	for line := range strings.Lines(table + "\n") {
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")
		q, ok := cases[cells[0]]
		if !ok {
			t.Errorf("no case for the row %q", cells[0])
			continue
		}
		code, err := strconv.Atoi(strings.SplitN(cells[1], ",", 2)[0])
		if err != nil {
			continue // the server's own, as cmd/penstock sets it
		}
		r := httptest.NewRequest("POST", "/topics/"+q.topic, q.body)
		r.Header.Set("Content-Type", q.media)
		r.Header.Set("Content-Encoding", q.encoding)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		var a Answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Errorf("%s: %v", cells[0], err)
		}
		if a.Code != code && (code != 200 || w.Code != 200) || code != 200 && w.Code != code/100 {
			t.Errorf("%s: %d %s, want %d", cells[0], w.Code, w.Body, code)
		}
	}
	if rows != len(cases) {
		t.Errorf("%d rows, %d cases", rows, len(cases))
	}
}

// Every route is in the description, and what is described is served.
func TestOpenAPI(t *testing.T) {
	g, _ := rest(t, Config{})
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Summary    string
			Parameters []struct{ Name, Description string }
			Responses  map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%v: %s", err, w.Body)
	}
	for _, ref := range strings.Split(w.Body.String(), `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(ref, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("nothing describes %q", name)
		}
	}
	described := 0
	values := strings.NewReplacer("{topic}", "orders", "{cluster}", "penstock")
	for path, operations := range doc.Paths {
		for method, op := range operations {
			described++
			if op.Summary == "" || len(op.Responses) != 2 {
				t.Errorf("%s %s is not described", method, path)
			}
			for _, p := range op.Parameters {
				if p.Description == "" {
					t.Errorf("%s %s: parameter %q is not described", method, path, p.Name)
				}
			}
			r := httptest.NewRequest(strings.ToUpper(method), values.Replace(path), strings.NewReader("{}"))
			if _, pattern := g.mux.Handler(r); pattern != strings.ToUpper(method)+" "+path {
				t.Errorf("%s %s is served by %q", method, path, pattern)
			}
		}
	}
	if described != len(g.routes()) || described < 7 {
		t.Errorf("%d operations are described of %d", described, len(g.routes()))
	}
}
