package schemas

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

func TestHeader(t *testing.T) {
	b := AppendHeader([]byte("x"), 258)
	if want := []byte("x\x00\x00\x00\x01\x02"); !bytes.Equal(b, want) {
		t.Errorf("got % x, want % x", b, want)
	}
	h, rest, err := ParseHeader(append(b[1:], "data"...))
	if want := (Header{ID: 258}); err != nil || h != want || string(rest) != "data" {
		t.Errorf("got %v, %q, %v", h, rest, err)
	}

	g, err := ParseGUID("E1DD9A1E-f98b-451b-5369-0370b393966b")
	if err != nil || g.String() != "e1dd9a1e-f98b-451b-5369-0370b393966b" {
		t.Fatalf("got %v, %v", g, err)
	}
	h, rest, err = ParseHeader(append(AppendGUID(nil, g), "data"...))
	if want := (Header{GUID: g, ByGUID: true}); err != nil || h != want || string(rest) != "data" {
		t.Errorf("got %v, %q, %v", h, rest, err)
	}
}

func TestParseGUIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "e1dd9a1ef98b451b53690370b393966b", "e1dd9a1e-f98b-451b-5369-0370b393966", "e1dd9a1e-f98b-451b-5369-0370b393966bb",
		"e1dd9a1g-f98b-451b-5369-0370b393966b", "e1dd9a1e-f98b-451b-5369-0370b39396--", "e1dd9a1e+f98b-451b-5369-0370b393966b",
	} {
		if g, err := ParseGUID(s); err == nil || g != (GUID{}) {
			t.Errorf("%q: got %v, %v", s, g, err)
		}
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	f := func(payload, want string) {
		t.Helper()
		_, _, err := ParseHeader([]byte(payload))
		if !errors.Is(err, ErrNotFramed) || err.Error() != "payload names no schema: "+want {
			t.Errorf("%q: got %v, want %s", payload, err, want)
		}
	}
	f("", "it is empty, expected a byte 0 and a schema id")
	f("\x00\x00\x00\x01", "expected 4 bytes of schema id after the byte 0, found 3")
	f("\x01123456789012345", "expected 16 bytes of schema GUID after the byte 1, found 15")
	f(`{"a":1}`, "expected a first byte of 0 (schema id) or 1 (schema GUID), found 0x7b; was it written without a registry's serializer?")
}

func TestMessageIndexes(t *testing.T) {
	f := func(indexes []int, want string, back ...int) {
		t.Helper()
		b := AppendMessageIndexes(nil, indexes)
		if string(b) != want {
			t.Errorf("%v: got % x, want % x", indexes, b, want)
		}
		got, rest, err := ParseMessageIndexes(append(b, "rest"...))
		if err != nil || !slices.Equal(got, back) || string(rest) != "rest" {
			t.Errorf("%v: got %v, %q, %v", indexes, got, rest, err)
		}
	}
	f(nil, "\x00", 0)
	f([]int{0}, "\x00", 0)
	f([]int{1}, "\x02\x02", 1)
	f([]int{0, 0}, "\x04\x00\x00", 0, 0)
	f([]int{2, 0, 70}, "\x06\x04\x00\x8c\x01", 2, 0, 70)

	bad := func(b, want string) {
		t.Helper()
		if _, _, err := ParseMessageIndexes([]byte(b)); err == nil || err.Error() != "parse message indexes: expected "+want {
			t.Errorf("% x: got %v, want %s", b, err, want)
		}
	}
	bad("", "a count, found the end of the payload or an overlong number")
	bad("\x04\x00", "an index, found the end of the payload or an overlong number")
	bad("\x01", "a count from 0 to 32, found -1")
	bad("\x42", "a count from 0 to 32, found 33")
	bad("\x02\x01", "an index from 0 to 65535, found -1")
	bad("\x02\x80\x80\x08", "an index from 0 to 65535, found 65536")
	bad("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a count, found the end of the payload or an overlong number")
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x00\x00\x00\x00\x01\x00data"))
	f.Add([]byte("\x01aaaabbbbccccdddd\x02\x02data"))
	f.Add([]byte("\x00\x00\x00\x00\x01\x06\x02\x04\x06data"))
	f.Add([]byte("\x00\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, rest, err := ParseHeader(payload)
		if err != nil {
			if !errors.Is(err, ErrNotFramed) {
				t.Fatalf("got %v", err)
			}
			return
		}
		again := AppendHeader(nil, h.ID)
		if h.ByGUID {
			again = AppendGUID(nil, h.GUID)
			if g, err := ParseGUID(h.GUID.String()); err != nil || g != h.GUID {
				t.Fatalf("%v: got %v, %v", h.GUID, g, err)
			}
		}
		if !bytes.Equal(append(again, rest...), payload) {
			t.Fatalf("% x: header %v, rest % x", payload, h, rest)
		}
		indexes, body, err := ParseMessageIndexes(rest)
		if err != nil {
			return
		}
		back, empty, err := ParseMessageIndexes(AppendMessageIndexes(nil, indexes))
		if err != nil || !slices.Equal(back, indexes) || len(empty) > 0 || len(body) > len(rest) {
			t.Fatalf("%v: got %v, %v", indexes, back, err)
		}
	})
}
