package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock/producers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
)

// shelf is a stream.Keeper in memory. fault, if not nil, is asked before each
// commit for an error, and whether the commit is carried out all the same.
type shelf struct {
	fault func() (err error, written bool)

	mu      sync.Mutex
	entries []stream.Entry
	records []stream.Record
	owner   *shelved
}

func (s *shelf) Keep(_ context.Context, topic, _ string) (stream.Book, error) {
	if topic != "orders" {
		return nil, stream.ErrNoTopic
	}
	return &shelved{shelf: s}, nil
}

type shelved struct {
	*shelf
	read int
}

func (b *shelved) Take(_ context.Context, read func(stream.Entry) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owner = b
	for ; b.read < len(b.entries); b.read++ {
		if err := read(b.entries[b.read]); err != nil {
			return err
		}
	}
	return nil
}

func (b *shelved) Commit(_ context.Context, out []stream.Record, note []byte) error {
	var err error
	written := true
	if b.fault != nil {
		err, written = b.fault()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner != b {
		return stream.ErrFenced
	}
	if !written {
		return err
	}
	e := stream.Entry{Note: note, Time: time.Now()}
	for i := range out {
		out[i].Offset = int64(len(b.records))
		b.records = append(b.records, out[i])
		e.Places = append(e.Places, stream.Place{Offset: out[i].Offset})
	}
	b.entries = append(b.entries, e)
	return err
}

func (b *shelved) Close() error { return nil }

// keyedGateway is a gateway over s, as another process would be.
func keyedGateway(t *testing.T, s stream.Keeper) *Gateway {
	return open(t, producers.New(nil, registry{}, producers.Config{}), Config{Keeper: s, Lookup: lookup, Formats: []schemas.Format{avro.Format{}}})
}

// send sends a request with a key, and returns status, body and headers.
func send(h http.Handler, path, contentType, key, body string) (int, string, http.Header) {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set(keyHeader, key)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

const (
	v3Path    = "/v3/clusters/penstock/topics/orders/records"
	fit       = `{"id":"a","amount":1}`
	v3Fit     = `{"key":{"type":"STRING","data":"k"},"value":{"type":"JSON","data":` + fit + `},"timestamp":"2026-01-02T03:04:05Z"}`
	v2Media   = "application/vnd.kafka.json.v2+json"
	v2Records = `{"records":[{"value":` + fit + `},{"key":"k","value":` + fit + `}]}`
)

var keyedRequests = []struct {
	name, path, media, body string
	status, records         int
}{
	{"one event", "/topics/orders?key=id", typeEvent, fit, 200, 1},
	{"v2", "/topics/orders", v2Media, v2Records, 200, 2},
	{"v3 batch", v3Path + ":batch", typeEvent, `{"entries":[{"id":"1",` + v3Fit[1:] + `,{"id":"2","value":{"type":"JSON","data":{}}},{"id":"3",` + v3Fit[1:] + `]}`, 207, 2},
	{"v3 stream", v3Path, typeEvent, v3Fit + v3Fit + `{"value":{"type":"JSON","data":{}}}` + v3Fit, 200, 3},
}

// A request sent again answers the same, from this gateway and from the next, and
// is in the topic once.
func TestKeyAgain(t *testing.T) {
	for _, test := range keyedRequests {
		t.Run(test.name, func(t *testing.T) {
			s := &shelf{}
			g := keyedGateway(t, s)
			status, first, header := send(g, test.path, test.media, `"7f1"`, test.body)
			if status != test.status || header.Get(replayedHeader) != "" || len(s.records) != test.records {
				t.Fatalf("got %d %s, and %d records", status, first, len(s.records))
			}
			for _, key := range []string{`"7f1"`, "7f1"} {
				for _, g := range []*Gateway{g, keyedGateway(t, s)} {
					status, again, header := send(g, test.path, test.media, key, test.body)
					if status != test.status || again != first || len(s.records) != test.records {
						t.Errorf("again: %d, %d records,\n%s, first\n%s", status, len(s.records), again, first)
					}
					if replayed := header.Get(replayedHeader) == "true"; replayed != (test.name != "v3 stream") {
						t.Errorf("%s: %v", replayedHeader, replayed)
					}
				}
			}
			if _, _, _ = send(g, test.path, test.media, "another", test.body); len(s.records) != 2*test.records {
				t.Errorf("another key: %d records, want %d", len(s.records), 2*test.records)
			}
		})
	}
}

func TestKeyRefused(t *testing.T) {
	s := &shelf{}
	g := keyedGateway(t, s)
	many := `{"records":[` + strings.Repeat(`{"value":`+fit+`},`, stream.MaxCommit) + `{"value":` + fit + `}]}`
	for _, test := range []struct {
		name, path, media, key, body string
		status, code                 int
	}{
		{"the first", "/topics/orders", typeEvent, "k", fit, 200, 0},
		{"another body", "/topics/orders", typeEvent, "k", `{"id":"b","amount":1}`, 422, codeReused},
		{"another query", "/topics/orders?key=id", typeEvent, "k", fit, 422, codeReused},
		{"another type", "/topics/orders", v2Media, "k", v2Records, 422, codeReused},
		{"no key", "/topics/orders", typeEvent, `""`, fit, 400, codeShape},
		{"too long", "/topics/orders", typeEvent, strings.Repeat("k", 256), fit, 400, codeShape},
		{"a misfit", "/topics/orders", typeEvent, "m", `{"id":1}`, 422, codeMisfit},
		{"mended under its key", "/topics/orders", typeEvent, "m", fit, 200, 0},
		{"too many", "/topics/orders", v2Media, "many", many, 413, codeTooLarge},
		{"no topic", "/topics/ghosts", typeEvent, "k", fit, 404, codeNoTopic},
	} {
		status, body, _ := send(g, test.path, test.media, test.key, test.body)
		var a Answer
		if err := json.Unmarshal([]byte(body), &a); err != nil || status != test.status || a.Code != test.code {
			t.Errorf("%s: %d %s, want %d %d", test.name, status, body, test.status, test.code)
		}
	}
	if len(s.records) != 2 {
		t.Errorf("%d records, want 2", len(s.records))
	}
	if status, body, _ := send(keyedGateway(t, nil), "/topics/orders", typeEvent, "k", fit); status != http.StatusNotImplemented {
		t.Errorf("a gateway that keeps none: %d %s", status, body)
	}
}

// While a request is on its way, the same is told to wait, and what gathers
// meanwhile is one commit.
func TestKeyPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		commits := make(chan struct{})
		s := &shelf{fault: func() (error, bool) { <-commits; return nil, true }}
		g := keyedGateway(t, s)
		var all sync.WaitGroup
		for _, key := range []string{"first", "second", "third"} {
			all.Go(func() {
				if status, body, _ := send(g, "/topics/orders", typeEvent, key, fit); status != 200 {
					t.Errorf("%s: %d %s", key, status, body)
				}
			})
			synctest.Wait()
		}
		status, body, header := send(g, "/topics/orders", typeEvent, "third", fit)
		if status != http.StatusConflict || header.Get("Retry-After") == "" {
			t.Errorf("on its way: %d %s", status, body)
		}
		if status, body, _ := send(g, "/topics/orders", typeEvent, "third", `{}`); status != http.StatusUnprocessableEntity {
			t.Errorf("on its way with another body: %d %s", status, body)
		}
		close(commits)
		all.Wait()
		if len(s.records) != 3 || len(s.entries) != 2 {
			t.Errorf("%d records in %d entries, want 3 in 2", len(s.records), len(s.entries))
		}
	})
}

// A commit whose answer is lost is looked up before anything is sent again, and so
// is one that another gateway was faster with.
func TestKeyAfterFault(t *testing.T) {
	lost := errors.New("no answer")
	for _, written := range []bool{true, false} {
		left := 2
		s := &shelf{}
		s.fault = func() (error, bool) {
			if left--; left >= 0 {
				return lost, written
			}
			return nil, true
		}
		g := keyedGateway(t, s)
		status, body, _ := send(g, "/topics/orders", v2Media, "k", v2Records)
		if status != 200 || len(s.records) != 2 {
			t.Errorf("written %v: %d %s, %d records", written, status, body, len(s.records))
		}
		left = 100
		if status, body, _ := send(g, "/topics/orders", typeEvent, "l", fit); status != http.StatusServiceUnavailable && !written {
			t.Errorf("a broker that never answers: %d %s", status, body)
		}
		left = 0
		if status, body, _ := send(g, "/topics/orders", typeEvent, "l", fit); status != 200 || len(s.records) != 3 {
			t.Errorf("sent again: %d %s, %d records", status, body, len(s.records))
		}
	}
	s := &shelf{}
	a, b := keyedGateway(t, s), keyedGateway(t, s)
	var answers []string
	for range 3 {
		for _, g := range []*Gateway{a, b} {
			_, body, _ := send(g, "/topics/orders", v2Media, "shared", v2Records)
			answers = append(answers, body)
			send(g, "/topics/orders", typeEvent, "own "+body, fit)
		}
	}
	for _, body := range answers {
		if body != answers[0] {
			t.Errorf("one answers %s, another %s", body, answers[0])
		}
	}
	if len(s.records) != 3 {
		t.Errorf("%d records of two gateways, want 3", len(s.records))
	}
}

// Keys older than a day are forgotten, and so are books that nobody asks for.
func TestKeyForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		g := keyedGateway(t, s)
		send(g, "/topics/orders", typeEvent, "k", fit)
		time.Sleep(stream.KeepFor - time.Second)
		send(g, "/topics/orders", typeEvent, "k", fit)
		if len(s.records) != 1 {
			t.Errorf("within the day: %d records, want 1", len(s.records))
		}
		time.Sleep(time.Second)
		send(g, "/topics/orders", typeEvent, "k", fit)
		if len(s.records) != 2 {
			t.Errorf("after the day: %d records, want 2", len(s.records))
		}
		time.Sleep(bookIdle)
		synctest.Wait()
		g.keys.mu.Lock()
		defer g.keys.mu.Unlock()
		if len(g.keys.books) != 0 || g.keys.bytes != 0 {
			t.Errorf("%d books with %d bytes are held", len(g.keys.books), g.keys.bytes)
		}
	})
}
