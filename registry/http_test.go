package registry_test

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
)

// session is a client's conversation with a registry of its own.
type session struct {
	*testing.T
	server *httptest.Server
	accept string
}

func serve(t *testing.T) *session {
	server := httptest.NewServer(registry.Handler(fresh(t), registry.HandlerOptions{}))
	t.Cleanup(server.Close)
	return &session{T: t, server: server}
}

func (s *session) do(method, path, body string) (*http.Response, string) {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, s.server.URL+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	if s.accept != "" {
		req.Header.Set("Accept", s.accept)
	}
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	resp, err := s.server.Client().Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return resp, string(raw)
}

// want asks, and compares status and body with what is expected. A body that
// starts with a code stands for an error of that code.
func (s *session) want(method, path, body string, status int, want string) {
	s.Helper()
	resp, got := s.do(method, path, body)
	if resp.StatusCode != status {
		s.Errorf("%s %s: status %d, want %d; body %s", method, path, resp.StatusCode, status, got)
		return
	}
	if status >= 400 {
		s.wantError(method+" "+path, got, want)
		return
	}
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		s.Errorf("%s %s: %v in %s", method, path, err, got)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		s.Fatalf("%s: %v", want, err)
	}
	if m, ok := g.(map[string]any); ok && m["guid"] != nil {
		delete(m, "guid") // TestGUID has those
	}
	if diff := cmp.Diff(w, g); diff != "" {
		s.Errorf("%s %s (-want +got):\n%s", method, path, diff)
	}
}

// wantError checks that an error has exactly the two members, and that the
// message has the words after the code.
func (s *session) wantError(what, got, want string) {
	s.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(got), &fields); err != nil {
		s.Errorf("%s: %v in %s", what, err, got)
		return
	}
	code, words, _ := strings.Cut(want, " ")
	message, _ := fields["message"].(string)
	number, _ := json.Marshal(fields["error_code"])
	if len(fields) != 2 || string(number) != code || !strings.Contains(message, words) {
		s.Errorf("%s: got %s, want error_code %s, a message with %q, and nothing else", what, got, code, words)
	}
}

// quoted is a request to register or look up a text.
func quoted(words string) string {
	b, _ := json.Marshal(fake(words))
	return string(b)
}

// version is a version as the API writes it.
func version(subject string, number, id int, words string) string {
	b, _ := json.Marshal(map[string]any{
		"subject": subject, "version": number, "id": id, "schemaType": "AVRO",
		"schema": text(words), "ts": clock.UnixMilli(), "deleted": false,
	})
	return string(b)
}

func TestRoutes(t *testing.T) {
	s := serve(t)
	s.want("GET", "/", "", 200, `{}`)
	s.want("POST", "/", "", 200, `{}`)
	s.want("GET", "/livez", "", 200, `{}`)
	s.want("GET", "/readyz", "", 200, `{}`)
	s.want("GET", "/schemas/types", "", 200, `["AVRO","JSON","PROTOBUF"]`)
	s.want("GET", "/subjects", "", 200, `[]`)
	s.want("GET", "/contexts", "", 200, `["."]`)
	s.want("GET", "/v1/metadata/id", "", 200, `{"id":"","scope":{"path":[],"clusters":{"kafka-cluster":"penstock","schema-registry-cluster":"schema-registry"}}}`)

	s.want("POST", "/subjects/flights/versions", quoted("+a +b"), 200, version("flights", 1, 1, "+a +b"))
	s.want("POST", "/subjects/flights/versions", quoted("+a +b"), 200, version("flights", 1, 1, "+a +b"))
	s.want("POST", "/subjects/flights/versions", quoted("-a +a"), 200, version("flights", 2, 2, "-a +a"))
	s.want("POST", "/subjects/other/versions", quoted("-a +a"), 200, version("other", 1, 2, "-a +a"))
	s.want("POST", "/subjects/flights/versions", quoted("-c"), 409, "40901 {errorType:'MISSING', description:'c is missing', additionalInfo:'c'}, {oldSchemaVersion: 2}, {oldSchema: '"+text("-a +a")+"'}, {validateFields: 'false', compatibility: 'BACKWARD'}]")
	s.want("POST", "/subjects/flights/versions?force=True", quoted("-c"), 200, version("flights", 3, 3, "-c"))
	s.want("POST", "/subjects/flights/versions", `{"schema":"nonsense"}`, 422, "42201 expected an object")
	s.want("POST", "/subjects/flights/versions", `{"schema":"{}","schemaType":"XML"}`, 422, "42201 XML")
	s.want("POST", "/subjects/flights/versions", `{"schema":"{}","id":7}`, 422, "42205 import mode")
	s.want("POST", "/subjects/flights/versions", `{"schema":{}}`, 400, `400 at "/schema" expected a string, found a JSON object`)
	s.want("POST", "/subjects/flights/versions", `{"schema"`, 400, "400 not JSON: at byte 9")
	s.want("POST", "/subjects/a%01b/versions", quoted(""), 422, "42208 control characters")
	s.want("POST", "/subjects/__GLOBAL/versions", quoted(""), 422, "42208 reserved")

	s.want("GET", "/subjects", "", 200, `["flights","other"]`)
	s.want("GET", "/subjects?subjectPrefix=fl&unknown=1", "", 200, `["flights"]`)
	s.want("GET", "/subjects?offset=1&limit=-1", "", 200, `["other"]`)
	s.want("GET", "/subjects?limit=1", "", 200, `["flights"]`)
	s.want("GET", "/subjects?offset=1&limit=0", "", 200, `["other"]`)
	s.want("GET", "/subjects/flights/versions", "", 200, `[1,2,3]`)
	s.want("GET", "/subjects/none/versions", "", 404, "40401 Subject 'none' not found.")
	s.want("GET", "/subjects/flights/versions/1", "", 200, version("flights", 1, 1, "+a +b"))
	s.want("GET", "/subjects/flights/versions/latest", "", 200, version("flights", 3, 3, "-c"))
	s.want("GET", "/subjects/flights/versions/LATEST", "", 200, version("flights", 3, 3, "-c"))
	s.want("GET", "/subjects/flights/versions/-1", "", 200, version("flights", 3, 3, "-c"))
	s.want("GET", "/subjects/flights/versions/9", "", 404, "40402 Version 9 not found.")
	s.want("GET", "/subjects/none/versions/1", "", 404, "40401 ")
	for _, bad := range []string{"0", "-2", "x", "2147483648"} {
		s.want("GET", "/subjects/flights/versions/"+bad, "", 422, "42202 '"+bad+"' is not a valid version id")
	}
	s.want("GET", "/subjects/flights/versions/1/schema", "", 200, text("+a +b"))
	s.want("GET", "/schemas/ids/1", "", 200, `{"schemaType":"AVRO","deleted":false,"schema":`+quote(text("+a +b"))+`}`)
	s.want("GET", "/schemas/ids/1?fetchMaxId=true", "", 200, `{"maxId":3,"schemaType":"AVRO","deleted":false,"schema":`+quote(text("+a +b"))+`}`)
	s.want("GET", "/schemas/ids/1/schema", "", 200, text("+a +b"))
	s.want("GET", "/schemas/ids/2/subjects", "", 200, `["flights","other"]`)
	s.want("GET", "/schemas/ids/2/versions", "", 200, `[{"subject":"flights","version":2},{"subject":"other","version":1}]`)
	s.want("GET", "/schemas/ids/99", "", 404, "40403 Schema 99 not found")
	s.want("GET", "/schemas/ids/99/subjects", "", 404, "40403 ")
	s.want("GET", "/schemas/ids/x", "", 404, "404 ")
	s.want("GET", "/schemas?latestOnly=true&subjectPrefix=oth", "", 200, "["+strings.TrimSuffix(version("other", 1, 2, "-a +a"), "}")+`,"guid":"`+guidOf(t, s, 2)+`"}]`)
	s.want("GET", "/schemas/guids/"+guidOf(t, s, 1), "", 200, `{"schemaType":"AVRO","deleted":false,"schema":`+quote(text("+a +b"))+`}`)
	s.want("GET", "/schemas/guids/"+guidOf(t, s, 1)+"/ids", "", 200, `[{"context":".","id":1}]`)
	s.want("GET", "/schemas/guids/nothing", "", 404, "40403 ")

	s.want("POST", "/subjects/flights", quoted("-a +a"), 200, version("flights", 2, 2, "-a +a"))
	s.want("POST", "/subjects/flights?normalize=True&deleted=False", `{"schema":"{ \"needs\" : [\"a\"], \"has\":[\"a\"]}"}`, 200, version("flights", 2, 2, "-a +a"))
	s.want("POST", "/subjects/flights", quoted("-z"), 404, "40403 Schema not found")
	s.want("POST", "/subjects/none", quoted("-z"), 404, "40401 ")
	s.want("POST", "/subjects/flights", `{"schema":"nonsense"}`, 422, "42201 ")
}

func quote(s string) string { return string(mustJSON(s)) }

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func guidOf(t *testing.T, s *session, id int) string {
	t.Helper()
	_, body := s.do("GET", "/schemas/ids/"+string(mustJSON(id)), "")
	var reply struct{ GUID string }
	if err := json.Unmarshal([]byte(body), &reply); err != nil || len(reply.GUID) != 36 {
		t.Fatalf("no guid in %s", body)
	}
	return reply.GUID
}

func TestCompatibilityRoutes(t *testing.T) {
	s := serve(t)
	s.want("POST", "/compatibility/subjects/new/versions/latest", quoted("-a"), 200, `{"is_compatible":true}`)
	s.want("POST", "/compatibility/subjects/new/versions/1", quoted("-a"), 404, "40402 ")
	s.want("POST", "/compatibility/subjects/new/versions", quoted("-a"), 200, `{"is_compatible":true}`)
	s.do("POST", "/subjects/s/versions", quoted("+a"))
	s.do("POST", "/subjects/s/versions", quoted("+b"))
	s.want("POST", "/compatibility/subjects/s/versions/latest", quoted("-b"), 200, `{"is_compatible":true}`)
	s.want("POST", "/compatibility/subjects/s/versions/1", quoted("-b"), 200, `{"is_compatible":false}`)
	s.want("POST", "/compatibility/subjects/s/versions/latest", quoted("-a"), 200, `{"is_compatible":false}`)
	s.want("POST", "/compatibility/subjects/s/versions", quoted("-b"), 200, `{"is_compatible":true}`)
	s.want("PUT", "/config/s", `{"compatibility":"full_transitive"}`, 200, `{"compatibility":"FULL_TRANSITIVE"}`)
	s.want("POST", "/compatibility/subjects/s/versions?verbose=True", quoted("-b -c"), 200, `{"is_compatible":false,"messages":[
		"{errorType:'MISSING', description:'c is missing', additionalInfo:'c'}",
		"{oldSchemaVersion: 2}", "{oldSchema: '{\"has\":[\"b\"]}'}", "{validateFields: 'false', compatibility: 'FULL_TRANSITIVE'}"]}`)
	s.want("POST", "/compatibility/subjects/s/versions/latest?verbose=true", `{"schema":"nonsense"}`, 200, `{"is_compatible":false,"messages":["Invalid schema of type AVRO: expected an object"]}`)
	s.want("POST", "/compatibility/subjects/s/versions/latest", `{"schema":"nonsense"}`, 422, "42201 ")
	s.want("POST", "/compatibility/subjects/s/versions/latest?verbose=true", `{"schema":"{}","schemaType":"JSON"}`, 200, `{"is_compatible":false,"messages":[
		"the new schema is JSON, but version 2 is AVRO: a subject keeps one schema language", "{validateFields: 'false', compatibility: 'FULL_TRANSITIVE'}"]}`)

	s.accept = registry.FindingsMediaType
	s.want("POST", "/compatibility/subjects/s/versions", quoted("-b -c"), 200, `{"is_compatible":false,"findings":[
		{"rule":"MISSING","severity":"ERR","direction":"BACKWARD","readerPath":"/c","writerPath":"/","message":"c is missing","readerAt":{"line":1,"column":15},"writerAt":{"line":1,"column":1},"detail":"c","fix":"do not need c","version":2},
		{"rule":"MISSING","severity":"ERR","direction":"BACKWARD","readerPath":"/b","writerPath":"/","message":"b is missing","readerAt":{"line":1,"column":11},"writerAt":{"line":1,"column":1},"detail":"b","fix":"do not need b","version":1},
		{"rule":"MISSING","severity":"ERR","direction":"BACKWARD","readerPath":"/c","writerPath":"/","message":"c is missing","readerAt":{"line":1,"column":15},"writerAt":{"line":1,"column":1},"detail":"c","fix":"do not need c","version":1}]}`)
	resp, body := s.do("POST", "/subjects/s/versions", quoted("-c"))
	var refusal struct {
		Code     int `json:"error_code"`
		Findings []registry.Finding
	}
	if err := json.Unmarshal([]byte(body), &refusal); err != nil || resp.StatusCode != 409 || refusal.Code != 40901 || len(refusal.Findings) != 2 {
		t.Errorf("register: %d %s, want 409 with two findings", resp.StatusCode, body)
	}
	if got := resp.Header.Get("Content-Type"); got != registry.FindingsMediaType {
		t.Errorf("content type %q, want %q", got, registry.FindingsMediaType)
	}
}

// TestLanguageWithoutRules: what cannot be checked is refused, not let pass.
func TestLanguageWithoutRules(t *testing.T) {
	s := serve(t)
	json := func(words string) string {
		r := fake(words)
		r.SchemaType = "JSON"
		return string(mustJSON(r))
	}
	s.do("POST", "/subjects/j/versions", json("+a"))
	resp, body := s.do("POST", "/subjects/j/versions", json("+a"))
	if resp.StatusCode != 200 {
		t.Errorf("the same schema again: %d %s", resp.StatusCode, body)
	}
	s.want("POST", "/compatibility/subjects/j/versions/latest", json("+a"), 200, `{"is_compatible":true}`)
	s.want("POST", "/compatibility/subjects/j/versions/latest", json("+a +b"), 422, "42201 no compatibility rules for JSON yet")
	s.want("POST", "/subjects/j/versions", json("+a +b"), 422, "42201 set the subject's level to NONE")
	s.want("PUT", "/config/j", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	if resp, body := s.do("POST", "/subjects/j/versions", json("+a +b")); resp.StatusCode != 200 {
		t.Errorf("under level NONE: %d %s", resp.StatusCode, body)
	}
}

func TestDeleteRoutes(t *testing.T) {
	s := serve(t)
	s.do("PUT", "/config", `{"compatibility":"NONE"}`)
	for _, words := range []string{"+a", "+b", "+c"} {
		s.do("POST", "/subjects/s/versions", quoted(words))
	}
	s.want("DELETE", "/subjects/none", "", 404, "40401 ")
	s.want("DELETE", "/subjects/none/versions/1", "", 404, "40401 ")
	s.want("DELETE", "/subjects/s/versions/9", "", 404, "40402 ")
	s.want("DELETE", "/subjects/s/versions/0", "", 422, "42202 ")
	s.want("DELETE", "/subjects/s/versions/1?permanent=true", "", 404, "40407 ")
	s.want("DELETE", "/subjects/s/versions/1", "", 200, `1`)
	s.want("DELETE", "/subjects/s/versions/1", "", 404, "40406 ")
	s.want("GET", "/subjects/s/versions", "", 200, `[2,3]`)
	s.want("GET", "/subjects/s/versions?deleted=TRUE", "", 200, `[1,2,3]`)
	s.want("GET", "/subjects/s/versions?deletedOnly=true", "", 200, `[1]`)
	s.want("GET", "/subjects/s/versions/1", "", 404, "40402 ")
	s.want("GET", "/subjects/s/versions/1?deleted=true", "", 200, strings.Replace(version("s", 1, 1, "+a"), `"deleted":false`, `"deleted":true`, 1))
	s.want("GET", "/schemas/ids/1/schema", "", 200, text("+a"))
	s.want("GET", "/schemas/ids/1/subjects", "", 200, `[]`)
	s.want("GET", "/schemas/ids/1/subjects?deleted=true", "", 200, `["s"]`)
	s.want("POST", "/subjects/s", quoted("+a"), 404, "40403 ")
	s.want("POST", "/subjects/s?deleted=true", quoted("+a"), 200, strings.Replace(version("s", 1, 1, "+a"), `"deleted":false`, `"deleted":true`, 1))
	s.want("DELETE", "/subjects/s/versions/latest", "", 200, `3`)
	s.want("DELETE", "/subjects/s/versions/1?permanent=true", "", 200, `1`)
	s.want("GET", "/schemas/ids/1", "", 404, "40403 ")

	// The same schema again: the id it had, a new version, and the deleted
	// version is gone.
	s.want("POST", "/subjects/s/versions", quoted("+c"), 200, version("s", 4, 3, "+c"))
	s.want("GET", "/subjects/s/versions?deleted=true", "", 200, `[2,4]`)

	s.do("PUT", "/config/s", `{"compatibility":"FULL"}`)
	s.do("PUT", "/mode/s", `{"mode":"READWRITE"}`)
	s.want("DELETE", "/subjects/s?permanent=true", "", 404, "40405 ")
	s.want("DELETE", "/subjects/s", "", 200, `[2,4]`)
	s.want("DELETE", "/subjects/s", "", 404, "40404 ")
	s.want("GET", "/subjects", "", 200, `[]`)
	s.want("GET", "/subjects?deleted=true", "", 200, `["s"]`)
	s.want("GET", "/subjects?deletedOnly=true", "", 200, `["s"]`)
	s.want("GET", "/config/s", "", 200, `{"compatibilityLevel":"FULL"}`)
	s.want("DELETE", "/subjects/s?permanent=true", "", 200, `[2,4]`)
	s.want("GET", "/config/s", "", 404, "40408 ")
	s.want("GET", "/mode/s", "", 404, "40409 ")

	// Ids are never given again.
	s.want("POST", "/subjects/s/versions", quoted("+d"), 200, version("s", 1, 4, "+d"))
}

func TestReferenceRoutes(t *testing.T) {
	s := serve(t)
	s.do("POST", "/subjects/base/versions", quoted("+a"))
	using := func(words, name, subject string, number int) string {
		return string(mustJSON(fake(words, registry.Reference{Name: name, Subject: subject, Version: number})))
	}
	s.want("POST", "/subjects/user/versions", quoted("@b"), 422, `42201 unknown name "b"`)
	s.want("POST", "/subjects/user/versions", using("@b", "b", "none", 1), 422, "42201 no schema reference found for subject 'none' and version 1")
	s.want("POST", "/subjects/user/versions", using("@b", "b", "base", 2), 422, "42201 no schema reference found for subject 'base' and version 2")
	resp, body := s.do("POST", "/subjects/user/versions", using("@b", "b", "base", -1))
	if resp.StatusCode != 200 || !strings.Contains(body, `"references":[{"name":"b","subject":"base","version":1}]`) {
		t.Fatalf("register with a reference to the latest: %d %s", resp.StatusCode, body)
	}
	// A schema that builds on one that builds on another sees both.
	if resp, body := s.do("POST", "/subjects/user2/versions", using("@b @u", "u", "user", 1)); resp.StatusCode != 200 {
		t.Fatalf("register with a reference over two steps: %d %s", resp.StatusCode, body)
	}
	s.want("GET", "/subjects/base/versions/1/referencedby", "", 200, `[2]`)
	s.want("GET", "/subjects/user2/versions/1/referencedby", "", 200, `[]`)
	s.want("GET", "/subjects/base/versions/7/referencedby", "", 404, "40402 ")
	s.want("DELETE", "/subjects/base/versions/1", "", 422, "42206 version 1 of 'user' refers to it")
	s.want("DELETE", "/subjects/base", "", 422, "42206 ")
	s.want("DELETE", "/subjects/user2", "", 200, `[1]`)
	s.want("DELETE", "/subjects/user", "", 200, `[1]`)
	s.want("GET", "/subjects/base/versions/1/referencedby", "", 200, `[]`)
	s.want("GET", "/subjects/base/versions/1/referencedby?deleted=true", "", 200, `[2]`)
	s.want("DELETE", "/subjects/base", "", 200, `[1]`)
	s.want("DELETE", "/subjects/base?permanent=true", "", 422, "42206 soft deleted version 1 of 'user'")
	s.want("DELETE", "/subjects/user2?permanent=true", "", 200, `[1]`)
	s.want("DELETE", "/subjects/user?permanent=true", "", 200, `[1]`)
	s.want("DELETE", "/subjects/base?permanent=true", "", 200, `[1]`)
}

func TestConfigAndModeRoutes(t *testing.T) {
	s := serve(t)
	s.want("GET", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`)
	s.want("GET", "/config/s", "", 404, "40408 ")
	s.want("GET", "/config/s?defaultToGlobal=True", "", 200, `{"compatibilityLevel":"BACKWARD"}`)
	s.want("PUT", "/config", `{"compatibility":"FORWARD"}`, 200, `{"compatibility":"FORWARD"}`)
	s.want("GET", "/config/s?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"FORWARD"}`)
	s.want("PUT", "/config/s", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	s.want("PUT", "/config/s", `{"compatibility":"SIDEWAYS"}`, 422, `42203 "SIDEWAYS"`)
	s.want("GET", "/config/s", "", 200, `{"compatibilityLevel":"NONE"}`)
	s.want("DELETE", "/config/s", "", 200, `{"compatibilityLevel":"NONE"}`)
	s.want("DELETE", "/config/s", "", 404, "40401 ")
	s.want("DELETE", "/config", "", 200, `{"compatibilityLevel":"FORWARD"}`)
	s.want("GET", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`)

	s.want("GET", "/mode", "", 200, `{"mode":"READWRITE"}`)
	s.want("GET", "/mode/s", "", 404, "40409 ")
	s.want("PUT", "/mode/s", `{"mode":"SOMETIMES"}`, 422, "42204 ")
	s.want("PUT", "/mode/s", `{"mode":"readonly"}`, 200, `{"mode":"READONLY"}`)
	s.want("POST", "/subjects/s/versions", quoted("+a"), 422, "42205 read-only")
	s.want("DELETE", "/subjects/s", "", 422, "42205 read-only")
	s.want("PUT", "/config/s", `{"compatibility":"NONE"}`, 422, "42205 read-only")
	s.want("DELETE", "/mode/s", "", 200, `{"mode":"READONLY"}`)
	s.want("DELETE", "/mode/s", "", 404, "40401 ")

	s.want("POST", "/subjects/s/versions", quoted("+a"), 200, version("s", 1, 1, "+a"))
	s.want("PUT", "/mode/s", `{"mode":"IMPORT"}`, 422, "42205 existing subjects: 's'")
	s.want("PUT", "/mode", `{"mode":"IMPORT"}`, 422, "42205 ")
	s.want("PUT", "/mode/i", `{"mode":"IMPORT"}`, 200, `{"mode":"IMPORT"}`)
	s.want("POST", "/subjects/i/versions", `{"schema":"{}","id":1}`, 422, "42205 Overwrite new schema with id 1 is not permitted")
	s.want("POST", "/subjects/i/versions", `{"schema":`+quote(text("-x"))+`,"id":40,"version":5}`, 200, version("i", 5, 40, "-x"))
	s.want("POST", "/subjects/i/versions", `{"schema":`+quote(text("-y"))+`,"id":39,"version":2}`, 200, version("i", 2, 39, "-y"))
	s.want("POST", "/subjects/i/versions", `{"schema":`+quote(text("-y"))+`,"id":77}`, 422, "42207 id 39 instead of input id 77")
	s.want("POST", "/subjects/i/versions", `{"schema":`+quote(text("-z"))+`,"id":50,"version":2}`, 422, "42205 ")
	s.want("GET", "/subjects/i/versions", "", 200, `[2,5]`)
	s.want("POST", "/subjects/s/versions", quoted("+n"), 200, version("s", 2, 41, "+n"))
}

func TestContextRoutes(t *testing.T) {
	s := serve(t)
	s.want("POST", "/subjects/s/versions", quoted("+a"), 200, version("s", 1, 1, "+a"))
	s.want("POST", "/subjects/s/versions", quoted("+b"), 200, version("s", 2, 2, "+b"))
	s.want("POST", "/contexts/.c/subjects/s/versions", quoted("+b"), 200, version(":.c:s", 1, 1, "+b"))
	s.want("POST", "/subjects/:.c:s/versions", quoted("+b"), 200, version(":.c:s", 1, 1, "+b"))
	s.want("GET", "/contexts", "", 200, `[".",".c"]`)
	s.want("GET", "/contexts/.c/subjects", "", 200, `[":.c:s"]`)
	s.want("GET", "/subjects?subjectPrefix=:.c:", "", 200, `[":.c:s"]`)
	s.want("GET", "/contexts/.c/schemas/ids/1/schema", "", 200, text("+b"))
	s.want("GET", "/schemas/ids/1/schema?subject=:.c:", "", 200, text("+b"))
	s.want("GET", "/schemas/ids/1/schema", "", 200, text("+a"))
	s.want("PUT", "/contexts/.c/config", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	s.want("GET", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`)
	s.want("GET", "/contexts/.c/config/s?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"NONE"}`)
}

func TestSubjectNames(t *testing.T) {
	s := serve(t)
	for i, name := range []string{"a/b", "a//b", "with space", "ü%", "..", "x?y#z", "a:b"} {
		path := "/subjects/" + url.PathEscape(name)
		words := "+" + string(rune('a'+i))
		if name == ".." {
			path = "/subjects/%2E%2E"
		}
		s.want("POST", path+"/versions", quoted(words), 200, version(name, 1, i+1, words))
		s.want("GET", path+"/versions/1", "", 200, version(name, 1, i+1, words))
	}
	// A record could not hold the name as it is.
	s.want("POST", "/subjects/caf%C3/versions", quoted("+x"), 422, "42208 not UTF-8")
	s.want("PUT", "/config/:.caf%C3:", `{"compatibility":"NONE"}`, 422, "42208 not UTF-8")
	s.want("PUT", "/mode/caf%C3", `{"mode":"READONLY"}`, 422, "42208 not UTF-8")
	s.want("POST", "/associations?context=caf%C3", associate("r", "s", ""), 422, "42208 not UTF-8")
}

func TestHTTPManners(t *testing.T) {
	s := serve(t)
	s.do("POST", "/subjects/s/versions", quoted("+a"))
	s.want("GET", "/nowhere", "", 404, "404 Not Found")
	s.want("PATCH", "/subjects", "", 405, "405 Not Allowed")
	resp, _ := s.do("PATCH", "/subjects/s", "")
	if got := resp.Header.Get("Allow"); got != "DELETE, POST, OPTIONS" {
		t.Errorf("Allow is %q", got)
	}
	resp, _ = s.do("OPTIONS", "/subjects/s/versions", "")
	if got := resp.Header.Get("Allow"); resp.StatusCode != 200 || got != "GET, HEAD, POST, OPTIONS" {
		t.Errorf("OPTIONS: %d, Allow %q", resp.StatusCode, got)
	}
	resp, body := s.do("HEAD", "/subjects/s/versions/1", "")
	if resp.StatusCode != 200 || body != "" || resp.ContentLength < 100 {
		t.Errorf("HEAD: %d, %q, length %d", resp.StatusCode, body, resp.ContentLength)
	}
	for accept, want := range map[string]string{
		"":                 "application/vnd.schemaregistry.v1+json",
		"*/*":              "application/vnd.schemaregistry.v1+json",
		"application/*":    "application/vnd.schemaregistry.v1+json",
		"application/json": "application/json",
		"application/vnd.schemaregistry+json; q=1":  "application/vnd.schemaregistry+json",
		"text/html, application/json;q=0.5":         "application/json",
		"application/vnd.penstock.findings+json":    "application/vnd.penstock.findings+json",
		"application/vnd.schemaregistry.v1+json, *": "application/vnd.schemaregistry.v1+json",

		"application/json; q=0.1, application/vnd.schemaregistry+json": "application/vnd.schemaregistry+json",
		"application/json; q=0, application/vnd.schemaregistry+json":   "application/vnd.schemaregistry+json",
	} {
		s.accept = accept
		resp, _ := s.do("GET", "/subjects", "")
		if got := resp.Header.Get("Content-Type"); got != want {
			t.Errorf("Accept %q: Content-Type %q, want %q", accept, got, want)
		}
	}
	for _, accept := range []string{"text/html", "application/vnd.schemaregistry.v2+json", "application/octet-stream, text/*"} {
		s.accept = accept
		s.want("GET", "/subjects", "", 406, "406 HTTP 406 Not Acceptable")
		s.want("GET", "/livez", "", 200, "{}")
	}
	s.accept = ""

	post := func(contentType, body string) (int, string) {
		resp, err := s.server.Client().Post(s.server.URL+"/subjects/s/versions", contentType, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(raw)
	}
	for _, ok := range []string{"application/json", "application/json; charset=utf-8", "application/octet-stream", "application/vnd.schemaregistry+json"} {
		if status, body := post(ok, quoted("+a")); status != 200 {
			t.Errorf("body of type %q: %d %s", ok, status, body)
		}
	}
	for _, order := range []binary.AppendByteOrder{binary.BigEndian, binary.LittleEndian} {
		for _, mark := range []string{"", "\ufeff"} {
			var body []byte
			for _, unit := range utf16.Encode([]rune(mark + quoted("+größe𝄞"))) {
				body = order.AppendUint16(body, unit)
			}
			if status, reply := post("application/json; charset=utf-16", string(body)); status != 200 || !strings.Contains(reply, "größe𝄞") {
				t.Errorf("a body in UTF-16, %v, mark %q: %d %s", order, mark, status, reply)
			}
		}
	}
	if status, body := post("application/json", quoted("+a")+`"`); status != 200 {
		t.Errorf("a body with something after it: %d %s", status, body)
	}
	for _, path := range []string{"/subjects/s/versions", "/subjects/s", "/compatibility/subjects/s/versions"} {
		s.want("POST", path, " null ", 400, "400 The body is null")
	}
	if status, _ := post("text/plain", quoted("+a")); status != 415 {
		t.Errorf("body of type text/plain: %d, want 415", status)
	}
	big := strings.Repeat("x", registry.DefaultMaxSchemaBytes+1)
	if status, body := post("application/json", `{"schema":"`+big+`"}`); status != 422 || !strings.Contains(body, "42209") {
		t.Errorf("a schema above the limit: %d %.100s", status, body)
	}
	if status, body := post("application/json", `{"schema":"`+strings.Repeat(big, 8)+`"}`); status != 422 || !strings.Contains(body, "42209") {
		t.Errorf("a body above the limit: %d %.100s", status, body)
	}
}

// TestLatestIsLive: latest is never a version that was softly deleted, whoever
// asks; a permanent delete of it would take away what nobody named.
func TestLatestIsLive(t *testing.T) {
	s := serve(t)
	for _, words := range []string{"+a", "+a +b"} {
		s.has("POST", "/subjects/s/versions", quoted(words), 200)
	}
	s.want("DELETE", "/subjects/s/versions/latest", "", 200, "2")
	s.has("GET", "/subjects/s/versions/latest?deleted=true", "", 200, `"version":1`)
	s.want("DELETE", "/subjects/s/versions/latest?permanent=true", "", 404, "40407 Version 1 was not deleted first")
	s.want("DELETE", "/subjects/s/versions/latest", "", 200, "1")
	s.want("DELETE", "/subjects/s/versions/latest?permanent=true", "", 404, "40402 Version latest not found.")
	s.want("GET", "/subjects/s/versions/latest?deleted=true", "", 404, "40402")
	s.want("GET", "/subjects/s/versions/latest", "", 404, "40401")
	s.has("GET", "/subjects/s/versions/2?deleted=true", "", 200, `"version":2`)
}
