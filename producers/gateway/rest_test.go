package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/access"
	"penstock/producers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream/memory"
)

// rest is a gateway as its users set it up, over a broker in memory.
func rest(t *testing.T, cfg Config) (*Gateway, *memory.Broker) {
	t.Helper()
	b := broker(t)
	cfg.Lookup = lookup
	cfg.Formats = []schemas.Format{avro.Format{}}
	return open(t, producers.New(b, registry{}, producers.Config{}), cfg), b
}

// lines describes what was published.
func lines(t *testing.T, b *memory.Broker) (out []string) {
	t.Helper()
	for _, r := range published(t, b) {
		line := fmt.Sprintf("%q %q", r.Key, r.Value)
		for _, h := range r.Headers {
			line += fmt.Sprintf(" %s=%s", h.Key, h.Value)
		}
		out = append(out, line)
	}
	return out
}

const encodedOrder = "\x00\x00\x00\x00\x01\x02a\x00\x00\x00\x00\x00\x00\xf0?" // {"id":"a","amount":1}

func TestV2(t *testing.T) {
	g, b := rest(t, Config{})
	const form = "application/vnd.kafka.%s.v2+json"
	bytes := base64.StdEncoding.EncodeToString([]byte(encodedOrder))
	for _, test := range []struct {
		name, form, body string
		status           int
		answer           string // without what it says of an error
	}{
		{"newest", "json", `{"records":[{"key":"k","value":{"id":"a","amount":1}},{"value":{"id":"a","amount":1}}]}`, 200,
			`{"accepted":2,"offsets":[{"partition":0,"offset":0,"error_code":null,"error":null},{"partition":0,"offset":1,"error_code":null,"error":null}]}`},
		{"by id", "avro", `{"value_schema_id":1,"records":[{"value":{"id":"a","amount":1}}]}`, 200,
			`{"accepted":1,"offsets":[{"partition":0,"offset":2,"error_code":null,"error":null}],"value_schema_id":1}`},
		{"by text, with a key", "avro", `{"key_schema":"\"string\"","value_schema":"\"long\"","records":[{"key":"k","value":7},{"key":"l","value":null}]}`, 200,
			`{"accepted":2,"offsets":[{"partition":0,"offset":3,"error_code":null,"error":null},{"partition":0,"offset":4,"error_code":null,"error":null}],"key_schema_id":2,"value_schema_id":2}`},
		{"bytes", "binary", `{"records":[{"key":"a2V5","value":"` + bytes + `"}]}`, 200,
			`{"accepted":1,"offsets":[{"partition":0,"offset":5,"error_code":null,"error":null}]}`},
		{"bytes of no schema", "binary", `{"records":[{"value":"` + bytes + `"},{"value":"AAAAAAk="}]}`, 422, `{"accepted":0,"error_code":42207}`},
		{"no base64", "binary", `{"records":[{"value":"%"}]}`, 400, `{"accepted":0,"error_code":40002}`},
		{"no base64 in a key", "binary", `{"records":[{"key":7,"value":""}]}`, 400, `{"accepted":0,"error_code":40002}`},
		{"no such schema", "avro", `{"value_schema_id":9,"records":[{"value":1}]}`, 404, `{"accepted":0,"error_code":40403}`},
		{"bad schema", "avro", `{"value_schema":"{","records":[{"value":1}]}`, 422, `{"accepted":0,"error_code":42205}`},
		{"other language", "protobuf", `{"value_schema_id":1,"records":[{"value":{}}]}`, 422, `{"accepted":0,"error_code":42205}`},
		{"other language, twice", "protobuf", `{"value_schema_id":1,"records":[{"value":{}},{"value":{}}]}`, 422, `{"accepted":0,"error_code":42205}`},
		{"both", "avro", `{"value_schema_id":1,"value_schema":"\"int\"","records":[{"value":1}]}`, 400, `{"accepted":0,"error_code":40002}`},
		{"id", "avro", `{"value_schema_id":1.5,"records":[{"value":1}]}`, 400, `{"accepted":0,"error_code":40002}`},
		{"text", "avro", `{"value_schema":{"type":"int"},"records":[{"value":1}]}`, 400, `{"accepted":0,"error_code":40002}`},
		{"misfit", "avro", `{"value_schema_id":1,"records":[{"value":{"id":"a","amount":1}},{"value":{"id":"b","amount":{}}}]}`, 422, `{"accepted":0,"error_code":42207}`},
	} {
		status, a, _ := post(t, g, "/topics/orders", fmt.Sprintf(form, test.form), test.body)
		if (a.Message == "") != (test.status == 200) {
			t.Errorf("%s: message %q", test.name, a.Message)
		}
		a.Message, a.Records = "", nil
		got, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if status != test.status || string(got) != test.answer {
			t.Errorf("%s: %d %s, want %d %s", test.name, status, got, test.status, test.answer)
		}
	}
	want := []string{
		fmt.Sprintf("%q %q", "k", encodedOrder),
		fmt.Sprintf("%q %q", "", encodedOrder),
		fmt.Sprintf("%q %q", "", encodedOrder),
		fmt.Sprintf("%q %q", "\x00\x00\x00\x00\x02\x02k", "\x00\x00\x00\x00\x02\x0e"),
		fmt.Sprintf("%q %q", "\x00\x00\x00\x00\x02\x02l", ""),
		fmt.Sprintf("%q %q", "key", encodedOrder),
	}
	if diff := cmp.Diff(want, lines(t, b)); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
}

func TestRawTopics(t *testing.T) {
	g, b := rest(t, Config{AllowRaw: func(topic string) bool { return topic == "orders" }})
	if status, a, _ := post(t, g, "/topics/orders", "application/vnd.kafka.binary.v2+json", `{"records":[{"value":"AP8="}]}`); status != 200 {
		t.Errorf("%d %+v", status, a)
	}
	for _, d := range deliveries(t, g, `{"value":{"type":"STRING","data":"text"}}{"value":{"type":"JSON","data":{"a":1.0}}}{"value":{"type":"BINARY","data":"AP8="}}`) {
		if d.Code != 200 {
			t.Errorf("%+v", d)
		}
	}
	want := []string{`"" "\x00\xff"`, `"" "\x00\xff"`, `"" "text"`, `"" "{\"a\":1.0}"`}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(lines(t, b)))); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
}

// deliveries sends a stream of records and returns the answers.
func deliveries(t *testing.T, g *Gateway, body string) (out []Delivery) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/v3/clusters/penstock/topics/orders/records", iotest.OneByteReader(strings.NewReader(body)))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for d := json.NewDecoder(w.Body); ; {
		var one Delivery
		if err := d.Decode(&one); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, one)
	}
}

func TestV3(t *testing.T) {
	const order = `"data":{"id":"a","amount":1}`
	for _, test := range []struct {
		name, record string
		code         int
		message      string // or what was published
	}{
		{"newest", `{"value":{` + order + `}}`, 200, fmt.Sprintf("%q %q", "", encodedOrder)},
		{"by type", `{"value":{"type":"AVRO",` + order + `}}`, 200, fmt.Sprintf("%q %q", "", encodedOrder)},
		{"by id", `{"value":{"schema_id":1,` + order + `}}`, 200, fmt.Sprintf("%q %q", "", encodedOrder)},
		{"by version", `{"value":{"subject":"ghosts-value","schema_version":2,` + order + `}}`, 200, fmt.Sprintf("%q %q", "", encodedOrder)},
		{"by text", `{"value":{"type":"AVRO","schema":"\"long\"","data":7}}`, 200, `"" "\x00\x00\x00\x00\x02\x0e"`},
		{"by record name", `{"value":{"type":"AVRO","subject_name_strategy":"RECORD_NAME","schema":"{\"type\":\"enum\",\"name\":\"a.E\",\"symbols\":[\"X\"]}","data":"X"}}`, 200, `"" "\x00\x00\x00\x00\x02\x00"`},
		{"JSON under the schema", `{"value":{"type":"JSON",` + order + `}}`, 200, fmt.Sprintf("%q %q", "", encodedOrder)},
		{"keys and headers", `{"key":{"type":"STRING","data":"k"},"value":{` + order + `},"headers":[{"name":"h","value":"dg=="},{"name":"n"}]}`, 200, fmt.Sprintf("%q %q h=v n=", "k", encodedOrder)},
		{"a key in JSON", `{"key":{"type":"JSON","data":[1,2]},"value":{` + order + `}}`, 200, fmt.Sprintf("%q %q", "[1,2]", encodedOrder)},
		{"a key in bytes", `{"key":{"type":"BINARY","data":"aw=="},"value":null}`, 200, `"k" ""`},
		{"a key of a schema", `{"key":{"type":"AVRO","schema":"\"string\"","data":"k"}}`, 200, `"\x00\x00\x00\x00\x02\x02k" ""`},

		{"misfit", `{"value":{"data":{"id":1,"amount":1}}}`, 42207, "at /id: expected string"},
		{"no record", `[]`, 40002, "a record"},
		{"nothing", `{}`, 40002, "/key: expected a key"},
		{"JSON", `{"a":1,"a":2}`, 40001, "a"},
		{"other members", `{"values":{}}`, 40002, "/values"},
		{"partition", `{"partition_id":1,"value":{` + order + `}}`, 40002, "the key decides it"},
		{"time", `{"timestamp":7,"value":{` + order + `}}`, 40002, "RFC 3339"},
		{"type", `{"value":{"type":"XML",` + order + `}}`, 40002, "/value/type"},
		{"schema of bytes", `{"value":{"type":"BINARY","schema_id":1,"data":""}}`, 40002, "/value/schema_id"},
		{"two schemas", `{"value":{"schema_id":1,"schema_version":1,` + order + `}}`, 40002, "/value/schema_version"},
		{"text of what", `{"value":{"schema":"\"long\"","data":1}}`, 40002, "/value/schema"},
		{"version", `{"value":{"schema_version":0,` + order + `}}`, 40002, "from 1 on"},
		{"no version", `{"value":{"schema_version":9,` + order + `}}`, 40403, "no schema"},
		{"subject twice", `{"value":{"subject":"a","subject_name_strategy":"TOPIC_NAME",` + order + `}}`, 40002, "/value/subject"},
		{"strategy", `{"value":{"subject_name_strategy":"X",` + order + `}}`, 40002, "TOPIC_RECORD_NAME"},
		{"name of what", `{"value":{"subject_name_strategy":"RECORD_NAME",` + order + `}}`, 40002, "given as text"},
		{"bad text", `{"value":{"type":"AVRO","subject_name_strategy":"RECORD_NAME","schema":"{","data":1}}`, 40002, "/value/schema"},
		{"bytes of no schema", `{"value":{"type":"BINARY","data":"AAE="}}`, 42207, "byte 0"},
		{"headers", `{"headers":{},"value":{` + order + `}}`, 40002, "/headers"},
		{"header", `{"headers":[{"name":"h","value":"%"}],"value":{` + order + `}}`, 40002, "/headers/0/value"},
		{"header's name", `{"headers":[{}],"value":{` + order + `}}`, 40002, "/headers/0/name"},
		{"key", `{"key":"k","value":{` + order + `}}`, 40002, "at /key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g, b := rest(t, Config{})
			got := deliveries(t, g, test.record)
			if len(got) != 1 || got[0].Code != test.code {
				t.Fatalf("answers %+v, want %d", got, test.code)
			}
			was := lines(t, b)
			if test.code != 200 {
				if !strings.Contains(got[0].Message, test.message) || len(was) > 0 {
					t.Errorf("%q; published %q", got[0].Message, was)
				}
				return
			}
			if diff := cmp.Diff([]string{test.message}, was); diff != "" {
				t.Error("published (-want +got):\n", diff)
			}
		})
	}
	g, _ := rest(t, Config{})
	at := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	zero, offset := int32(0), int64(0)
	want := []Delivery{{
		Code: 200, Cluster: "penstock", Topic: "orders", Partition: &zero, Offset: &offset, Timestamp: &at,
		Key:   &Encoded{Type: "AVRO", Subject: "orders-key", SchemaID: 2, SchemaVersion: 1},
		Value: &Encoded{Type: "AVRO", Subject: "orders-value", SchemaID: 1, SchemaVersion: 3},
	}}
	got := deliveries(t, g, `{"timestamp":"2026-11-27T10:00:00+01:00","key":{"type":"AVRO","schema":"\"string\"","data":"k"},"value":{`+order+`}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("answer (-want +got):\n", diff)
	}
}

// A stream answers each record in order and while it is open, goes on after one
// that does not fit, and ends at one that is no JSON.
func TestStream(t *testing.T) {
	g, b := rest(t, Config{MaxBodyBytes: 500})
	server := httptest.NewServer(g)
	defer server.Close()
	body, send := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v3/clusters/penstock/topics/orders/records", body)
	if err != nil {
		t.Fatal(err)
	}
	type reply struct {
		resp *http.Response
		err  error
	}
	replies := make(chan reply, 1)
	go func() {
		resp, err := server.Client().Do(req)
		replies <- reply{resp, err}
	}()
	var answers *bufio.Scanner
	ask := func(record string, code int) {
		t.Helper()
		if _, err := io.WriteString(send, record); err != nil {
			t.Fatal(err)
		}
		if answers == nil {
			r := <-replies
			if r.err != nil {
				t.Fatal(r.err)
			}
			t.Cleanup(func() { r.resp.Body.Close() })
			answers = bufio.NewScanner(r.resp.Body)
		}
		var d Delivery
		if !answers.Scan() || json.Unmarshal(answers.Bytes(), &d) != nil || d.Code != code {
			t.Fatalf("%s: answer %s %v, want %d", record, answers.Bytes(), answers.Err(), code)
		}
	}
	good := `{"value":{"data":{"id":"a","amount":1}}}`
	ask(good, 200)
	ask(`{"value":{"data":{"id":"b"}}}`, 42207)
	for range 30 { // more than MaxBodyBytes in all
		ask(good, 200)
	}
	ask(`{"value":}`, 40001)
	if answers.Scan() {
		t.Errorf("after the end: %s", answers.Bytes())
	}
	if n := len(published(t, b)); n != 31 {
		t.Errorf("%d records, want 31", n)
	}
	got := deliveries(t, g, good+`{"value":{"data":"`+strings.Repeat("x", 600)+`"}}`+good)
	if len(got) != 2 || got[0].Code != 200 || got[1].Code != codeTooLarge {
		t.Errorf("a record too large: %+v", got)
	}
	if got := deliveries(t, g, good+`{"value":`); len(got) != 2 || got[1].Code != codeJSON {
		t.Errorf("a record cut short: %+v", got)
	}
	if got := deliveries(t, g, " "); len(got) != 0 {
		t.Errorf("no records: %+v", got)
	}
}

func TestBatchV3(t *testing.T) {
	g, b := rest(t, Config{})
	send := func(body string) (int, Batch, Answer) {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v3/clusters/penstock/topics/orders/records:batch", strings.NewReader(body)))
		var batch Batch
		var a Answer
		if json.Unmarshal(w.Body.Bytes(), &batch) != nil || json.Unmarshal(w.Body.Bytes(), &a) != nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return w.Code, batch, a
	}
	status, batch, _ := send(`{"entries":[
		{"id":"1","value":{"data":{"id":"a","amount":1}}},
		{"id":"2","value":{"data":{"id":1}}},
		{"id":"3","partition_id":1},
		{"id":"4","value":{"data":{"id":"a","amount":1}}}]}`)
	var got []string
	for _, d := range batch.Successes {
		got = append(got, fmt.Sprint(d.ID, " ", d.Code, " ", *d.Offset))
	}
	for _, d := range batch.Failures {
		got = append(got, fmt.Sprint(d.ID, " ", d.Code, " ", len(d.Violations)))
	}
	if diff := cmp.Diff([]string{"1 200 0", "4 200 1", "3 40002 0", "2 42207 2"}, got); status != 207 || diff != "" {
		t.Errorf("%d (-want +got):\n%s", status, diff)
	}
	if n := len(published(t, b)); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
	for _, body := range []string{
		`{}`, `[]`, `{"entries":[]}`, `{"entries":[{"value":{}}]}`, `{"entries":[{"id":"1"},{"id":"1"}]}`, `{"entries":[{"id":""}]}`,
		`{"entries":[` + strings.Repeat(`{"id":"1"},`, 10) + `{"id":"1"}]}`, `{"entries":[{"id":"1"}],"a":1}`,
	} {
		if status, _, a := send(body); status != 400 || a.Code != codeShape {
			t.Errorf("%s: %d %+v", body, status, a)
		}
	}
}

func TestClusters(t *testing.T) {
	g, _ := rest(t, Config{Cluster: "c1"})
	for path, want := range map[string]int{
		"GET /v3/clusters": 200, "GET /v3/clusters/c1": 200, "GET /v3/clusters/c2": 404,
		"POST /v3/clusters/c2/topics/orders/records": 404, "POST /v3/clusters/c2/topics/orders/records:batch": 404,
	} {
		method, path, _ := strings.Cut(path, " ")
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("{}")))
		if w.Code != want || want == 200 && !strings.Contains(w.Body.String(), `"cluster_id":"c1"`) {
			t.Errorf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, want)
		}
	}
}

func TestAuthorize(t *testing.T) {
	g, b := rest(t, Config{Authorize: func(_ context.Context, topic string) error {
		if topic == "orders" {
			return &access.DeniedError{}
		}
		return nil
	}})
	for _, path := range []string{"/topics/orders", "/v3/clusters/penstock/topics/orders/records", "/v3/clusters/penstock/topics/orders/records:batch"} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"value":{"data":{"id":"a","amount":1}}}`)))
		if w.Code != 403 {
			t.Errorf("POST %s: %d %s", path, w.Code, w.Body)
		}
	}
	if n := len(published(t, b)); n != 0 {
		t.Errorf("%d records were published", n)
	}
	// A schema that the caller may not choose.
	g, b = rest(t, Config{})
	g.cfg.Lookup = func(Choice) func(context.Context, string) (schemas.Registered, error) {
		return func(context.Context, string) (schemas.Registered, error) {
			return schemas.Registered{}, &access.DeniedError{}
		}
	}
	if status, a, _ := post(t, g, "/topics/orders", "application/vnd.kafka.avro.v2+json", `{"value_schema":"1","records":[{"value":1},{"value":1}]}`); status != 403 || a.Code != 40301 {
		t.Errorf("a schema denied: %d %+v", status, a)
	}
	if d := deliveries(t, g, `{"value":{"type":"AVRO","schema":"1","data":1}}`); len(d) != 1 || d[0].Code != 40301 {
		t.Errorf("a schema denied in a stream: %+v", d)
	}
	if n := len(published(t, b)); n != 0 {
		t.Errorf("%d records were published", n)
	}
}

func TestCloudEvents(t *testing.T) {
	const attributes = `"specversion":"1.0","id":"7","source":"/shop","type":"placed"`
	const order = `"data":{"id":"a","amount":1}`
	headers := " ce_id=7 ce_source=/shop ce_specversion=1.0 ce_type=placed"
	bytes := base64.StdEncoding.EncodeToString([]byte(encodedOrder))
	for _, test := range []struct {
		name, media, body string
		status            int
		want              []string // what was published, or a part of the message
	}{
		{"one", typeCloudEvent, `{` + attributes + `,` + order + `}`, 200, []string{fmt.Sprintf("%q %q", "", encodedOrder) + headers}},
		{"all of it", typeCloudEvent, `{` + attributes + `,"partitionkey":"k","datacontenttype":"application/json","time":"2026-11-27T09:00:00Z","n":7,"ok":true,` + order + `}`, 200,
			[]string{fmt.Sprintf("%q %q", "k", encodedOrder) + " ce_id=7 ce_n=7 ce_ok=true ce_partitionkey=k ce_source=/shop ce_specversion=1.0 ce_time=2026-11-27T09:00:00Z ce_type=placed"}},
		{"bytes", typeCloudEvent, `{` + attributes + `,"data_base64":"` + bytes + `"}`, 200, []string{fmt.Sprintf("%q %q", "", encodedOrder) + headers}},
		{"tombstone", typeCloudEvent, `{` + attributes + `,"partitionkey":"k"}`, 200, []string{`"k" "" ce_id=7 ce_partitionkey=k ce_source=/shop ce_specversion=1.0 ce_type=placed`}},
		{"batch", typeCloudEvents, `[{` + attributes + `,` + order + `},{` + attributes + `,` + order + `}]`, 200,
			[]string{fmt.Sprintf("%q %q", "", encodedOrder) + headers, fmt.Sprintf("%q %q", "", encodedOrder) + headers}},
		{"misfit", typeCloudEvents, `[{` + attributes + `,` + order + `},{` + attributes + `,"data":{}}]`, 422, []string{"/id"}},
		{"no object", typeCloudEvent, `[]`, 400, []string{"a CloudEvent"}},
		{"no array", typeCloudEvents, `{}`, 400, []string{"an array"}},
		{"no events", typeCloudEvents, `[]`, 400, []string{"an array"}},
		{"no type", typeCloudEvents, `[{"specversion":"1.0","id":"7","source":"/shop",` + order + `}]`, 400, []string{"at /0/type"}},
		{"version", typeCloudEvent, `{"specversion":"0.3","id":"7","source":"/shop","type":"t",` + order + `}`, 400, []string{"at /specversion"}},
		{"no data", typeCloudEvent, `{` + attributes + `}`, 400, []string{"at /data"}},
		{"both", typeCloudEvent, `{` + attributes + `,"data":1,"data_base64":""}`, 400, []string{"at /data_base64"}},
		{"name", typeCloudEvent, `{` + attributes + `,"a_b":1,` + order + `}`, 400, []string{"at /a_b"}},
		{"value", typeCloudEvent, `{` + attributes + `,"a":[],` + order + `}`, 400, []string{"at /a: "}},
		{"time", typeCloudEvent, `{` + attributes + `,"time":"noon",` + order + `}`, 400, []string{"at /time"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g, b := rest(t, Config{})
			status, a, _ := post(t, g, "/topics/orders", test.media, test.body)
			if status != test.status {
				t.Fatalf("%d %+v, want %d", status, a, test.status)
			}
			was := lines(t, b)
			if status != 200 {
				if !strings.Contains(a.Message, test.want[0]) || len(was) > 0 {
					t.Errorf("%q; published %q", a.Message, was)
				}
			} else if diff := cmp.Diff(test.want, was); diff != "" {
				t.Error("published (-want +got):\n", diff)
			}
		})
	}

	// In binary mode over HTTP.
	g, b := rest(t, Config{})
	send := func(change func(http.Header)) int {
		r := httptest.NewRequest(http.MethodPost, "/topics/orders", strings.NewReader(`{"id":"a","amount":1}`))
		for k, v := range map[string]string{"Content-Type": "application/json", "ce-id": "7", "ce-source": "/shop", "ce-type": "pl%61ced", "ce-specversion": "1.0"} {
			r.Header.Set(k, v)
		}
		change(r.Header)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		return w.Code
	}
	if status := send(func(http.Header) {}); status != 200 {
		t.Errorf("binary mode: %d", status)
	}
	for _, change := range []func(http.Header){
		func(h http.Header) { h.Del("ce-id") }, func(h http.Header) { h.Set("ce-x", "%") }, func(h http.Header) { h.Add("ce-id", "8") },
	} {
		if status := send(change); status != 400 {
			t.Errorf("binary mode with wrong headers: %d", status)
		}
	}
	if diff := cmp.Diff([]string{fmt.Sprintf("%q %q", "", encodedOrder) + headers}, lines(t, b)); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
}
