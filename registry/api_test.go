package registry_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
	"penstock/registry/logs/memory"
	"penstock/schemas"
)

// serveWith is serve with options.
func serveWith(t *testing.T, o registry.HandlerOptions) *session {
	server := httptest.NewServer(registry.Handler(fresh(t), o))
	t.Cleanup(server.Close)
	return &session{T: t, server: server}
}

// has asks, and looks for pieces of the answer; one with a ! before it must not
// be there.
func (s *session) has(method, path, body string, status int, pieces ...string) string {
	s.Helper()
	resp, got := s.do(method, path, body)
	if resp.StatusCode != status {
		s.Errorf("%s %s: status %d, want %d; body %s", method, path, resp.StatusCode, status, got)
	}
	for _, piece := range pieces {
		without, not := strings.CutPrefix(piece, "!")
		if strings.Contains(got, without) == not {
			s.Errorf("%s %s: got %s, want %s", method, path, got, piece)
		}
	}
	return got
}

// with is a request to register a text with other members, which are JSON.
func with(words, members string) string {
	return strings.TrimSuffix(quoted(words), "}") + "," + members + "}"
}

// codes says for each error code how to come by it: requests, of which the last
// is the one that gets it. A code whose way leads through a log that fails, or
// through another node, has the test that has it.
var codes = map[registry.Code][]string{
	400:   {"POST /subjects/s/versions {"},
	404:   {"GET /nowhere"},
	405:   {"PATCH /subjects"},
	403:   {"in TestPermissions"},
	406:   {"in TestHTTPManners"},
	415:   {"in TestHTTPManners"},
	409:   {"in TestDialectV7"},
	500:   {"in TestInternalErrors"},
	50001: {"in TestReadsDoNotWait"},
	50002: {"in TestWriteTimeout"},
	50003: {"in TestForwarding"},
	50004: {"in TestForwarding"},

	40401: {"GET /subjects/none/versions"},
	40402: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "GET /subjects/s/versions/7"},
	40403: {"GET /schemas/ids/9"},
	40404: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "DELETE /subjects/s", "DELETE /subjects/s"},
	40405: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "DELETE /subjects/s?permanent=true"},
	40406: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "DELETE /subjects/s/versions/1", "DELETE /subjects/s/versions/1"},
	40407: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "DELETE /subjects/s/versions/1?permanent=true"},
	40408: {"GET /config/s"},
	40409: {"GET /mode/s"},
	40410: {"DELETE /associations/resources/r"},
	40450: {"in linking.TestExporter"},
	40950: {"in linking.TestExporter"},
	40901: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "POST /subjects/s/versions " + `{"schema":"{\"needs\":[\"a\"]}"}`},
	40902: {"POST /associations:batchGet " + `{"requests":[` + strings.Repeat("{},", 1000) + `{}]}`},
	40903: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "POST /subjects/t/versions " + `{"schema":"{}"}`, "POST /associations " + associate("r", "s", ""), "POST /associations " + associate("r", "t", "")},
	40904: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "POST /associations " + associate("r", "s", ""), "DELETE /subjects/s"},
	40905: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "POST /associations " + associate("r", "s", "STRONG"), "POST /associations " + associate("q", "s", "")},
	40907: {"POST /associations " + associate("r", "s", "")},
	40908: {"POST /associations " + frozen, "DELETE /associations/resources/id-r"},
	42201: {"POST /subjects/s/versions " + `{"schema":"nonsense"}`},
	42202: {"GET /subjects/s/versions/x"},
	42203: {"PUT /config " + `{"compatibility":"SIDEWAYS"}`},
	42204: {"PUT /mode " + `{"mode":"SOMETIMES"}`},
	42205: {"PUT /mode " + `{"mode":"READONLY"}`, "POST /subjects/s/versions " + `{"schema":"{}"}`},
	42206: {"POST /subjects/s/versions " + `{"schema":"{}"}`, "POST /subjects/t/versions " + `{"schema":"{\"use\":[\"x\"]}","references":[{"name":"x","subject":"s","version":1}]}`, "DELETE /subjects/s"},
	42207: {"PUT /mode " + `{"mode":"IMPORT"}`, "POST /subjects/s/versions " + `{"schema":"{}","id":3}`, "POST /subjects/s/versions " + `{"schema":"{}","id":4}`},
	42208: {"POST /subjects/__EMPTY/versions " + `{"schema":"{}"}`},
	42209: {"POST /subjects/s/versions " + `{"schema":"` + strings.Repeat("x", registry.DefaultMaxSchemaBytes+1) + `"}`},
	42210: {"POST /subjects/s/versions " + `{"schema":"{}","ruleSet":{"domainRules":[{"name":"1"}]}}`},
	42211: {"POST /subjects/:.c:s/versions " + `{"schema":"{}"}`, "DELETE /contexts/.c"},
	42212: {"POST /associations {}"},
}

// associate is a request to associate a subject with a resource.
func associate(resource, subject, lifecycle string) string {
	return fmt.Sprintf(`{"resourceName":%q,"resourceNamespace":"n","resourceId":"id-%s","associations":[{"subject":%q,"lifecycle":%q}]}`, resource, resource, subject, lifecycle)
}

const frozen = `{"resourceName":"r","resourceNamespace":"n","resourceId":"id-r","associations":[{"frozen":true,"schema":{"schema":"{}"}}]}`

// TestEveryCode: each code that the API has can be got, and no other is told.
func TestEveryCode(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	known := map[registry.Code]bool{}
	for n := range ast.Preorder(file) {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.INT {
				n, _ := strconv.Atoi(lit.Value)
				known[registry.Code(n)] = true
			}
		}
	}
	if len(known) < 35 {
		t.Fatalf("errors.go has %d codes, want more", len(known))
	}
	for code := range known {
		if codes[code] == nil {
			t.Errorf("nothing says how to come by code %d", code)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		if strings.HasPrefix(codes[code][0], "in ") {
			continue
		}
		s := serve(t)
		last := len(codes[code]) - 1
		for i, request := range codes[code] {
			method, rest, _ := strings.Cut(request, " ")
			path, body, _ := strings.Cut(rest, " ")
			if i == last {
				s.want(method, path, body, code.Status(), fmt.Sprint(int(code)))
			} else {
				s.has(method, path, body, 200)
			}
		}
	}
}

// TestInternalErrors: what nobody foresaw is told as nothing but that.
func TestInternalErrors(t *testing.T) {
	r, err := registry.New(t.Context(), memory.New(), []schemas.Format{fakeFormat{schemas.Avro}}, brokenChecker{}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	server := httptest.NewServer(registry.Handler(r, registry.HandlerOptions{}))
	t.Cleanup(server.Close)
	s := &session{T: t, server: server}
	s.has("POST", "/subjects/s/versions", quoted("+a"), 200)
	s.want("POST", "/subjects/s/versions", quoted("+b"), 500, "500 Internal server error")
	if got := s.has("POST", "/compatibility/subjects/s/versions/1?verbose=true", quoted("+b"), 500); strings.Contains(got, "secret") {
		t.Errorf("told: %s", got)
	}
}

type brokenChecker struct{}

func (brokenChecker) Check(_, _ schemas.Schema, _ registry.Direction, _ registry.Policy) ([]registry.Finding, error) {
	return nil, errors.New("secret of the inside")
}

// TestEquality is the test by which a registered schema is found again.
func TestEquality(t *testing.T) {
	s := serve(t)
	s.has("PUT", "/config", `{"compatibility":"NONE"}`, 200)
	s.want("POST", "/subjects/s/versions", quoted("+a +b"), 200, version("s", 1, 1, "+a +b"))
	// By structure; the answer has the text that is kept.
	s.want("POST", "/subjects/s/versions", quoted("+b +a"), 200, version("s", 1, 1, "+a +b"))
	s.want("POST", "/subjects/s", quoted("+b +a"), 200, version("s", 1, 1, "+a +b"))
	s.has("POST", "/subjects/j/versions", with("+a +b", `"schemaType":"JSON"`), 200, `"version":1`)
	s.has("POST", "/subjects/j/versions", with("+b +a", `"schemaType":"JSON"`), 200, `"version":2`)
	s.has("POST", "/subjects/j/versions?normalize=TRUE", with("+b +a", `"schemaType":"JSON"`), 200, `"version":1`)
	s.has("PUT", "/config/j", `{"normalize":true}`, 200, `{"normalize":true}`)
	s.has("POST", "/subjects/j/versions", with("+d +c", `"schemaType":"JSON"`), 200, quote(text("+c +d")))

	// References: equal as lists, or none in the request.
	s.has("POST", "/subjects/base/versions", quoted("+x"), 200)
	s.has("POST", "/subjects/base/versions", quoted("+y"), 200)
	ref := func(name, subject string, version int) string {
		return fmt.Sprintf(`{"name":%q,"subject":%q,"version":%d}`, name, subject, version)
	}
	s.has("POST", "/subjects/r/versions", with("@n +a", `"references":[`+ref("n", "base", 1)+`]`), 200, `"version":1`)
	s.has("POST", "/subjects/r", with("+a @n", `"references":[`+ref("n", "base", 1)+`]`), 200, `"version":1`)
	s.has("POST", "/subjects/r", with("+a @n", `"references":[`+ref("n", "base", 2)+`]`), 404, "40403")
	s.has("POST", "/subjects/r", quoted("+x +a"), 200, `"version":1`)
	s.has("POST", "/subjects/r/versions", quoted("+x +a"), 200, `"version":1`)
	two := `"references":[` + ref("b", "base", 2) + "," + ref("a", "base", 1) + "," + ref("a", "base", 1) + `]`
	s.has("POST", "/subjects/r/versions?normalize=true", with("@a @b", two), 200, `"references":[`+ref("a", "base", 1)+","+ref("b", "base", 2)+`]`)

	// Metadata and rules belong to a schema; what is absent is not what is
	// empty, but is filled in from the version before.
	s.has("POST", "/subjects/m/versions", quoted("+a"), 200, `"version":1`, "!metadata")
	s.has("POST", "/subjects/m/versions", with("+a", `"metadata":{}`), 200, `"version":2`, `"metadata":{}`)
	s.has("POST", "/subjects/m/versions", with("+a", `"metadata":{"properties":{"p":"1"}}`), 200, `"version":3`)
	s.has("POST", "/subjects/m", quoted("+a"), 200, `"version":1`)
	s.has("POST", "/subjects/m/versions", quoted("+b"), 200, `"version":4`, `"properties":{"p":"1"}`)
	s.has("POST", "/subjects/m", quoted("+b"), 200, `"version":4`)
	s.has("POST", "/subjects/m/versions", `{"schema":"","metadata":{"properties":{"p":"2"}}}`, 200, `"version":5`, quote(text("+b")), `"p":"2"`)
	s.want("POST", "/subjects/empty/versions", `{"schema":""}`, 422, "42201 empty")

	// The same text under confluent:version is a version of its own, whose
	// number the registry keeps right.
	s.has("POST", "/subjects/v/versions", quoted("+a"), 200, `"version":1`)
	s.has("POST", "/subjects/v/versions", quoted("+b"), 200, `"version":2`)
	s.has("POST", "/subjects/v/versions", with("+a", `"metadata":{"properties":{"confluent:version":"3"}}`), 200, `"version":3`, `"confluent:version":"3"`)
	s.has("POST", "/subjects/v/versions", with("+a", `"metadata":{"properties":{"confluent:version":"3"}}`), 200, `"version":3`)
	s.has("POST", "/subjects/v", quoted("+a"), 200, `"version":1`)
	s.has("POST", "/subjects/v/versions", quoted("+c"), 200, `"version":4`, `"confluent:version":"4"`)
	s.has("POST", "/subjects/v", quoted("+c"), 200, `"version":4`)
	s.has("POST", "/subjects/v", with("+c", `"metadata":{"properties":{"confluent:version":"3"}}`), 404, "40403")
}

// TestContracts: metadata and rules of the configuration go below and above.
func TestContracts(t *testing.T) {
	s := serve(t)
	rule := func(name string) string { return `{"name":"` + name + `","type":"CEL","expr":"x"}` }
	s.has("PUT", "/config/s", `{
		"defaultMetadata":{"properties":{"a":"default","b":"default"},"tags":{"f":["T"]}},
		"overrideMetadata":{"properties":{"c":"override"}},
		"defaultRuleSet":{"domainRules":[`+rule("one")+`,`+rule("two")+`]},
		"overrideRuleSet":{"domainRules":[{"name":"two","type":"OTHER"}]}}`, 200)
	s.has("POST", "/subjects/s/versions", with("+a", `"metadata":{"properties":{"b":"own","c":"own"},"tags":{"f":["U"]},"sensitive":["z"]}`), 200,
		`"tags":{"f":["T","U"]}`, `"properties":{"a":"default","b":"own","c":"override"}`, `"sensitive":["z"]`,
		`"domainRules":[{"name":"one","type":"CEL","expr":"x"},{"name":"two","type":"OTHER"}]`)
	s.has("POST", "/subjects/s/versions", quoted("+a"), 200, `"version":1`)
	s.has("GET", "/schemas?ruleType=OTHER", "", 200, `"subject":"s"`)
	s.want("GET", "/schemas?ruleType=NONE", "", 200, `[]`)

	s.has("GET", "/subjects/s/metadata?key=a&value=default&key=b&value=own", "", 200, `"version":1`)
	s.want("GET", "/subjects/s/metadata?key=a&value=other", "", 404, "40403")
	s.want("GET", "/subjects/none/metadata?key=a&value=other", "", 404, "40401")

	for _, bad := range []string{
		`{"domainRules":[{"type":"CEL"}]}`, `{"domainRules":[{"name":"a b","type":"CEL"}]}`,
		`{"domainRules":[` + rule("a") + `,` + rule("a") + `]}`, `{"domainRules":[{"name":"a"}]}`,
		`{"migrationRules":[` + rule("a") + `]}`, `{"encodingRules":[{"name":"a","type":"T","mode":"UPGRADE"}]}`,
		`{"domainRules":[{"name":"a","type":"T","kind":"WISH"}]}`, `{"domainRules":[{"name":"` + strings.Repeat("a", 257) + `","type":"T"}]}`,
	} {
		s.want("POST", "/subjects/s/versions", with("+b", `"ruleSet":`+bad), 422, "42210 Invalid rule set: at")
		s.want("PUT", "/config/s", `{"overrideRuleSet":`+bad+`}`, 422, "42210")
	}
	s.want("POST", "/subjects/s/versions", with("+b", `"metadata":{"properties":{"p":"`+strings.Repeat("x", registry.DefaultMaxSchemaBytes)+`"}}`), 422, "42209 Metadata")

	// Reserved names.
	reserved := func(words, names string) string {
		return with(words, `"metadata":{"properties":{"confluent:reserved":"`+names+`"}}`)
	}
	s.has("PUT", "/config/f", `{"compatibility":"NONE","validateFields":true}`, 200)
	s.has("POST", "/subjects/f/versions", reserved("+a", "x, y,"), 200)
	s.want("POST", "/subjects/f/versions", reserved("+a", "x"), 409, "40901 RESERVED_FIELD_REMOVED")
	s.want("POST", "/subjects/f/versions", quoted("+x"), 409, "40901 {validateFields: 'true', compatibility: 'NONE'}")
	s.has("POST", "/compatibility/subjects/f/versions?verbose=true", quoted("+x"), 200, "RESERVED_FIELD_CONFLICTS_WITH_FIELD", `"is_compatible":false`)
	s.has("POST", "/subjects/f/versions?force=true", quoted("+x"), 200)

	// Groups.
	s.has("PUT", "/config/g", `{"compatibilityGroup":"major"}`, 200)
	major := func(words, n string) string { return with(words, `"metadata":{"properties":{"major":"`+n+`"}}`) }
	s.has("POST", "/subjects/g/versions", major("+a", "1"), 200)
	s.has("POST", "/subjects/g/versions", major("-b +b", "2"), 200, `"version":2`)
	s.has("POST", "/subjects/g/versions", major("-a +a", "1"), 200, `"version":3`)
	s.has("POST", "/subjects/g/versions", major("-a", "2"), 409)
}

// TestFormats: the form of the reply's text, and that clients which send the
// binary form in base64, and keep the reply for it, get that back.
func TestFormats(t *testing.T) {
	s := serve(t)
	s.has("POST", "/subjects/base/versions", quoted("+x"), 200)
	s.has("POST", "/subjects/s/versions", with("@n +a", `"references":[{"name":"n","subject":"base","version":1}]`), 200)
	resolved := quote(text("+a +x"))
	s.has("GET", "/subjects/s/versions/1?format=resolved", "", 200, resolved)
	s.has("GET", "/schemas/ids/2?format=resolved", "", 200, resolved)
	s.has("GET", "/schemas/guids/"+guidOf(t, s, 2)+"?format=resolved", "", 200, resolved)
	s.want("GET", "/subjects/s/versions/1/schema?format=resolved", "", 200, text("+a +x"))
	s.want("GET", "/schemas/ids/2/schema?format=resolved", "", 200, text("+a +x"))
	s.has("POST", "/subjects/s?format=resolved", quoted("+a +x"), 200, resolved)
	s.has("GET", "/subjects/s/versions/1?format=unheard", "", 200, quote(text("@n +a")))
	s.has("POST", "/contexts/.c/subjects/base/versions", quoted("+x"), 200)
	s.has("POST", "/contexts/.c/subjects/s/versions", with("@n +a", `"references":[{"name":"n","subject":"base","version":1}]`), 200)
	s.has("GET", "/contexts/.c/subjects/s/versions/1?referenceFormat=qualified", "", 200, `"subject":":.c:base"`)
	s.has("GET", "/contexts/.c/subjects/s/versions/1", "", 200, `"subject":"base"`)

	binary := base64.StdEncoding.EncodeToString([]byte(text("+abc")))
	sent := `{"schemaType":"PROTOBUF","schema":"` + binary + `"}`
	printed := quote(text("+abc"))
	for range 2 { // the first registers, the second finds
		s.has("POST", "/subjects/p/versions", sent, 200, `"`+binary+`"`)
		s.has("POST", "/subjects/p", sent, 200, `"`+binary+`"`)
	}
	s.has("POST", "/subjects/p/versions?format=serialized", sent, 200, `"`+binary+`"`)
	s.has("POST", "/subjects/p/versions?format=default", sent, 200, printed)
	s.has("POST", "/subjects/p/versions", with("+abc", `"schemaType":"PROTOBUF"`), 200, printed)
	s.has("GET", "/subjects/p/versions/1", "", 200, printed)
	s.has("GET", "/subjects/p/versions/1?format=serialized", "", 200, `"`+binary+`"`)
}

func TestDialectV7(t *testing.T) {
	s := serveWith(t, registry.HandlerOptions{Dialect: registry.DialectV7})
	s.want("POST", "/subjects/s/versions", quoted("+a"), 200, `{"id":1}`)
	s.want("POST", "/subjects/s/versions", quoted("-b"), 409, "409 incompatible")
	s.want("GET", "/subjects/s/versions/1", "", 200, `{"subject":"s","version":1,"id":1,"schema":`+quote(text("+a"))+`}`)
	s.want("GET", "/schemas/ids/1", "", 200, `{"schema":`+quote(text("+a"))+`}`)
	s.want("POST", "/subjects/s", quoted("+a"), 200, `{"subject":"s","version":1,"id":1,"schema":`+quote(text("+a"))+`}`)
	s.want("POST", "/subjects/j/versions", with("+a", `"schemaType":"JSON"`), 200, `{"id":2}`)
	s.has("GET", "/subjects/j/versions/1", "", 200, `"schemaType":"JSON"`, "!guid", "!ts")
}

func TestConfigFields(t *testing.T) {
	s := serve(t)
	all := `"alias":"t","aliasForDeks":"d","normalize":true,"validateFields":false,"validateNewSchemas":true,"validateRules":true,"compatibilityGroup":"g","compatibilityPolicy":"LENIENT",` +
		`"defaultMetadata":{"properties":{"a":"1"}},"overrideMetadata":{},"defaultRuleSet":{},"overrideRuleSet":{"domainRules":[{"name":"r","type":"T"}]}`
	s.want("PUT", "/config/s", `{"compatibility":"full","unknown":1,`+all+`}`, 200, `{"compatibility":"FULL",`+all+`}`)
	s.want("GET", "/config/s", "", 200, `{"compatibilityLevel":"FULL",`+all+`}`)
	s.want("PUT", "/config/s", `{"compatibilityGroup":"h"}`, 200, `{"compatibilityGroup":"h"}`)
	s.want("GET", "/config/s", "", 200, `{"compatibilityLevel":"FULL",`+strings.Replace(all, `"g"`, `"h"`, 1)+`}`)
	s.want("PUT", "/config/s", `{"alias":null,"aliasForDeks":null,"compatibility":null,"overrideRuleSet":null,"defaultRuleSet":null,"defaultMetadata":null,"overrideMetadata":null}`, 200, `{}`)
	s.want("GET", "/config/s", "", 200, `{"normalize":true,"validateFields":false,"validateNewSchemas":true,"validateRules":true,"compatibilityGroup":"h","compatibilityPolicy":"LENIENT"}`)
	s.want("PUT", "/config", `{"compatibility":"FORWARD","compatibilityGroup":"all","defaultMetadata":{"sensitive":["s"]}}`, 200, `{"compatibility":"FORWARD","compatibilityGroup":"all","defaultMetadata":{"sensitive":["s"]}}`)
	s.want("GET", "/config/s?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"FORWARD","normalize":true,"validateFields":false,"validateNewSchemas":true,"validateRules":true,"compatibilityGroup":"h","compatibilityPolicy":"LENIENT"}`)
	s.want("GET", "/config/other?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"FORWARD","compatibilityGroup":"all","defaultMetadata":{"sensitive":["s"]}}`)
	s.want("PUT", "/config/s", `{}`, 200, `{}`)
	s.want("PUT", "/config/s", `{"compatibilityPolicy":"HARSH"}`, 422, "42203 HARSH")
	s.want("PUT", "/config/s", `{"alias":"__GLOBAL"}`, 422, "42208")
	s.want("PUT", "/config/s", `{"normalize":"yes"}`, 400, `400 "/normalize" expected true or false`)
	s.want("PUT", "/config/:.__GLOBAL:", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	s.want("GET", "/config/:.c:s?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"NONE"}`)

	// An alias stands for its subject, but where it is configured.
	s.has("POST", "/subjects/target/versions", quoted("+a"), 200)
	s.has("PUT", "/config/nick", `{"alias":"target"}`, 200)
	s.has("GET", "/subjects/nick/versions/1", "", 200, `"subject":"target"`)
	s.has("POST", "/subjects/nick/versions", quoted("+b"), 200, `"subject":"target","version":2`)
	s.has("POST", "/compatibility/subjects/nick/versions/latest", quoted("+b"), 200)
	s.want("GET", "/config/nick", "", 200, `{"alias":"target"}`)
	s.has("GET", "/schemas?subjectPrefix=nick&aliases=true", "", 200, `"subject":"target"`, `"aliases":["nick"]`)
	s.want("GET", "/schemas?subjectPrefix=nick", "", 200, `[]`)
	s.want("DELETE", "/subjects/nick", "", 200, `[1,2]`)
}

func TestModes(t *testing.T) {
	s := serve(t)
	s.want("PUT", "/mode/s", `{"mode":"FORWARD"}`, 422, "42204 whole registry")
	s.want("PUT", "/mode", `{"mode":"READONLY_OVERRIDE"}`, 200, `{"mode":"READONLY_OVERRIDE"}`)
	s.want("PUT", "/mode/s", `{"mode":"READWRITE"}`, 200, `{"mode":"READWRITE"}`)
	s.want("GET", "/mode/s", "", 200, `{"mode":"READWRITE"}`)
	s.want("GET", "/mode/s?defaultToGlobal=true", "", 200, `{"mode":"READONLY_OVERRIDE"}`)
	s.want("POST", "/subjects/s/versions", quoted("+a"), 422, "42205 read-only")
	s.has("PUT", "/mode", `{"mode":"READONLY"}`, 200)
	s.has("POST", "/subjects/s/versions", quoted("+a"), 200)
	s.has("PUT", "/mode", `{"mode":"FORWARD"}`, 200)
	s.has("POST", "/subjects/f/versions", with("-z", `"id":9,"version":3`), 200, `"version":3,"id":9`)
	s.want("POST", "/subjects/f/versions", quoted("+q"), 422, "42205 not in read-write mode")
	s.has("POST", "/subjects/f/versions", with("-z", `"id":9,"version":5`), 200, `"version":5,"id":9`)
	s.has("PUT", "/mode/t", `{"mode":"READONLY"}`, 200)
	s.want("DELETE", "/mode?recursive=true", "", 200, `{"mode":"FORWARD"}`)
	s.want("GET", "/mode/t", "", 404, "40409")
	s.want("DELETE", "/mode/t?recursive=true", "", 200, `{"mode":null}`)

	// IMPORT makes room: what is hidden goes for good, unless it is referred to.
	s.has("PUT", "/config", `{"compatibility":"NONE"}`, 200)
	s.has("POST", "/subjects/i/versions", quoted("+a"), 200)
	s.has("DELETE", "/subjects/i", "", 200)
	s.has("POST", "/subjects/used/versions", quoted("+u"), 200)
	s.has("POST", "/subjects/user/versions", with("@u", `"references":[{"name":"u","subject":"used","version":1}]`), 200)
	s.has("DELETE", "/subjects/user", "", 200)
	s.has("DELETE", "/subjects/used", "", 200)
	s.want("PUT", "/mode", `{"mode":"IMPORT"}`, 422, "42205")
	s.want("GET", "/subjects?deletedOnly=true", "", 200, `["i","used","user"]`)
	s.has("PUT", "/mode?force=true", `{"mode":"IMPORT"}`, 200)
	s.want("GET", "/subjects?deletedOnly=true", "", 200, `["used"]`)
	s.has("DELETE", "/mode", "", 200)
	s.has("PUT", "/mode/i", `{"mode":"IMPORT"}`, 200)
	s.has("POST", "/subjects/i/versions", with("+z", `"id":1000`), 200, `"version":1`)
}

// TestContexts: ids and names are a context's own, and what the default one
// does not have is looked for in the others.
func TestContexts(t *testing.T) {
	s := serve(t)
	s.has("POST", "/subjects/:.c:s/versions", quoted("+c"), 200)
	s.has("POST", "/contexts/:.d:/subjects/t/versions", quoted("+d1"), 200, `":.d:t"`)
	s.has("POST", "/contexts/d/subjects/t/versions", quoted("+d2"), 200, `"id":2`)
	s.want("GET", "/contexts", "", 200, `[".",".c",".d"]`)
	s.want("GET", "/contexts?contextPrefix=.d", "", 200, `[".d"]`)
	s.want("GET", "/contexts?offset=1&limit=1", "", 200, `[".c"]`)
	s.want("POST", "/subjects/s", quoted("+c"), 200, version(":.c:s", 1, 1, "+c"))
	s.want("GET", "/subjects/t/versions/2", "", 200, version(":.d:t", 2, 2, "+d2"))
	s.want("GET", "/schemas/ids/2/schema", "", 200, text("+d2"))
	s.want("GET", "/schemas/ids/1/schema", "", 200, text("+c"))
	s.want("GET", "/schemas/ids/1/schema?subject=t", "", 200, text("+d1"))
	s.want("GET", "/schemas/ids/1/schema?subject=:.d:t", "", 200, text("+d1"))
	s.want("GET", "/contexts/.c/schemas/ids/2", "", 404, "40403")
	s.want("GET", "/contexts/.c/subjects/t/versions/1", "", 404, "40401")
	s.has("POST", "/subjects/tip/versions", quoted("+t"), 200)
	s.want("GET", "/subjects", "", 200, `[":.c:s",":.d:t","tip"]`)
	s.want("GET", "/subjects?subjectPrefix=:*:t", "", 200, `[":.d:t","tip"]`)
	s.want("GET", "/subjects?subjectPrefix=:.:", "", 200, `["tip"]`)
	s.want("GET", "/subjects?subjectPrefix=:.d:", "", 200, `[":.d:t"]`)
	s.want("GET", "/contexts/.d/subjects?subjectPrefix=x", "", 200, `[]`)

	s.want("DELETE", "/contexts/.d", "", 422, "42211 not empty")
	s.has("PUT", "/mode/:.d:", `{"mode":"READWRITE"}`, 200)
	s.has("DELETE", "/subjects/:.d:t", "", 200)
	s.want("DELETE", "/contexts/.d", "", 422, "42211 deleted ones counted")
	s.has("DELETE", "/subjects/:.d:t?permanent=true", "", 200)
	for range 2 {
		if resp, body := s.do("DELETE", "/contexts/:.d:", ""); resp.StatusCode != 204 || body != "" {
			t.Errorf("delete a context: %d %q", resp.StatusCode, body)
		}
	}
	s.want("GET", "/contexts", "", 200, `[".",".c"]`)
	s.want("GET", "/mode/:.d:", "", 404, "40409")
	s.want("DELETE", "/contexts/%2E", "", 422, "42205")
	s.has("POST", "/subjects/:.d:t/versions", quoted("+d3"), 200, `"id":3`)
}

// TestPreviewAndUndelete: what a deletion would do, and the way back.
func TestPreviewAndUndelete(t *testing.T) {
	s := serve(t)
	s.has("PUT", "/config", `{"compatibility":"NONE"}`, 200)
	for _, words := range []string{"+a", "+b", "+c"} {
		s.has("POST", "/subjects/s/versions", quoted(words), 200)
	}
	s.want("DELETE", "/subjects/s?dryRun=true", "", 200, `[1,2,3]`)
	s.want("DELETE", "/subjects/s/versions/latest?dryRun=true", "", 200, `3`)
	s.want("DELETE", "/subjects/s?dryRun=true&permanent=true", "", 404, "40405")
	s.want("DELETE", "/subjects/s/versions/2?dryRun=true&permanent=true", "", 404, "40407")
	s.want("GET", "/subjects/s/versions", "", 200, `[1,2,3]`)
	s.has("DELETE", "/subjects/s/versions/2", "", 200)
	s.want("GET", "/subjects/s/versions?deletedAsNegative=true", "", 200, `[1,-2,3]`)
	s.want("POST", "/subjects/s/versions/3/undelete", "", 404, "40407 not deleted")
	s.want("POST", "/subjects/s/versions/9/undelete", "", 404, "40402")
	s.want("POST", "/subjects/none/undelete", "", 404, "40401")
	s.want("POST", "/subjects/s/versions/2/undelete", "", 200, `2`)
	s.want("POST", "/subjects/s/undelete", "", 404, "40405 no version that is deleted")
	s.want("GET", "/subjects/s/versions/2", "", 200, version("s", 2, 2, "+b"))
	s.has("DELETE", "/subjects/s", "", 200)
	s.want("DELETE", "/subjects/s?dryRun=true&permanent=true", "", 200, `[1,2,3]`)
	s.want("POST", "/subjects/s/versions/latest/undelete", "", 200, `3`)
	s.want("POST", "/subjects/s/undelete", "", 200, `[1,2]`)
	s.want("GET", "/subjects/s/versions", "", 200, `[1,2,3]`)

	s.has("POST", "/subjects/user/versions", with("@b", `"references":[{"name":"b","subject":"s","version":2}]`), 200)
	s.has("DELETE", "/subjects/user", "", 200)
	s.has("DELETE", "/subjects/s", "", 200)
	s.want("POST", "/subjects/user/undelete", "", 422, "42201 refers to version 2 of 's', which is deleted")
	s.has("PUT", "/mode", `{"mode":"READONLY"}`, 200)
	s.want("POST", "/subjects/s/undelete", "", 422, "42205")
}

func TestAssociations(t *testing.T) {
	s := serve(t)
	s.has("POST", "/subjects/s/versions", quoted("+a"), 200)
	s.want("GET", "/associations/resources/-/r?resourceType=topic&associationType=value", "", 200, `[]`)
	s.has("POST", "/associations?dryRun=true", associate("r", "s", ""), 200, `"lifecycle":"WEAK"`)
	s.want("GET", "/associations/subjects/s", "", 200, `[]`)
	s.want("POST", "/associations", associate("r", "s", ""), 200, `{"resourceName":"r","resourceNamespace":"n","resourceId":"id-r","resourceType":"topic","associations":[{"subject":"s","associationType":"value","lifecycle":"WEAK","frozen":false}]}`)
	s.has("POST", "/associations", associate("r", "s", "WEAK"), 200)
	one := s.has("GET", "/associations/resources/-/r?associationType=value", "", 200, `"subject":"s"`, `"resourceNamespace":"n"`, `"createTs":`, `"guid":"`)
	for _, path := range []string{"/associations/resources/n/r", "/associations/resources/n/-", "/associations/resources/id-r", "/associations/subjects/s", "/associations/subjects/s?lifecycle=weak&limit=1"} {
		if got := s.has("GET", path, "", 200); got != one {
			t.Errorf("%s: got %s, want %s", path, got, one)
		}
	}
	for _, path := range []string{"/associations/resources/m/r", "/associations/resources/id-r?associationType=key", "/associations/resources/id-r?lifecycle=STRONG", "/associations/resources/id-r?resourceType=queue", "/associations/resources/id-r?offset=1"} {
		s.want("GET", path, "", 200, `[]`)
	}
	s.want("POST", "/associations", associate("r", "s", "STRONG"), 409, "40903 differs")
	s.want("PUT", "/associations/resources/other", associate("r", "s", ""), 409, "40903")
	s.has("PUT", "/associations/resources/id-r", associate("r", "s", "STRONG"), 200, "STRONG")
	s.want("POST", "/associations", associate("q", "s", ""), 409, "40905")
	s.has("PUT", "/associations/resources/id-r", associate("r", "s", "WEAK"), 200, "WEAK")
	s.has("POST", "/associations", associate("q", "s", ""), 200)
	s.want("PUT", "/associations/resources/id-r", associate("r", "s", "STRONG"), 409, "40904")
	s.has("GET", "/schemas?associationType=value", "", 200, `"associations":[{"subject":"s"`)
	s.want("GET", "/schemas?lifecycle=STRONG", "", 200, `[]`)

	s.want("DELETE", "/subjects/s", "", 409, "40904")
	s.want("DELETE", "/subjects/s/versions/1", "", 409, "40907 last")
	s.want("DELETE", "/associations/resources/none", "", 404, "40410")
	for range 2 {
		s.has("DELETE", "/associations/resources/id-q?dryRun=true", "", 204)
	}
	s.has("DELETE", "/associations/resources/id-q", "", 204)
	s.has("DELETE", "/associations/resources/id-r?cascadeLifecycle=true", "", 204)
	s.want("GET", "/subjects/s/versions", "", 200, `[1]`)

	// A frozen one brings its schema, has the subject of its name, stays as it
	// is, and goes with its subject.
	s.has("POST", "/associations", frozen, 200, `"subject":":.n:r-value"`, `"lifecycle":"STRONG","frozen":true`)
	s.want("GET", "/subjects/:.n:r-value/versions", "", 200, `[1]`)
	s.want("PUT", "/associations/resources/id-r", strings.Replace(frozen, "true", "false", 1), 409, "40908")
	s.want("POST", "/subjects/:.n:user/versions", with("@u", `"references":[{"name":"u","subject":"r-value","version":1}]`), 422, "42201 strongly associated")
	s.has("DELETE", "/associations/resources/id-r?cascadeLifecycle=true", "", 204)
	s.want("GET", "/subjects?subjectPrefix=:.n:&deletedOnly=true", "", 200, `[":.n:r-value"]`)

	// A subject that others build on belongs to nobody alone.
	s.has("POST", "/subjects/user/versions", with("@u", `"references":[{"name":"u","subject":"s","version":1}]`), 200)
	s.want("POST", "/associations", associate("r", "s", "STRONG"), 422, "42206")

	for _, bad := range []string{
		`{}`, `{"resourceName":"r"}`, `{"resourceName":"r","resourceNamespace":"n"}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i"}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i","resourceType":"queue","associations":[{}]}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i","associations":[{"associationType":"other"}]}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i","associations":[{"lifecycle":"FOREVER"}]}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i","associations":[{"subject":"s"},{"subject":"s"}]}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i","associations":[{"subject":"s","frozen":true}]}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i","associations":[{"lifecycle":"WEAK","frozen":true}]}`,
		`{"resourceName":"r","resourceNamespace":"n","resourceId":"i","associations":[{"frozen":true},{"associationType":"key"}]}`,
		`{"resourceName":"` + strings.Repeat("r", 1025) + `","resourceNamespace":"n","resourceId":"i","associations":[{}]}`,
	} {
		s.want("POST", "/associations", bad, 422, "42212 Invalid association: ")
	}

	s.has("POST", "/associations?context=.c", strings.Replace(associate("x", "in", ""), `"lifecycle":""`, `"schema":{"schema":"{}"}`, 1), 200, `":.c:in"`)
	get := s.has("POST", "/associations:batchGet?includeSchemas=true", `{"requests":[{"resourceId":"id-x"},{"resourceName":"none"},{},{"resourceName":"x","lifecycle":"strong"}]}`, 207)
	mutated := s.has("POST", "/associations:batchMutate", `{"requests":[
		{"resourceName":"b","resourceNamespace":"n","resourceId":"id-b","associations":[{"opType":"CREATE","subject":"s"}]},
		{"resourceName":"x","resourceNamespace":"n","resourceId":"id-x","associations":[{"opType":"DELETE","subject":"s"}]},
		{"resourceName":"x","resourceNamespace":"n","resourceId":"id-x","associations":[{"opType":"DELETE","subject":"s"}]},
		{"resourceName":"x","resourceNamespace":"n","resourceId":"id-x","associations":[{"opType":"WISH","subject":"s"}]}]}`, 207)
	for _, body := range []string{get, mutated} {
		var reply struct {
			Results []struct {
				Error *struct {
					Code int `json:"error_code"`
				}
				Result *registry.AssociationRequest
			}
		}
		if err := json.Unmarshal([]byte(body), &reply); err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, r := range reply.Results {
			if (r.Error == nil) == (r.Result == nil) {
				t.Errorf("neither an error nor a result, or both: %s", body)
			} else if r.Error != nil {
				got = append(got, r.Error.Code)
			} else {
				got = append(got, 0)
			}
		}
		want := []int{0, 40410, 42212, 40410}
		if body == mutated {
			want = []int{0, 0, 40410, 42212}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("codes (-want +got):\n%s%s", diff, body)
		}
	}
	if !strings.Contains(get, `"schema":{"subject":":.c:in"`) {
		t.Errorf("batchGet without the schema: %s", get)
	}
	s.want("POST", "/associations:batchMutate", `{"requests":[`+strings.Repeat("{},", 1000)+`{}]}`, 409, "40902")
}

// TestAssociationsAreAtomic: the schemas and associations of a request are
// stored in one append, or not at all.
func TestAssociationsAreAtomic(t *testing.T) {
	log := &appendLog{Log: memory.New()}
	r := open(t, log)
	server := httptest.NewServer(registry.Handler(r, registry.HandlerOptions{}))
	t.Cleanup(server.Close)
	s := &session{T: t, server: server}
	s.has("POST", "/subjects/old/versions", quoted("+y"), 200, `"id":1`)
	log.appends = nil
	both := func(key, value string) string {
		return `{"resourceName":"r","resourceNamespace":"n","resourceId":"i","associations":[{"associationType":"key","subject":"k","lifecycle":"STRONG","schema":` + key + `},{"subject":"v","schema":` + value + `}]}`
	}
	refused := func(request string, status int, want string) {
		t.Helper()
		s.want("POST", "/associations", request, status, want)
		s.want("POST", "/associations?dryRun=true", request, status, want)
		if len(log.appends) > 0 || len(r.Subjects("", registry.WithDeleted)) != 1 {
			t.Errorf("%s: refused, and yet stored: %d appends, subjects %q", want, len(log.appends), r.Subjects("", registry.WithDeleted))
		}
	}
	refused(both(quoted("+a"), `{"schema":"nonsense"}`), 422, "42201")
	refused(strings.Replace(both(quoted("+a"), quoted("-c +c")), `"subject":"v"`, `"subject":"old"`, 1), 409, "40901")
	// The value builds on the key, which belongs to the resource alone.
	refused(both(quoted("+a"), with("@k", `"references":[{"name":"k","subject":"k","version":1}]`)), 422, "42201")

	s.has("POST", "/associations?dryRun=true", both(quoted("+a"), quoted("+b")), 200, `"subject":"k"`)
	s.want("GET", "/subjects", "", 200, `["old"]`)
	s.has("POST", "/associations", both(quoted("+a"), quoted("+b")), 200, `"schema":{"subject":"k","version":1,"id":2,`, `"schema":{"subject":"v","version":1,"id":3,`)
	if len(log.appends) != 1 || log.appends[0] != 4 {
		t.Errorf("appends of %v records, want one of four", log.appends)
	}
	s.has("GET", "/subjects/k/versions/1", "", 200, `"id":2`)
	s.has("GET", "/subjects/v/versions/1", "", 200, `"id":3`)
	// Two subjects with one schema have one id.
	s.has("POST", "/associations?context=c", strings.Replace(both(quoted("+a"), quoted("+a")), `"r"`, `"q"`, 1), 200)
	s.has("GET", "/contexts/.c/schemas/ids/1/versions", "", 200, `[{"subject":":.c:k","version":1},{"subject":":.c:v","version":1}]`)
	if diff := cmp.Diff(everything(r), everything(open(t, log))); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

// appendLog notes how many records each append has.
type appendLog struct {
	registry.Log
	appends []int
}

func (l *appendLog) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	l.appends = append(l.appends, len(events))
	return l.Log.Append(ctx, prev, events...)
}

// TestAssociationsAreKept: contexts and associations are there after a restart,
// and gone after it once they are deleted.
func TestAssociationsAreKept(t *testing.T) {
	log := memory.New()
	r := open(t, log)
	if _, err := r.Register(t.Context(), ":.c:s", fake("+a"), false); err != nil {
		t.Fatal(err)
	}
	request := registry.AssociationRequest{
		ResourceName: "r", ResourceNamespace: "n", ResourceID: "i", ResourceType: "topic",
		Associations: []registry.AssociationChange{{Op: "CREATE", Subject: ":.c:s", AssociationType: "value"}},
	}
	if _, err := r.Associate(t.Context(), request, false); err != nil {
		t.Fatal(err)
	}
	made := r.Associations(registry.AssociationQuery{})
	again := open(t, log)
	if diff := cmp.Diff(made, again.Associations(registry.AssociationQuery{})); diff != "" || len(made) != 1 {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
	if err := again.Dissociate(t.Context(), registry.AssociationQuery{ResourceID: "i"}, false, false); err != nil {
		t.Fatal(err)
	}
	for _, permanent := range []bool{false, true} {
		if _, err := again.DeleteSubject(t.Context(), ":.c:s", permanent); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.DeleteContext(t.Context(), ".c"); err != nil {
		t.Fatal(err)
	}
	last := open(t, log)
	if got := last.Associations(registry.AssociationQuery{}); len(got) != 0 {
		t.Errorf("deleted, and there again: %+v", got)
	}
	if got := last.Contexts(); len(got) != 1 {
		t.Errorf("contexts %v, want the default one", got)
	}
	var records []string
	_ = log.Replay(t.Context(), 0, func(e registry.Event) error {
		records = append(records, string(e.Key))
		return nil
	})
	for _, key := range []string{
		`{"keytype":"CONTEXT","tenant":"default","context":".c","magic":0}`,
		`{"keytype":"ASSOC","tenant":"default","resourceName":"r","resourceNamespace":"n","resourceType":"topic","associationType":"value","subject":":.c:s","magic":0}`,
	} {
		if !slices.Contains(records, key) {
			t.Errorf("no record %s in %v", key, records)
		}
	}
}

// TestPermissions: every route asks for the right operation on the right
// subject, and lists leave out what may not be read.
func TestPermissions(t *testing.T) {
	var asked []string
	allow := func(registry.Operation, string) bool { return true }
	s := serveWith(t, registry.HandlerOptions{Authorize: func(_ context.Context, op registry.Operation, subject string) error {
		asked = append(asked, fmt.Sprintf("%s %q", op, subject))
		if !allow(op, subject) {
			return errors.New("no")
		}
		return nil
	}})
	ask := func(method, path, body string, want ...string) {
		t.Helper()
		asked = nil
		resp, got := s.do(method, path, body)
		for _, w := range want {
			if !slices.Contains(asked, w) {
				t.Errorf("%s %s asks for %v, want %v; %d %s", method, path, asked, want, resp.StatusCode, got)
			}
		}
		if len(want) == 0 && len(asked) > 0 {
			t.Errorf("%s %s asks for %v, want nothing", method, path, asked)
		}
	}
	ask("GET", "/livez", "")
	ask("GET", "/readyz", "")
	ask("GET", "/openapi.json", "")
	ask("GET", "/", "", `read ""`)
	ask("GET", "/schemas/types", "", `read ""`)
	ask("POST", "/subjects/s/versions", quoted("+a"), `write "s"`)
	ask("POST", "/contexts/.c/subjects/s/versions", quoted("+c"), `write ":.c:s"`)
	ask("POST", "/subjects/t/versions", with("@s", `"references":[{"name":"s","subject":"s","version":1}]`), `write "t"`, `read "s"`)
	ask("POST", "/subjects/t", with("@s", `"references":[{"name":"s","subject":"s","version":1}]`), `read "t"`, `read "s"`)
	ask("GET", "/subjects/s/versions/1", "", `read "s"`)
	ask("GET", "/subjects/s/versions/1/schema", "", `read "s"`)
	ask("GET", "/subjects/s/versions/1/referencedby", "", `read "s"`, `read "t"`)
	ask("GET", "/subjects/s/metadata", "", `read "s"`)
	ask("GET", "/schemas/ids/1", "", `read "s"`)
	ask("GET", "/schemas/guids/"+guidOf(t, s, 1), "", `read "s"`)
	ask("POST", "/subjects/s/versions/1/tags", `{}`, `write "s"`)
	ask("POST", "/compatibility/subjects/s/versions", quoted("+a"), `compatibility "s"`)
	ask("POST", "/compatibility/subjects/s/versions/1", quoted("+a"), `compatibility "s"`)
	ask("GET", "/config", "", `read ""`)
	ask("PUT", "/config", `{}`, `admin ""`)
	ask("DELETE", "/config/s", "", `admin "s"`)
	ask("PUT", "/contexts/.c/config", `{}`, `admin ":.c:"`)
	ask("GET", "/mode/s", "", `read "s"`)
	ask("PUT", "/mode/s", `{"mode":"READWRITE"}`, `admin "s"`)
	ask("DELETE", "/mode", "", `admin ""`)
	ask("DELETE", "/contexts/.x", "", `admin ":.x:"`)
	ask("POST", "/associations", associate("r", "s", ""), `write "s"`)
	ask("PUT", "/associations/resources/id-r", associate("r", "s", ""), `write "s"`)
	ask("DELETE", "/associations/resources/id-r?cascadeLifecycle=true", "", `write "s"`, `delete "s"`)
	ask("POST", "/associations:batchMutate", `{"requests":[`+strings.Replace(associate("r", "s", ""), `{"subject"`, `{"opType":"CREATE","subject"`, 1)+`]}`, `write "s"`)
	ask("DELETE", "/subjects/t/versions/1", "", `delete "t"`)
	ask("POST", "/subjects/t/versions/1/undelete", "", `delete "t"`)
	ask("DELETE", "/subjects/t", "", `delete "t"`)
	ask("POST", "/subjects/t/undelete", "", `delete "t"`)

	s.has("PUT", "/config/nick", `{"alias":"s"}`, 200)
	allow = func(_ registry.Operation, subject string) bool { return subject != "s" && subject != ":.c:" }
	for _, path := range []string{"/subjects/s/versions", "/subjects/s/versions/1", "/subjects/nick/versions/1", "/schemas/ids/1", "/schemas/ids/1/schema", "/schemas/ids/1/subjects", "/schemas/ids/1/versions", "/subjects/s/metadata", "/config/s"} {
		s.want("GET", path, "", 403, "403 The caller may not do that")
	}
	s.want("POST", "/subjects/u/versions", with("@s", `"references":[{"name":"s","subject":"s","version":1}]`), 403, "403")
	s.want("GET", "/subjects", "", 200, `[":.c:s","t"]`)
	s.want("GET", "/contexts", "", 200, `["."]`)
	s.has("GET", "/schemas", "", 200, `"subject":"t"`, `!"subject":"s","version":1,"id"`)
	s.want("GET", "/associations/subjects/t", "", 200, `[]`)
	s.want("GET", "/associations/resources/-/r", "", 200, `[]`)
	allow = func(_ registry.Operation, subject string) bool { return subject != ":.c:s" }
	s.want("GET", "/subjects/s/versions/7", "", 404, "40402")
	s.want("POST", "/subjects/s", quoted("+c"), 404, "40403")
	allow = func(_ registry.Operation, subject string) bool { return subject != "t" }
	s.want("GET", "/subjects/s/versions/1/referencedby", "", 200, `[]`)
}

// TestOpenAPI: every path of the description answers, with its method and with
// what it says of itself.
func TestOpenAPI(t *testing.T) {
	s := serve(t)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Summary    string
			Parameters []struct{ Name, In, Description string }
			Responses  map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	raw := s.has("GET", "/openapi.json", "", 200, `"openapi":"3.1.0"`)
	if err := json.Unmarshal([]byte(raw), &doc); err != nil {
		t.Fatal(err)
	}
	for _, ref := range strings.Split(raw, `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(ref, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("nothing describes %q", name)
		}
	}
	values := strings.NewReplacer("{id}", "1", "{guid}", "g", "{subject}", "s", "{version}", "1", "{context}", ".c", "{resource}", "r", "{namespace}", "-", "{name}", "n")
	n := 0
	for path, operations := range doc.Paths {
		for method, op := range operations {
			n++
			if op.Summary == "" || len(op.Responses) < 2 {
				t.Errorf("%s %s is not described", method, path)
			}
			for _, p := range op.Parameters {
				if p.Description == "" {
					t.Errorf("%s %s: parameter %q is not described", method, path, p.Name)
				}
			}
			_, body := s.do(strings.ToUpper(method), values.Replace(path), "{}")
			if strings.Contains(body, `"error_code":404,`) || strings.Contains(body, `"error_code":405,`) {
				t.Errorf("%s %s does not answer: %s", method, path, body)
			}
		}
	}
	if n < 50 {
		t.Errorf("%d operations are described, want all", n)
	}
}

// TestPaths: clients come by paths in many spellings.
func TestPaths(t *testing.T) {
	s := serve(t)
	s.has("POST", "//subjects///s/versions/", quoted("+a"), 200)
	s.has("GET", "/subjects/", "", 200, `["s"]`)
	s.has("GET", "//contexts//.//subjects/s/versions/1/", "", 200, `"version":1`)
	s.has("POST", "/subjects/a%2F%2Fb%2F/versions", quoted("+b"), 200, `"subject":"a//b/"`)
	s.has("GET", "/subjects/a%2F%2Fb%2F/versions/", "", 200, `[1]`)
	s.has("POST", "/subjects/%3A.c%3As/versions", quoted("+c"), 200, `"subject":":.c:s"`)
	s.has("GET", "/contexts/.c/subjects/:.c:s/versions", "", 200, `[1]`)
	s.want("GET", "/contexts/.c", "", 405, "405")
	s.want("GET", "/contexts/.c/nowhere", "", 404, "404")
	s.want("GET", "/v1/metadata/version", "", 200, `{"version":"dev","commitId":""}`)
	s.want("GET", "/v1/metadata/deployment", "", 200, `{"attributes":[]}`)
}

// TestPattern: who stands before the handler learns the route, however the path
// was spelled.
func TestPattern(t *testing.T) {
	h := registry.Handler(fresh(t), registry.HandlerOptions{})
	for path, want := range map[string]string{
		"/schemas/ids/1": "GET /schemas/ids/{id}", "//schemas///ids/1/": "GET /schemas/ids/{id}",
		"/contexts/.c/subjects": "GET /subjects", "//contexts//.c//subjects/": "GET /subjects", "/nowhere": "",
	} {
		req := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		h.ServeHTTP(httptest.NewRecorder(), req)
		if req.Pattern != want {
			t.Errorf("%s: pattern %q, want %q", path, req.Pattern, want)
		}
	}
}

// FuzzBodies sends anything to every route that takes a body: the answer is
// JSON, and an error has a code, which is not that of the unforeseen.
func FuzzBodies(f *testing.F) {
	routes := []string{
		"POST /subjects/s/versions", "POST /subjects/s", "POST /compatibility/subjects/s/versions?verbose=true",
		"PUT /config/s", "PUT /mode/s", "POST /subjects/s/versions/1/tags", "POST /associations",
		"PUT /associations/resources/r", "POST /associations:batchGet", "POST /associations:batchMutate",
	}
	for i, body := range []string{
		quoted("+a"), with("@x", `"references":[{"name":"x","subject":"s","version":-1}],"metadata":{"tags":{"a":["b"]}}`),
		with("+b", `"ruleSet":{"domainRules":[{"name":"r","type":"T"}]}`), `{"compatibility":"NONE","alias":null,"defaultMetadata":{}}`,
		`{"mode":"READONLY"}`, `{"tagsToAdd":[{"schemaEntity":{"entityPath":"a"},"tags":["b"]}]}`, associate("r", "s", "STRONG"), frozen,
		`{"requests":[{"resourceId":"id-r"}]}`, `{"requests":[` + frozen + `]}`,
	} {
		f.Add(uint8(i), body)
		f.Add(uint8(0), body)
	}
	f.Fuzz(func(t *testing.T, route uint8, body string) {
		h := registry.Handler(fresh(t), registry.HandlerOptions{})
		send := func(request, body string) {
			method, path, _ := strings.Cut(request, " ")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
			var reply any
			if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil {
				t.Fatalf("%s with %q: %d, no JSON: %v", request, body, w.Code, err)
			}
			if e, ok := reply.(map[string]any); w.Code >= 400 && (!ok || e["error_code"] == nil) || w.Code == 500 {
				t.Fatalf("%s with %q: %d %s", request, body, w.Code, w.Body)
			}
		}
		send(routes[0], quoted("+a"))
		for range 2 {
			send(routes[int(route)%len(routes)], body)
		}
		send("GET /schemas?aliases=true&deleted=true", "")
		send("GET /config/s?defaultToGlobal=true", "")
	})
}
