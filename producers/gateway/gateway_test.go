package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"penstock/producers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
	"penstock/stream/memory"
)

const orderText = `{"type":"record","name":"Order","fields":[
	{"name":"id","type":"string"},
	{"name":"amount","type":"double"}]}`

// registry knows schema 1 under orders-value and ghosts-value.
type registry struct{ err error }

func (r registry) Latest(ctx context.Context, subject string) (schemas.ID, schemas.Schema, error) {
	if r.err != nil {
		return 0, nil, r.err
	}
	if subject != "orders-value" && subject != "ghosts-value" {
		return 0, nil, fmt.Errorf("http://registry.internal: %w", schemas.ErrNoSchema)
	}
	s, err := r.Schema(ctx, 1)
	return 1, s, err
}

// Schema knows the same by its id.
func (r registry) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	if r.err != nil {
		return nil, r.err
	}
	if id != 1 {
		return nil, schemas.ErrNoSchema
	}
	return avro.Format{}.Parse(orderText, nil)
}

// lookup finds the newest, schema 1, and what is registered as schema 2.
func lookup(c Choice) func(ctx context.Context, subject string) (schemas.Registered, error) {
	return func(ctx context.Context, subject string) (found schemas.Registered, err error) {
		found = schemas.Registered{ID: 1, Version: 3, Subject: subject}
		switch {
		case c.Schema != "":
			found.ID, found.Version = 2, 1
			found.Schema, err = avro.Format{}.Parse(c.Schema, nil)
			if err != nil {
				err = fmt.Errorf("%w: %w", schemas.ErrBadSchema, err)
			}
		case c.ID > 1 || c.Version > 3:
			err = schemas.ErrNoSchema
		case c.ID == 0:
			_, found.Schema, err = registry{}.Latest(ctx, subject)
		default:
			found.Schema, err = registry{}.Schema(ctx, c.ID)
		}
		return found, err
	}
}

// publisherFunc is a stream.Publisher.
type publisherFunc func(context.Context, ...stream.Record) error

func (f publisherFunc) Publish(ctx context.Context, records ...stream.Record) error {
	return f(ctx, records...)
}

// open returns a gateway that ends with the test.
func open(t testing.TB, p *producers.Producer, cfg Config) *Gateway {
	t.Helper()
	g := New(p, cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = g.Close(ctx) // a publisher of a test may never answer
	})
	return g
}

// post sends one request and returns status, answer and headers.
func post(t testing.TB, h http.Handler, path, contentType, body string) (int, Answer, http.Header) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var a Answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%d, and no JSON: %q", w.Code, w.Body)
	}
	return w.Code, a, w.Header()
}

// broker has a topic "orders" of one partition.
func broker(t testing.TB) *memory.Broker {
	t.Helper()
	b := memory.New()
	t.Cleanup(func() { b.Close() })
	if err := b.Create(context.Background(), "orders", 1); err != nil {
		t.Fatal(err)
	}
	return b
}

// published reads back everything that lies in the topic "orders".
func published(t testing.TB, b *memory.Broker) []stream.Record {
	t.Helper()
	ranges, err := b.Ranges(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if ranges[0].Records == 0 {
		return nil
	}
	src, err := b.Open(t.Context(), stream.Subscription{Topic: "orders", Group: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	records, _, err := src.Fetch(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func TestPost(t *testing.T) {
	for _, test := range []struct {
		name              string
		path, media, body string
		status            int
		accepted, code    int
		message           string
	}{
		{"event", "/topics/orders", "application/json", `{"id":"a","amount":1.5}`, 200, 1, 0, ""},
		{"event with a key", "/topics/orders?key=id", "application/json; charset=UTF-8", `{"id":"a","amount":1}`, 200, 1, 0, ""},
		{"records", "/topics/orders", typeRecords, `{"records":[{"value":{"id":"a","amount":1}},{"key":7,"value":null,"headers":{"h":"v"}}]}`, 200, 2, 0, ""},

		{"misfit", "/topics/orders", "application/json", `{"id":1,"amount":"x"}`, 422, 0, codeMisfit, "at /id: expected string"},
		{"one misfit of two", "/topics/orders", typeRecords, `{"records":[{"value":{"id":"a","amount":1}},{"value":{"id":"b"}}]}`, 422, 0, codeMisfit, "/amount"},
		{"no field for the key", "/topics/orders?key=nr", "application/json", `{"id":"a","amount":1}`, 400, 0, codeShape, "at /nr: expected a value"},
		{"null", "/topics/orders", "application/json", `null`, 400, 0, codeShape, "tombstone"},
		{"no schema", "/topics/other", "application/json", `{}`, 404, 0, codeNoSchema, `subject "other-value"`},
		{"no topic", "/topics/ghosts", "application/json", `{"id":"a","amount":1}`, 404, 0, codeNoTopic, `no topic "ghosts"`},
		{"no topic's name", "/topics/a%20b", "application/json", `{}`, 404, 0, codeNoTopic, "letters"},
		{"long name", "/topics/" + strings.Repeat("a", 250), "application/json", `{}`, 404, 0, codeNoTopic, "249"},
		{"no type", "/topics/orders", "", `{}`, 415, 0, codeMediaType, "Content-Type"},
		{"other type", "/topics/orders", "application/vnd.kafka.xml.v2+json", `{}`, 415, 0, codeMediaType, "Content-Type"},
		{"other charset", "/topics/orders", "application/json; charset=latin1", `{}`, 415, 0, codeMediaType, "latin1"},
		{"empty", "/topics/orders", "application/json", ``, 400, 0, codeJSON, "offset 0"},
		{"bad JSON", "/topics/orders", "application/json", `{"id":"a",}`, 400, 0, codeJSON, "offset 10"},
		{"too long", "/topics/orders", "application/json", strings.Repeat(" ", 1001), 413, 0, codeTooLarge, "1000 bytes"},
		{"too many", "/topics/orders", typeRecords, `{"records":[{"value":{}},{"value":{}},{"value":{}},{"value":{}}]}`, 413, 0, codeTooLarge, "at most 3 records, found 4"},
		{"no records", "/topics/orders", typeRecords, `{}`, 400, 0, codeShape, "at /records"},
		{"not an object", "/topics/orders", typeRecords, `[]`, 400, 0, codeShape, "records"},
		{"no object", "/topics/orders", typeRecords, `{"records":[1]}`, 400, 0, codeShape, "at /records/0: expected a record"},
		{"no value", "/topics/orders", typeRecords, `{"records":[{"key":"k"}]}`, 400, 0, codeShape, "at /records/0/value"},
		{"tombstone of nothing", "/topics/orders", typeRecords, `{"records":[{"value":null}]}`, 400, 0, codeShape, "at /records/0/key"},
		{"headers", "/topics/orders", typeRecords, `{"records":[{"value":{},"headers":[]}]}`, 400, 0, codeShape, "at /records/0/headers: expected an object"},
		{"header", "/topics/orders", typeRecords, `{"records":[{"value":{},"headers":{"a":1}}]}`, 400, 0, codeShape, "at /records/0/headers/a: expected a string"},
		{"member", "/topics/orders", typeRecords, `{"records":[{"value":{},"partition":1}]}`, 400, 0, codeShape, "at /records/0/partition: expected only key, value, headers"},
		{"member beside records", "/topics/orders", typeRecords, `{"records":[{"value":{}}],"value_schema_id":1}`, 400, 0, codeShape, "at /value_schema_id"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := broker(t)
			g := open(t, producers.New(b, registry{}, producers.Config{}), Config{MaxBodyBytes: 1000, MaxRecords: 3})
			status, a, header := post(t, g, test.path, test.media, test.body)
			if status != test.status || a.Accepted != test.accepted || a.Code != test.code || !strings.Contains(a.Message, test.message) {
				t.Errorf("answer %d %+v", status, a)
			}
			if n := len(published(t, b)); n != test.accepted {
				t.Errorf("%d records were published", n)
			}
			want := "application/json"
			if a.Offsets != nil || test.media == typeRecords && (status == 422 || status == 404) {
				want = "application/vnd.kafka.v2+json"
			}
			if got := header.Get("Content-Type"); got != want {
				t.Errorf("Content-Type %q, want %q", got, want)
			}
			if strings.Contains(a.Message, "internal") {
				t.Errorf("the message shows what the registry said: %s", a.Message)
			}
		})
	}
}

func TestViolations(t *testing.T) {
	g := open(t, producers.New(broker(t), registry{}, producers.Config{}), Config{})
	_, a, _ := post(t, g, "/topics/orders", typeRecords, `{"records":[{"value":{"id":"a","amount":1}},{"value":{"id":7,"amount":true}}]}`)
	want := []Refused{{
		Index: 1, Code: codeMisfit,
		Violations: []schemas.Violation{{Pointer: "/id", Expected: "string"}, {Pointer: "/amount", Expected: "number"}},
	}}
	words := cmp.Options{cmpopts.IgnoreFields(Refused{}, "Message"), cmpopts.IgnoreFields(schemas.Violation{}, "Found", "Hint")}
	if diff := cmp.Diff(want, a.Records, words); diff != "" {
		t.Error("records (-want +got):\n", diff)
	}
}

func TestRecord(t *testing.T) {
	b := broker(t)
	g := open(t, producers.New(b, registry{}, producers.Config{}), Config{})
	body := `{"records":[
		{"key":"k","value":{"id":"a","amount":1},"headers":{"z":"2","a":"1"}},
		{"key":{"b":1,"a":[2]},"value":null},
		{"key":"","value":{"id":"a","amount":1}},
		{"key":null,"value":{"id":"a","amount":1}}]}`
	if status, a, _ := post(t, g, "/topics/orders", typeRecords, body); status != 200 {
		t.Fatalf("answer %d %+v", status, a)
	}
	if status, a, _ := post(t, g, "/topics/orders?key=amount", typeEvent, `{"id":"a","amount":1.50}`); status != 200 {
		t.Fatalf("answer %d %+v", status, a)
	}
	var got []string
	for _, r := range published(t, b) {
		got = append(got, fmt.Sprintf("%q %v %d %s", r.Key, r.Key == nil, len(r.Value), r.Headers))
	}
	want := []string{
		`"k" false 15 [{a 1} {z 2}]`,
		`"{\"a\":[2],\"b\":1}" false 0 []`,
		`"" false 15 []`,
		`"" true 15 []`,
		`"1.50" false 15 []`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("published (-want +got):\n", diff)
	}
}

func TestServersAway(t *testing.T) {
	event := `{"id":"a","amount":1}`
	two := `{"records":[{"value":` + event + `},{"value":` + event + `}]}`
	secret := errors.New("dial tcp 10.0.0.7:9092: refused")
	for _, test := range []struct {
		name           string
		reg            registry
		err            error
		status         int
		accepted, code int
	}{
		{"registry", registry{secret}, nil, 503, 0, codeAway},
		{"broker", registry{}, fmt.Errorf("%w: %w", stream.ErrUnreachable, secret), 503, 0, codeAway},
		{"broker for one record", registry{}, &stream.BatchError{Errs: map[int]error{1: secret}}, 503, 1, codeAway},
		{"record too large", registry{}, &stream.BatchError{Errs: map[int]error{0: stream.ErrTooLarge}}, 413, 1, codeTooLarge},
		{"too large, and broker", registry{}, &stream.BatchError{Errs: map[int]error{0: stream.ErrTooLarge, 1: secret}}, 503, 0, codeAway},
	} {
		t.Run(test.name, func(t *testing.T) {
			pub := publisherFunc(func(context.Context, ...stream.Record) error { return test.err })
			g := open(t, producers.New(pub, test.reg, producers.Config{}), Config{})
			status, a, header := post(t, g, "/topics/orders", typeRecords, two)
			if status != test.status || a.Accepted != test.accepted || a.Code != test.code {
				t.Errorf("answer %d %+v", status, a)
			}
			if got := header.Get("Retry-After"); (status == 503) != (got != "") {
				t.Errorf("Retry-After %q", got)
			}
			if strings.Contains(fmt.Sprint(a), "10.0.0.7") {
				t.Errorf("the answer shows what the broker said: %+v", a)
			}
		})
	}
}

func TestBusy(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	pub := publisherFunc(func(context.Context, ...stream.Record) error {
		close(inside)
		<-leave
		return nil
	})
	g := open(t, producers.New(pub, registry{}, producers.Config{}), Config{MaxInFlight: 1})
	first := make(chan int)
	go func() {
		status, _, _ := post(t, g, "/topics/orders", typeEvent, `{"id":"a","amount":1}`)
		first <- status
	}()
	<-inside
	status, a, header := post(t, g, "/topics/orders", typeEvent, `{"id":"b","amount":1}`)
	if status != 429 || a.Code != codeBusy || header.Get("Retry-After") == "" {
		t.Errorf("answer %d %+v", status, a)
	}
	close(leave)
	if status := <-first; status != 200 {
		t.Errorf("the first request got %d", status)
	}
	inside = make(chan struct{})
	if status, _, _ := post(t, g, "/topics/orders", typeEvent, `{"id":"c","amount":1}`); status != 200 {
		t.Errorf("a request after it got %d", status)
	}
}

func TestPublishTimeout(t *testing.T) {
	pub := publisherFunc(func(ctx context.Context, _ ...stream.Record) error {
		<-ctx.Done()
		return ctx.Err()
	})
	g := open(t, producers.New(pub, registry{}, producers.Config{}), Config{PublishTimeout: time.Millisecond})
	if status, a, _ := post(t, g, "/topics/orders", typeEvent, `{"id":"a","amount":1}`); status != 503 {
		t.Errorf("answer %d %+v", status, a)
	}
}

// A body that does not come holds its slot for so long and no longer.
func TestSlowBody(t *testing.T) {
	g := open(t, producers.New(broker(t), registry{}, producers.Config{}), Config{ReadTimeout: 10 * time.Millisecond})
	server := httptest.NewServer(g)
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /topics/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func TestRoutes(t *testing.T) {
	g := open(t, producers.New(broker(t), registry{}, producers.Config{}), Config{})
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/topics/orders", 405}, {"PUT", "/topics/orders", 405},
		{"POST", "/topics/", 404}, {"POST", "/topics/a/b", 404}, {"GET", "/", 404},
	} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(test.method, test.path, nil))
		if w.Code != test.want {
			t.Errorf("%s %s: %d, want %d", test.method, test.path, w.Code, test.want)
		}
	}
}

// Whatever a body holds, the answer is JSON with a status that belongs to it,
// and what it says was accepted is what was published.
func FuzzBody(f *testing.F) {
	for _, s := range []string{
		`{"id":"a","amount":1.5}`, `{"id":"a","amount":1e400}`, `null`, ``, `[`, `{"id":"\ud800","amount":1}`, `"\xff"`,
		`{"records":[{"key":"k","value":{"id":"a","amount":1},"headers":{"h":"v"}},{"key":1,"value":null}]}`,
		`{"records":[]}`, `{"records":{}}`, `{"records":[{"value":1,"value":2}]}`, `{"records":[null]}`,
		`{"records":[{"key":[[[[]]]],"value":null}]}`, strings.Repeat("[", 200), `{"a":` + strings.Repeat("9", 2000) + `}`,
	} {
		f.Add(s, true, "")
		f.Add(s, false, "id")
	}
	f.Fuzz(func(t *testing.T, body string, records bool, key string) {
		published := 0
		pub := publisherFunc(func(_ context.Context, records ...stream.Record) error {
			published += len(records)
			return nil
		})
		g := New(producers.New(pub, registry{}, producers.Config{}), Config{})
		defer func() {
			if err := g.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		r := httptest.NewRequest(http.MethodPost, "/topics/orders", strings.NewReader(body))
		r.Header.Set("Content-Type", typeEvent)
		if records {
			r.Header.Set("Content-Type", typeRecords)
		}
		q := r.URL.Query()
		q.Set("key", key)
		r.URL.RawQuery = q.Encode()
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		var a Answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("%d, and no JSON: %q", w.Code, w.Body)
		}
		switch w.Code {
		case 200:
			if a.Accepted == 0 || a.Code != 0 {
				t.Errorf("answer %d %+v", w.Code, a)
			}
		case 400, 413, 422:
			if a.Accepted != 0 || a.Code/100 != w.Code || a.Message == "" {
				t.Errorf("answer %d %+v", w.Code, a)
			}
		default:
			t.Errorf("answer %d %+v", w.Code, a)
		}
		if a.Accepted != published {
			t.Errorf("%d records were published, the answer says %d", published, a.Accepted)
		}
	})
}
