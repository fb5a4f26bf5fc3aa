package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/memory"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

// textBytes is the size of hostile texts. The race detector makes them ten times
// as slow, and some of the smaller ones are read further: there they have 20 KB.
var textBytes = func() int {
	if raced {
		return registry.DefaultMaxSchemaBytes / 50
	}
	return registry.DefaultMaxSchemaBytes
}()

// filled is as many members as fit into textBytes, between what stands before
// and behind them. A form counts with %d, and may say that several times.
func filled(before, separator, form, after string) string {
	var b strings.Builder
	b.WriteString(before)
	room := textBytes - len(after)
	for i := 1; ; i++ {
		member := strings.ReplaceAll(form, "%d", fmt.Sprint(i))
		if b.Len()+len(separator)+len(member) > room {
			return b.String() + after
		}
		if i > 1 {
			b.WriteString(separator)
		}
		b.WriteString(member)
	}
}

// many is n members, or as many of them as belong to a text of textBytes.
func many(n int, before, separator, form, after string) string {
	members := make([]string, n*textBytes/registry.DefaultMaxSchemaBytes)
	for i := range members {
		members[i] = strings.ReplaceAll(form, "%d", fmt.Sprint(i+1))
	}
	return before + strings.Join(members, separator) + after
}

// nested is n openings around a core, or as many as fit into textBytes with a
// little before them.
func nested(n int, open, core, end string) string {
	n = min(n, (textBytes-100-len(core))/(len(open)+len(end)))
	return strings.Repeat(open, n) + core + strings.Repeat(end, n)
}

// hostile are texts of a megabyte, or that stand for much more, which were made
// to cost time or memory. Each is accepted or refused; which of the two is not
// promised, but for those of 10,000 fields.
var hostile = map[schemas.Type]map[string]string{
	schemas.Avro: {
		"fields":         filled(`{"type":"record","name":"R","fields":[`, ",", `{"name":"f%d","type":"int"}`, `]}`),
		"10,000 fields":  many(10_000, `{"type":"record","name":"R","fields":[`, ",", `{"name":"f%d","type":["null","string"],"default":null}`, `]}`),
		"records":        filled(`{"type":"record","name":"R","fields":[`, ",", `{"name":"f%d","type":{"type":"record","name":"R%d","fields":[]}}`, `]}`),
		"recursive":      filled(`{"type":"record","name":"R","fields":[`, ",", `{"name":"f%d","type":["null","R"]}`, `]}`),
		"recursive all":  many(2000, `["null"`, "", `,{"type":"record","name":"R%d","fields":[{"name":"a","type":["null","R1"]}]}`, `]`),
		"nesting":        nested(1<<20, `{"type":"array","items":`, `"int"`, `}`),
		"deep records":   nested(1000, `{"type":"record","name":"R","fields":[{"name":"f","type":`, `"int"`, `}]}`),
		"depth 1,000":    nested(1000, `{"type":"array","items":`, `"int"`, `}`),
		"union":          filled(`[`, ",", `{"type":"fixed","name":"F%d","size":1}`, `]`),
		"union of names": filled(`[`, ",", `"F%d"`, `]`),
		"union of one":   filled(`[`, ",", `"int"`, `]`),
		"brackets":       nested(1<<20, `[`, ``, `]`),
		"unions nested":  nested(1<<20, `["null",{"type":"array","items":`, `"int"`, `}]`),
		"symbols":        filled(`{"type":"enum","name":"E","symbols":[`, ",", `"s%d"`, `]}`),
		"equal symbols":  filled(`{"type":"enum","name":"E","symbols":[`, ",", `"s"`, `]}`),
		"aliases":        filled(`{"type":"record","name":"R","fields":[],"aliases":[`, ",", `"a%d"`, `]}`),
		"field aliases":  filled(`{"type":"record","name":"R","fields":[`, ",", `{"name":"f%d","type":"int","aliases":["a%d","b%d"]}`, `]}`),
		"default":        filled(`{"type":"record","name":"R","fields":[{"name":"f","type":{"type":"array","items":"int"},"default":[`, ",", `%d`, `]}]}`),
		"default string": filled(`{"type":"record","name":"R","fields":[{"name":"f","type":"bytes","default":"`, "", `\u00ff`, `"}]}`),
		"default map":    filled(`{"type":"record","name":"R","fields":[{"name":"f","type":{"type":"map","values":"int"},"default":{`, ",", `"k%d":1`, `}}]}`),
		"properties":     filled(`{"type":"int",`, ",", `"p%d":[]`, `}`),
		"number":         `{"type":"fixed","name":"F","size":` + strings.Repeat("9", 1<<19) + `}`,
		"names":          `{"type":"record","name":"` + strings.Repeat("a.", 1<<19-100) + `R","fields":[]}`,
		"docs":           `{"type":"int","doc":"` + strings.Repeat(`\u0000`, 170_000) + `"}`,
		"default forks":  `{"type":"record","name":"R0","fields":[{"name":"f","type":"int"}` + many(40, "", "", `,{"name":"a%d","type":{"type":"record","name":"R%d","fields":[{"name":"x","type":"int"}]},"default":{"x":1}}`, "") + `]}`,
	},
	schemas.JSON: {
		"fields":            filled(`{"properties":{`, ",", `"f%d":{"type":"integer"}`, `}}`),
		"small fields":      filled(`{"properties":{`, ",", `"%d":{}`, `}}`),
		"true fields":       filled(`{"properties":{`, ",", `"%d":true`, `}}`),
		"10,000 fields":     many(10_000, `{"type":"object","properties":{`, ",", `"f%d":{"type":["null","string"],"maxLength":9}`, `}}`),
		"fields and more":   many(3_900, `{"properties":{`, ",", `"f%d":{"properties":{"a":{"type":"string"},"b":{"type":"string"}},"required":["a","b"]}`, `}}`),
		"nesting":           nested(1<<20, `{"not":`, `{}`, `}`),
		"depth 1,000":       nested(1000, `{"properties":{"a":`, `{}`, `}}`),
		"depth 190":         nested(90, `{"properties":{"a":`, `{}`, `}}`),
		"brackets":          nested(1<<20, `[`, ``, `]`),
		"branches":          filled(`{"anyOf":[`, ",", `{"const":%d}`, `]}`),
		"true branches":     filled(`{"anyOf":[`, ",", `true`, `]}`),
		"equal branches":    filled(`{"oneOf":[`, ",", `{}`, `]}`),
		"empty branches":    many(3_000, `{"anyOf":[`, ",", `{}`, `]}`),
		"branches nested":   nested(80, `{"anyOf":[{},{},`, `{}`, `]}`),
		"symbols":           filled(`{"enum":[`, ",", `%d`, `]}`),
		"equal symbols":     filled(`{"enum":[`, ",", `1`, `]}`),
		"large symbols":     filled(`{"enum":[`, ",", `[{},{}]`, `]}`),
		"required":          filled(`{"type":"object","required":[`, ",", `"f%d"`, `]}`),
		"required fields":   many(3_000, `{"type":"object","properties":{`, ",", `"f%d":{}`, `},`) + many(60_000, `"required":[`, ",", `"f%d"`, `]}`),
		"types":             filled(`{"type":[`, ",", `"string"`, `]}`),
		"definitions":       filled(`{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{`, ",", `"d%d":{}`, `}}`),
		"references":        many(3_000, `{"properties":{`, ",", `"f%d":{"$ref":"#/definitions/d%d"}`, `},`) + many(3_000, `"definitions":{`, ",", `"d%d":{}`, `}}`),
		"references within": many(3_000, `{"properties":{`, ",", `"f%d":{"$ref":"#/x/d%d"}`, `},`) + many(3_000, `"x":{`, ",", `"d%d":{}`, `}}`),
		"reference circles": many(3_000, `{"$ref":"#/definitions/d1","definitions":{`, ",", `"d%d":{"$ref":"#/definitions/d%d1"}`, `}}`),
		"references to one": many(3_000, `{"properties":{`, ",", `"f%d":{"$ref":"#"}`, `}}`),
		"reference self":    `{"$ref":"#"}`,
		"circle":            `{"$ref":"#/definitions/a","definitions":{"a":{"$ref":"#/definitions/b"},"b":{"$ref":"#/definitions/a"}}}`,
		"forks":             many(40, `{"$ref":"#/definitions/d1","definitions":{"d41":{},`, ",", `"d%d":{"allOf":[{"$ref":"#/definitions/d%d"},{"$ref":"#/definitions/d41"}]}`, `}}`),
		"identities":        many(3_000, `{"definitions":{`, ",", `"d%d":{"$id":"http://example.com/%d"}`, `}}`),
		"anchors":           many(3_000, `{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{`, ",", `"d%d":{"$anchor":"a%d"}`, `}}`),
		"dynamic anchors":   many(3_000, `{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{`, ",", `"d%d":{"$dynamicAnchor":"a%d","$dynamicRef":"#a1"}`, `}}`),
		"equal anchors":     many(3_000, `{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{`, ",", `"d%d":{"$anchor":"a"}`, `}}`),
		"recursive anchor":  many(3_000, `{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"properties":{`, ",", `"d%d":{"$recursiveRef":"#"}`, `}}`),
		"patterns":          many(10_000, `{"patternProperties":{`, ",", `"\\pL{1000}%d":true`, `}}`),
		"equal patterns":    many(3_000, `{"properties":{`, ",", `"p%d":{"pattern":"\\pL{1000}"}`, `}}`),
		"small patterns":    filled(`{"patternProperties":{`, ",", `"%d":true`, `}}`),
		"bombs":             many(10_000, `{"patternProperties":{`, ",", `"((a{10}){10}){10}%d":true`, `}}`),
		"large bomb":        `{"pattern":"(` + many(3000, "", "|", `a%d`, "") + `){1000}"}`,
		"bomb too large":    `{"pattern":"(a{1000}){1000}"}`,
		"bomb looks ahead":  `{"pattern":"(?=b)((((a{1000}){1000}){1000}){1000}){1000}"}`,
		"look ahead":        filled(`{"patternProperties":{`, ",", `"(?=%d)":true`, `}}`),
		"groups":            `{"pattern":"` + nested(8000, "(", "a", ")") + `"}`,
		"groups ahead":      `{"pattern":"` + nested(2000, "(?=", "a", ")") + `"}`,
		"long pattern":      `{"pattern":"` + strings.Repeat("a?", 1<<19-20) + `"}`,
		"classes":           `{"pattern":"` + strings.Repeat(`[^\\pL\\pN]`, 1600) + `"}`,
		"classes in case":   `{"pattern":"(?i)` + strings.Repeat(`[\\pL\\pN]`, 1700) + `"}`,
		"default":           filled(`{"default":[`, ",", `{}`, `]}`),
		"default nested":    `{"default":` + nested(190, `[`, ``, `]`) + `}`,
		"number":            `{"maximum":` + strings.Repeat("9", 1<<19) + `}`,
		"exponent":          `{"maximum":1e999999999}`,
		"numbers":           filled(`{"enum":[`, ",", `%de300`, `]}`),
		"multiples":         many(3_000, `{"properties":{`, ",", `"f%d":{"multipleOf":1e-300,"maximum":1e300}`, `}}`),
		"wrong everywhere":  many(3_000, `{"properties":{`, ",", `"f%d":{"type":"strin"}`, `}}`),
		"dependencies":      many(3_000, `{"dependencies":{`, ",", `"f%d":["a","b","c"]`, `}}`),
		"items":             filled(`{"items":[`, ",", `{}`, `]}`),
		"escapes":           `{"title":"` + strings.Repeat(`\u0000`, 170_000) + `"}`,
	},
	schemas.Protobuf: {
		"fields":           filled("syntax = \"proto3\"; message R {", "", "int32 f%d = %d;", "}"),
		"10,000 fields":    many(10_000, "syntax = \"proto3\"; message R {", "", "optional string f%d = %d;", "}"),
		"plain fields":     many(15_000, "syntax = \"proto3\"; message R {", "", "string f%d = %d;", "}"),
		"messages":         filled("syntax = \"proto3\";", "", "message M%d {}", ""),
		"message fields":   many(9_000, "syntax = \"proto3\"; message R {", "", "R f%d = %d;", "}"),
		"types":            many(5_000, "syntax = \"proto3\"; message R {", "", "message M%d {} M%d f%d = %d;", "}"),
		"nesting":          "syntax = \"proto3\";" + nested(1<<20, "message M {", "", "}"),
		"depth 1,000":      "syntax = \"proto3\";" + nested(1000, "message M {", "", "}"),
		"depth 60":         "syntax = \"proto3\";" + nested(60, "message M {", filled("", "", "int32 f%d = %d;", "")[:textBytes/2], "}"),
		"groups":           "syntax = \"proto2\"; message R {" + nested(1<<20, "optional group G = 1 {", "", "}") + "}",
		"oneof":            many(9_000, "syntax = \"proto3\"; message R { oneof o {", "", "int32 f%d = %d;", "}}"),
		"oneofs":           many(9_000, "syntax = \"proto3\"; message R {", "", "oneof o%d { int32 f%d = %d; }", "}"),
		"maps":             many(9_000, "syntax = \"proto3\"; message R {", "", "map<string, R> f%d = %d;", "}"),
		"symbols":          filled("syntax = \"proto3\"; enum E { Z = 0;", "", "S%d = %d;", "}"),
		"equal symbols":    filled("syntax = \"proto2\"; enum E { option allow_alias = true;", "", "S%d = 1;", "}"),
		"enums":            filled("syntax = \"proto3\";", "", "enum E%d { Z%d = 0; }", ""),
		"imports":          filled("syntax = \"proto3\";", "", "import \"f%d.proto\";", ""),
		"equal imports":    filled("syntax = \"proto3\";", "", "import \"google/protobuf/any.proto\";", ""),
		"options":          filled("syntax = \"proto3\";", "", "option (o%d) = 1;", ""),
		"option of many":   filled("syntax = \"proto3\"; message R { int32 f = 1 [", ",", "deprecated = true", "]; }"),
		"dotted option":    "syntax = \"proto3\"; option " + strings.Repeat("a.", 1<<19-100) + "a = 1;",
		"aggregate":        "syntax = \"proto3\"; option (o) = " + nested(1<<20, "{ a ", "", "}") + ";",
		"aggregate list":   filled("syntax = \"proto3\"; option (o) = { a: [", ",", "%d", "] };"),
		"json_names":       many(9_000, "syntax = \"proto3\"; message R {", "", "int32 f%d = %d [json_name = \"j%d\"];", "}"),
		"defaults":         many(9_000, "syntax = \"proto2\"; message R {", "", "optional bytes f%d = %d [default = \"\\377\"];", "}"),
		"reserved":         filled("syntax = \"proto3\"; message R { reserved ", ",", "%d", "; }"),
		"reserved ranges":  filled("syntax = \"proto2\"; message R {", "", "extensions %d;", "}"),
		"reserved names":   filled("syntax = \"proto3\"; message R { reserved ", ",", "\"n%d\"", "; }"),
		"extensions":       many(9_000, "syntax = \"proto2\"; message R { extensions 1 to max; } extend R {", "", "optional int32 f%d = %d;", "}"),
		"services":         filled("syntax = \"proto3\"; message R {} ", "", "service S%d { rpc M (R) returns (R); }", ""),
		"methods":          filled("syntax = \"proto3\"; message R {} service S {", "", "rpc M%d (R) returns (R);", "}"),
		"long name":        "syntax = \"proto3\"; message " + strings.Repeat("a", 1<<20-50) + " {}",
		"long package":     "syntax = \"proto3\"; package " + strings.Repeat("a.", 1<<19-100) + "a;",
		"package and many": "syntax = \"proto3\"; package " + strings.Repeat("a.", 20_000) + "a;" + many(10_000, "message R {", "", "R f%d = %d;", "}"),
		"string":           "syntax = \"proto3\"; option java_package = " + strings.Repeat("\"a\" ", 1<<18-40) + ";",
		"comments":         filled("syntax = \"proto3\"; message R {", "", "/**/", "}"),
		"semicolons":       filled("syntax = \"proto3\";", "", ";", ""),
		"recursive":        "syntax = \"proto3\"; message A { B b = 1; } message B { A a = 1; }",
		"base64":           strings.Repeat("CgEA", 1<<18-10),
		"base64 nested":    strings.Repeat("IgIi", 1<<18-10),
	},
}

// heapLimit is what the service may come to need for one text beyond what it
// needs idle.
const heapLimit = 200 << 20

// heap is how many bytes of memory objects take up, garbage included.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// peak is the most memory that was in use while f ran, above what was before.
func peak(f func()) uint64 {
	debug.FreeOSMemory()
	before := heap()
	most := make(chan uint64)
	done := make(chan struct{})
	go func() {
		top := before
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				top = max(top, heap())
			case <-done:
				most <- max(top, heap())
				return
			}
		}
	}()
	f()
	close(done)
	return <-most - before
}

// numbered finds every second of the names that texts are filled with.
var numbered = regexp.MustCompile(`\b[a-zA-Z](\d*[13579])\b`)

// TestHostileSchemas registers each hostile text, compares it with itself and
// with one in which half of the names changed, and looks at what was answered
// and at how much memory that took.
func TestHostileSchemas(t *testing.T) {
	ask := func(t *testing.T, h http.Handler, path string, body []byte) (code registry.Code, answer string) {
		t.Helper()
		w := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(t.Context(), "POST", path, bytes.NewReader(body))
		req.Header.Set("Accept", registry.FindingsMediaType)
		h.ServeHTTP(w, req)
		var e struct {
			Code registry.Code `json:"error_code"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatalf("%v in %.200s", err, w.Body)
		}
		return e.Code, fmt.Sprintf("%.300s", w.Body)
	}
	// Garbage counts, and how much of it there is hangs on when it is collected.
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	for language, texts := range hostile {
		for name, text := range texts {
			t.Run(fmt.Sprintf("%s/%s", language, name), func(t *testing.T) {
				if len(text) > registry.DefaultMaxSchemaBytes {
					t.Fatalf("the text has %d bytes", len(text))
				}
				r, err := registry.New(t.Context(), memory.New(), []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}}, compat.Checker{}, registry.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				h := registry.Handler(r, registry.HandlerOptions{})
				body, err1 := json.Marshal(map[string]any{"schema": text, "schemaType": language})
				renamed, err2 := json.Marshal(map[string]any{"schema": numbered.ReplaceAllString(text, "x$1"), "schemaType": language})
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				for _, request := range []struct {
					path string
					body []byte
				}{
					{"/subjects/s/versions", body},
					{"/compatibility/subjects/s/versions?verbose=true", body},
					{"/compatibility/subjects/s/versions?verbose=true", renamed},
				} {
					var code registry.Code
					var answer string
					start := time.Now()
					most := peak(func() { code, answer = ask(t, h, request.path, request.body) })
					t.Logf("%s/%s %s: %d bytes, %v, %d MB: %.200s", language, name, request.path[:5], len(request.body), time.Since(start).Round(time.Millisecond), most>>20, answer)
					if most > heapLimit {
						t.Errorf("%s took %d MB", request.path, most>>20)
					}
					if code == 0 {
						continue
					}
					if code != registry.CodeInvalidSchema && code != registry.CodeTooLarge || strings.HasPrefix(name, "10,000") {
						t.Errorf("%s: got %s", request.path, answer)
					}
					break // nothing to compare with
				}
			})
		}
	}
}
