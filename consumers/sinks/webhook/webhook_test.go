package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/consumers/sinks/sinktest"
	"penstock/stream"
)

// endpoint answers as a test says, and keeps what it was told.
type endpoint struct {
	t      *testing.T
	answer func(events []string, w http.ResponseWriter)

	mu    sync.Mutex
	keys  []string
	taken []string // ids of events it answered 2xx
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		e.t.Error(err)
	}
	mac := hmac.New(sha256.New, []byte("secret"))
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
		e.t.Errorf("signature %q, want %q", r.Header.Get("webhook-signature"), want)
	}
	var events []struct {
		ID, Source, Type, SpecVersion string
		Data                          map[string]any
	}
	if err := json.Unmarshal(body, &events); err != nil {
		e.t.Errorf("body %s: %v", body, err)
	}
	var ids []string
	for _, v := range events {
		if v.SpecVersion != "1.0" || v.Source != "/penstock/p/log" || v.Type != "log" || v.Data["kind"] == nil {
			e.t.Errorf("event %+v lacks what CloudEvents and the log have", v)
		}
		ids = append(ids, v.ID)
	}
	recorder := httptest.NewRecorder()
	e.answer(ids, recorder)
	e.mu.Lock()
	e.keys = append(e.keys, r.Header.Get("Idempotency-Key"))
	if recorder.Code < 300 {
		e.taken = append(e.taken, ids...)
	}
	e.mu.Unlock()
	for k, v := range recorder.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(recorder.Body.Bytes())
}

func open(t *testing.T, answer func(events []string, w http.ResponseWriter)) (*endpoint, *Sink) {
	e := &endpoint{t: t, answer: answer}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	s, err := New(Config{URL: server.URL + "/in?key=hunter2", Pipeline: "p", Secret: []byte("secret"), MaxEvents: 4, Failures: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return e, s
}

func batch(next int64) consumers.Batch {
	b := consumers.Batch{Topic: "log", Next: next}
	for o := range next {
		b.Messages = append(b.Messages, sinktest.LogMessage(0, o))
	}
	return b
}

func TestDelivery(t *testing.T) {
	e, s := open(t, func([]string, http.ResponseWriter) {})
	for range 2 { // delivered again: the same ids, in requests of the same keys
		if err := s.Write(t.Context(), batch(10)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"p-log-0-0-3", "p-log-0-4-7", "p-log-0-8-9"}
	if diff := cmp.Diff(append(want, want...), e.keys); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if len(e.taken) != 20 || e.taken[9] != "0/9" || e.taken[10] != "0/0" {
		t.Errorf("events %q", e.taken)
	}
}

// What is refused is found by halving, and alone.
func TestRefused(t *testing.T) {
	e, s := open(t, func(events []string, w http.ResponseWriter) {
		for _, id := range events {
			if id == "0/2" || id == "0/9" {
				http.Error(w, "not "+id, http.StatusUnprocessableEntity)
				return
			}
		}
	})
	var refused *stream.BatchError
	err := s.Write(t.Context(), batch(10))
	if !errors.As(err, &refused) || len(refused.Errs) != 2 || refused.Errs[2] == nil || !strings.Contains(refused.Errs[9].Error(), "not 0/9") {
		t.Fatalf("Write: %v, want a BatchError that names 2 and 9", err)
	}
	if len(e.taken) != 8 {
		t.Errorf("%q were delivered, want the eight others", e.taken)
	}
}

func TestLater(t *testing.T) {
	status, header := http.StatusTooManyRequests, "7"
	_, s := open(t, func(_ []string, w http.ResponseWriter) {
		w.Header().Set("Retry-After", header)
		w.WriteHeader(status)
	})
	now := time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC)
	s.now = func() time.Time { return now }
	s.config.Failures = 1 << 30
	for _, c := range []struct {
		header string
		want   time.Duration
	}{{"7", 7 * time.Second}, {"Tue, 01 Jan 2013 00:01:00 GMT", time.Minute}, {"", 0}, {"soon", 0}, {"-1", 0}, {"99999999", time.Hour}} {
		header = c.header
		var after interface{ RetryAfter() time.Duration }
		if err := s.Write(t.Context(), batch(1)); !errors.As(err, &after) || after.RetryAfter() != c.want {
			t.Errorf("Retry-After %q: %v, want to wait %v", c.header, err, c.want)
		}
	}
	for _, status = range []int{401, 403, 404, 410, 302} {
		if err := s.Write(t.Context(), batch(1)); !errors.Is(err, consumers.ErrStop) {
			t.Errorf("%d: %v, want ErrStop", status, err)
		}
	}
	if _, err := New(Config{URL: "ftp://host/x"}); err == nil {
		t.Error("an ftp URL was taken")
	}
}

// The circuit opens after failures in a row, lets one request try after a while,
// and closes when that is answered.
func TestCircuit(t *testing.T) {
	healthy := false
	e, s := open(t, func(_ []string, w http.ResponseWriter) {
		if !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	now := time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC)
	s.now = func() time.Time { return now }
	write := func(wantRequests int, wantError bool) {
		t.Helper()
		err := s.Write(t.Context(), batch(1))
		if (err != nil) != wantError || len(e.keys) != wantRequests {
			t.Fatalf("Write: %v after %d requests, want an error: %v, and %d", err, len(e.keys), wantError, wantRequests)
		}
	}
	write(1, true)
	write(2, true)
	write(2, true) // open
	now = now.Add(s.config.Cooldown)
	write(3, true) // tried, and open again
	write(3, true)
	now = now.Add(s.config.Cooldown)
	healthy = true
	write(4, false)
	write(5, false)
	healthy = false
	write(6, true) // one failure leaves it closed
	write(7, true)
	write(7, true)
}

// An endpoint that is away costs no record, and its address, in which a key may
// stand, is in no error.
func TestAway(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	s, err := New(Config{URL: server.URL + "/?key=hunter2", Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Write(t.Context(), batch(3))
	var refused *stream.BatchError
	if err == nil || errors.As(err, &refused) || errors.Is(err, consumers.ErrStop) {
		t.Errorf("Write: %v, want an error that passes", err)
	}
	if err != nil && strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Write: the error tells the key: %v", err)
	}
}
