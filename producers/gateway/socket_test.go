package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"penstock/access"
	"penstock/producers"
	"penstock/stream"
)

// dial opens a WebSocket to a gateway.
func dial(t *testing.T, g *Gateway, protocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	c, answer, err := websocket.Dial(t.Context(), s.URL+"/topics/orders/publish", &websocket.DialOptions{Subprotocols: protocols})
	if err == nil {
		t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, answer, err
}

func TestSocket(t *testing.T) {
	g, b := rest(t, Config{MaxBodyBytes: 1000})
	c, _, err := dial(t, g, Subprotocol)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		message, id string
		code        int
	}{
		{`{"id":"1","key":"k","value":` + fit + `,"headers":{"a":"b"}}`, "1", 0},
		{`{"id":"2","value":{"id":"a","amuont":1}}`, "2", codeMisfit},
		{`{"id":"3","value":null}`, "3", codeShape},
		{`{"id":"4","value":null,"key":7}`, "4", 0},
		{`{"id":"5","value":1,"more":1}`, "5", codeShape},
		{`{"id":6,"value":1}`, "", codeShape},
		{`{"id":`, "", codeJSON},
		{`[]`, "", codeShape},
		{`{"id":"7"}`, "7", codeShape},
	} {
		a := exchange(t, c, test.message)
		if a.ID != test.id || a.Code != test.code || (a.Code == 0) != (a.Offset != nil) || a.Code == codeMisfit && len(a.Violations) == 0 {
			t.Errorf("%s: %+v", test.message, a)
		}
	}
	if got := lines(t, b); len(got) != 2 || !strings.HasSuffix(got[0], " a=b") {
		t.Errorf("published: %q", got)
	}
	if err := c.Write(t.Context(), websocket.MessageText, make([]byte, 1001)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("a message too large: %v", err)
	}
}

// A message with a key that is sent again, on this connection, on another or to
// another gateway, is answered as it was, and is in the topic once.
func TestSocketKey(t *testing.T) {
	s := &shelf{}
	g := keyedGateway(t, s)
	message := `{"id":"%s","key":"k","value":` + fit + `,"headers":{"a":"b"},"idempotency_key":"7f1"}`
	var first Ack
	for i, g := range []*Gateway{g, g, keyedGateway(t, s)} {
		c, _, err := dial(t, g, Subprotocol)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"1", "2"} {
			a := exchange(t, c, fmt.Sprintf(message, id))
			if first.ID == "" {
				first = a
			}
			if a.ID != id || a.Code != 0 || a.Offset == nil || *a.Offset != *first.Offset || len(s.records) != 1 {
				t.Fatalf("connection %d: %+v, %d records", i, a, len(s.records))
			}
		}
		for message, code := range map[string]int{
			`{"id":"3","key":"k","value":` + fit + `,"idempotency_key":"7f1"}`:          codeReused,
			`{"id":"3","value":` + fit + `,"idempotency_key":""}`:                       codeShape,
			`{"id":"3","value":` + fit + `,"idempotency_key":7}`:                        codeShape,
			`{"id":"3","value":{"id":"a","amuont":1},"idempotency_key":"does not fit"}`: codeMisfit,
		} {
			if a := exchange(t, c, message); a.ID != "3" || a.Code != code {
				t.Errorf("%s: %+v, want %d", message, a, code)
			}
		}
	}
	if len(s.records) != 1 || s.records[0].Topic != "orders" || string(s.records[0].Key) != "k" || len(s.records[0].Headers) == 0 {
		t.Errorf("published %+v", s.records)
	}
}

// exchange sends a message and reads its answer.
func exchange(t *testing.T, c *websocket.Conn, message string) (a Ack) {
	t.Helper()
	err := c.Write(t.Context(), websocket.MessageText, []byte(message))
	if err == nil {
		_, text, failed := c.Read(t.Context())
		if err = failed; err == nil {
			err = json.Unmarshal(text, &a)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSocketRefused(t *testing.T) {
	g, _ := rest(t, Config{})
	c, _, err := dial(t, g)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("without the subprotocol: %v", err)
	}
	g, _ = rest(t, Config{Authorize: func(context.Context, string) error { return &access.DeniedError{} }})
	if _, answer, err := dial(t, g, Subprotocol); err == nil || answer.StatusCode/100 != 4 {
		t.Errorf("who may not publish: %v", err)
	}
}

// No more than the window is taken before the oldest is answered, and a gateway
// that stops answers what it has taken.
func TestSocketWindow(t *testing.T) {
	taken, release := make(chan int, 100_000), make(chan struct{})
	g := open(t, producers.New(publisherFunc(func(_ context.Context, records ...stream.Record) error {
		taken <- len(records)
		<-release
		return nil
	}), registry{}, producers.Config{}), Config{Lookup: lookup})
	c, _, err := dial(t, g, Subprotocol)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan int)
	stop, cancel := context.WithCancel(t.Context())
	go func() {
		n := 0
		defer func() { sent <- n }()
		for ; stop.Err() == nil; n++ {
			if c.Write(stop, websocket.MessageText, fmt.Appendf(nil, `{"id":"%d","value":%s}`, n, fit)) != nil {
				return
			}
		}
	}()
	<-taken
	closed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		closed <- g.Close(ctx)
	}()
	<-g.closing
	close(release)
	n := 0
	for {
		_, text, err := c.Read(t.Context())
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the end: %v", err)
			}
			break
		}
		var a Ack
		if err := json.Unmarshal(text, &a); err != nil || a.ID != fmt.Sprint(n) || a.Code != 0 {
			t.Fatalf("answer %d is %s", n, text)
		}
		n++
	}
	cancel()
	<-sent
	if err := <-closed; err != nil {
		t.Error(err)
	}
	records := 0
	for close(taken); ; {
		k, ok := <-taken
		if !ok {
			break
		}
		records += k
	}
	if n == 0 || records > n {
		t.Errorf("%d answers, %d records more than the first", n, records)
	}
}
