package nats

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"penstock/stream"
)

// overWire is what happens to a message's headers on their way: they are
// written in no order, values lose spaces at their ends, and what is no token
// is dropped.
func overWire(t interface{ Fatalf(string, ...any) }, m *nats.Msg) *nats.Msg {
	out := &nats.Msg{Data: m.Data, Header: nats.Header{}}
	if out.Data == nil {
		out.Data = []byte{}
	}
	for key, values := range m.Header {
		for _, v := range values {
			if strings.TrimSpace(v) != v || strings.ContainsAny(v, "\r\n\x00") || strings.ContainsAny(key, " :\r\n") || key == "" {
				t.Fatalf("header %q: %q does not survive the wire", key, v)
			}
			out.Header[key] = append(out.Header[key], v)
		}
	}
	return out
}

func TestMessageRoundTrip(t *testing.T) {
	names := rapid.OneOf(
		rapid.String(),
		rapid.SampledFrom([]string{"a", "b", "A", "Nats-Msg-Id", "nats-rollup", "Penstock-Key", "Penstock-Headers", "Status", "Description", "x y", ""}),
	)
	values := rapid.OneOf(
		rapid.SliceOf(rapid.Byte()),
		rapid.Map(rapid.StringMatching(`[ -~]{0,8}`), func(s string) []byte { return []byte(s) }),
	)
	orNil := func(g *rapid.Generator[[]byte]) *rapid.Generator[[]byte] {
		return rapid.OneOf(g, rapid.Just([]byte(nil)), rapid.Just([]byte{}))
	}
	plain := rapid.Custom(func(t *rapid.T) stream.Header {
		return stream.Header{Key: rapid.StringMatching(`[a-c]`).Draw(t, "name"), Value: []byte("v")}
	})
	header := rapid.OneOf(plain, rapid.Custom(func(t *rapid.T) stream.Header {
		return stream.Header{Key: names.Draw(t, "name"), Value: values.Draw(t, "value")}
	}))
	rapid.Check(t, func(t *rapid.T) {
		want := stream.Record{
			Key:     orNil(values).Draw(t, "key"),
			Value:   orNil(values).Draw(t, "value"),
			Headers: rapid.SliceOf(header).Draw(t, "headers"),
			Time:    time.UnixMilli(rapid.Int64Range(-1<<40, 1<<42).Draw(t, "time")),
		}
		got, err := decode(overWire(t, encode(want, "s.0")), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(text(want), text(got)); diff != "" {
			t.Fatalf("records differ (-encoded +decoded):\n%s", diff)
		}
	})
}

// text shows a record; nil and empty differ, but for the values of headers.
func text(r stream.Record) []string {
	nilOr := func(b []byte) string {
		if b == nil {
			return "nil"
		}
		return fmt.Sprintf("%q", b)
	}
	out := []string{nilOr(r.Key), nilOr(r.Value), r.Time.UTC().String()}
	for _, h := range r.Headers {
		out = append(out, fmt.Sprintf("%q: %q", h.Key, h.Value))
	}
	return out
}

// What others see of a message: plain headers stay as they are.
func TestPlainHeadersStay(t *testing.T) {
	m := encode(stream.Record{Value: []byte("v"), Headers: []stream.Header{
		{Key: "content-type", Value: []byte("text/plain")},
		{Key: "ce-id", Value: []byte("a b")},
		{Key: "twice", Value: []byte("1")},
		{Key: "twice", Value: []byte("2")},
		{Key: "bytes", Value: []byte{0}},
	}}, "s.0")
	list := m.Header[headersHeader]
	delete(m.Header, headersHeader)
	if diff := cmp.Diff(nats.Header{"content-type": {"text/plain"}, "ce-id": {"a b"}}, m.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if len(list) != 1 {
		t.Errorf("%d lists of headers, want 1", len(list))
	}
	// In the order in which they are read anyway no list is needed.
	m = encode(stream.Record{Headers: []stream.Header{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}}}, "s.0")
	if m.Header[headersHeader] != nil {
		t.Error("plain headers in their order have a list")
	}
}

// A message of another publisher is a record without a key.
func TestDecodeForeign(t *testing.T) {
	stored := time.UnixMilli(1700000000123)
	f := func(header nats.Header, want ...stream.Header) {
		t.Helper()
		got, err := decode(&nats.Msg{Data: []byte("v"), Header: header}, stored.Add(999*time.Microsecond))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(stream.Record{Value: []byte("v"), Headers: want, Time: stored}, got); diff != "" {
			t.Errorf("decode %v (-want +got):\n%s", header, diff)
		}
	}
	f(nil)
	f(nats.Header{pinHeader: {"x"}})
	f(nats.Header{"B": {"2", "3"}, "A": {"1"}, "Nats-Msg-Id": {"id"}},
		stream.Header{Key: "A", Value: []byte("1")}, stream.Header{Key: "B", Value: []byte("2")},
		stream.Header{Key: "B", Value: []byte("3")}, stream.Header{Key: "Nats-Msg-Id", Value: []byte("id")})
}

// What is broken in Penstock's headers is said, and the rest is read.
func TestDecodeBroken(t *testing.T) {
	f := func(header, value, want string) {
		t.Helper()
		r, err := decode(&nats.Msg{Data: []byte("v"), Header: nats.Header{header: {value}}}, time.UnixMilli(1))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("decode %s %q: %v, want %q", header, value, err, want)
		}
		if string(r.Value) != "v" {
			t.Errorf("decode %s %q: the value is %q", header, value, r.Value)
		}
	}
	list := base64.StdEncoding.EncodeToString
	f(keyHeader, "%", keyHeader)
	f(timeHeader, "yesterday", timeHeader)
	f(headersHeader, "%", headersHeader)
	f(headersHeader, list([]byte{0x80}), "offset 0: expected a length")
	f(headersHeader, list([]byte{5, 'a'}), "offset 1: 5 bytes announced, 1 left")
	f(headersHeader, list([]byte{1, 'a'}), "offset 2: expected a length")
	f(headersHeader, list([]byte{1, 'a', 9, 'b'}), "offset 3: 8 bytes announced, 1 left")
	f(headersHeader, list(bytes.Repeat([]byte{0, 0}, maxHeaders+1)), "more than 16384 headers")
}

func FuzzParseHeaders(f *testing.F) {
	f.Add(appendHeaders(nil, []stream.Header{{Key: "a", Value: []byte("b")}, {Key: "", Value: nil}, {Key: "p"}}, []bool{false, false, true}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{1, 'a', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		headers, err := parseHeaders(b)
		size := 0
		var again []stream.Header
		var plain []bool
		for _, h := range headers {
			size += len(h.Key) + len(h.Value)
			again, plain = append(again, h.Header), append(plain, h.plain)
		}
		if size > len(b) {
			t.Errorf("%d bytes of headers from %d bytes", size, len(b))
		}
		if err != nil {
			return
		}
		// Lengths may be written longer than they need be, the text may not
		// come out the same; its meaning does.
		headers2, err := parseHeaders(appendHeaders(nil, again, plain))
		if diff := cmp.Diff(headers, headers2, cmp.AllowUnexported(header{})); err != nil || diff != "" {
			t.Errorf("parsed again: %v\n%s", err, diff)
		}
	})
}

func TestEscape(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		if got := escape(name); got != want {
			t.Errorf("escape %q: %q, want %q", name, got, want)
		}
	}
	f("flights", "flights")
	f("_schemas", "_schemas")
	f("a.b-c_D9", "a%2Eb-c_D9")
	f("a%2Eb", "a%252Eb")
	f("*>/ \\", "%2A%3E%2F%20%5C")
	f(strings.Repeat("a", maxName), strings.Repeat("a", maxName))
	dots := escape(strings.Repeat(".", 249)) // the longest name that Kafka allows
	if len(dots) != maxName || dots == escape(strings.Repeat(".", 248)) {
		t.Errorf("escape 249 dots: %q", dots)
	}

	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		ea, eb := escape(a), escape(b)
		if (a == b) != (ea == eb) {
			t.Errorf("%q and %q become %q and %q", a, b, ea, eb)
		}
		if len(ea) > maxName || strings.ContainsAny(ea, ".*>/\\ ") {
			t.Errorf("%q becomes %q", a, ea)
		}
	})
}

func TestMessageSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := stream.Record{
			Key:     rapid.SliceOf(rapid.Byte()).Draw(t, "key"),
			Value:   rapid.SliceOf(rapid.Byte()).Draw(t, "value"),
			Headers: []stream.Header{{Key: "h", Value: rapid.SliceOf(rapid.Byte()).Draw(t, "header")}},
			Time:    time.UnixMilli(rapid.Int64Range(0, math.MaxInt32).Draw(t, "time")),
		}
		m := encode(r, "s.0")
		// Size counts the subject as well.
		if got, want := messageSize(m), m.Size()-len(m.Subject); got != want {
			t.Errorf("messageSize: %d, want %d", got, want)
		}
	})
}
