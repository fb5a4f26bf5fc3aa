package nats

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"penstock/stream"
)

// The headers that carry what a NATS message has no place for. A message with
// none of them reads as a record without a key.
const (
	keyHeader     = "Penstock-Key"     // base64
	nullHeader    = "Penstock-Null"    // "1": the value is nil, not empty
	timeHeader    = "Penstock-Time"    // Unix milliseconds; without it the time of storage holds
	headersHeader = "Penstock-Headers" // base64 of appendHeaders
)

// maxHeaders bounds how many headers are decoded from one message. NATS admits
// 64 KiB of them.
const maxHeaders = 16384

// encode returns r as a message to subject.
func encode(r stream.Record, subject string) *nats.Msg {
	m := &nats.Msg{Subject: subject, Data: r.Value}
	set := func(key, value string) {
		if m.Header == nil {
			m.Header = nats.Header{}
		}
		m.Header[key] = []string{value}
	}
	if r.Key != nil {
		set(keyHeader, base64.StdEncoding.EncodeToString(r.Key))
	}
	if r.Value == nil {
		set(nullHeader, "1")
	}
	if !r.Time.IsZero() {
		set(timeHeader, strconv.FormatInt(r.Time.UnixMilli(), 10))
	}
	if len(r.Headers) == 0 {
		return m
	}
	// A message keeps plain headers, but not their order.
	inOrder := true
	plain := make([]bool, len(r.Headers))
	count := make(map[string]int, len(r.Headers))
	for _, h := range r.Headers {
		count[h.Key]++
	}
	for i, h := range r.Headers {
		plain[i] = count[h.Key] == 1 && isPlainName(h.Key) && isPlainValue(h.Value)
		if plain[i] {
			set(h.Key, string(h.Value))
		}
		if !plain[i] || i > 0 && h.Key < r.Headers[i-1].Key {
			inOrder = false
		}
	}
	if !inOrder {
		set(headersHeader, base64.StdEncoding.EncodeToString(appendHeaders(nil, r.Headers, plain)))
	}
	return m
}

// decode returns what a message says. Where a record lies is the caller's to
// fill in. An error means that the Penstock headers were not written by
// Penstock; the record then holds what could be read.
func decode(m *nats.Msg, stored time.Time) (stream.Record, error) {
	r := stream.Record{Value: m.Data, Time: time.UnixMilli(stored.UnixMilli())}
	if r.Value == nil {
		r.Value = []byte{}
	}
	if len(m.Header) == 0 {
		return r, nil
	}
	var errs []error
	if v, ok := first(m.Header, keyHeader); ok {
		key, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("header %s: %w", keyHeader, err))
		} else {
			r.Key = key
		}
	}
	if v, ok := first(m.Header, nullHeader); ok && v == "1" && len(m.Data) == 0 {
		r.Value = nil
	}
	if v, ok := first(m.Header, timeHeader); ok {
		ms, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("header %s: %w", timeHeader, err))
		} else {
			r.Time = time.UnixMilli(ms)
		}
	}
	var listed []header
	if v, ok := first(m.Header, headersHeader); ok {
		text, err := base64.StdEncoding.DecodeString(v)
		if err == nil {
			listed, err = parseHeaders(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("header %s: %w", headersHeader, err))
		}
	}
	r.Headers = merge(listed, m.Header)
	return r, errors.Join(errs...)
}

// merge puts the plain headers of a message where the list says they stand,
// and those that the list does not name behind it, by name.
func merge(listed []header, plain nats.Header) []stream.Header {
	var out []stream.Header
	named := map[string]bool{}
	for _, h := range listed {
		if h.plain {
			v, ok := first(plain, h.Key)
			if !ok || named[h.Key] {
				continue
			}
			named[h.Key] = true
			h.Value = []byte(v)
		}
		out = append(out, h.Header)
	}
	for _, key := range slices.Sorted(maps.Keys(plain)) {
		if named[key] || isOurs(key) {
			continue
		}
		for _, v := range plain[key] {
			out = append(out, stream.Header{Key: key, Value: []byte(v)})
		}
	}
	return out
}

func first(h nats.Header, key string) (string, bool) {
	if vs := h[key]; len(vs) > 0 {
		return vs[0], true
	}
	return "", false
}

// isOurs tells the headers that Penstock or the server adds for a message's way.
func isOurs(key string) bool {
	switch key {
	case keyHeader, nullHeader, timeHeader, headersHeader,
		batchIDHeader, batchSequenceHeader, batchCommitHeader, pinHeader:
		return true
	}
	return false
}

// isPlainName reports whether a header of that name may stand in a message as
// it is: its name is a token, and means nothing to the server, to a NATS client
// or to decode.
func isPlainName(name string) bool {
	if name == "" || name == "Status" || name == "Description" {
		return false
	}
	for _, prefix := range []string{"Nats-", "Penstock-"} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return false
		}
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			continue
		}
		if strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

// isPlainValue reports whether NATS carries value unchanged: visible ASCII, no
// space at its ends.
func isPlainValue(value []byte) bool {
	for _, c := range value {
		if c < ' ' || c > '~' {
			return false
		}
	}
	n := len(value)
	return n > 0 && value[0] != ' ' && value[n-1] != ' '
}

// header is an entry of the list in headersHeader: a header with its value, or
// the place of one that stands in the message as it is.
type header struct {
	stream.Header
	plain bool
}

// appendHeaders writes headers in their order: the length of the name, the
// name, then 0 for a plain header, or the length of the value plus one and the
// value. Lengths are varints.
func appendHeaders(b []byte, headers []stream.Header, plain []bool) []byte {
	for i, h := range headers {
		b = binary.AppendUvarint(b, uint64(len(h.Key)))
		b = append(b, h.Key...)
		if plain[i] {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(h.Value))+1)
		b = append(b, h.Value...)
	}
	return b
}

// parseHeaders reads what appendHeaders wrote. The values share b.
func parseHeaders(b []byte) ([]header, error) {
	var out []header
	total := len(b)
	length := func() (uint64, error) {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return 0, fmt.Errorf("offset %d: expected a length", total-len(b))
		}
		b = b[size:]
		return n, nil
	}
	take := func(n uint64) ([]byte, error) {
		if n > uint64(len(b)) {
			return nil, fmt.Errorf("offset %d: %d bytes announced, %d left", total-len(b), n, len(b))
		}
		part := b[:n:n]
		b = b[n:]
		return part, nil
	}
	for len(b) > 0 {
		if len(out) == maxHeaders {
			return out, fmt.Errorf("more than %d headers", maxHeaders)
		}
		n, err := length()
		if err != nil {
			return out, err
		}
		name, err := take(n)
		if err != nil {
			return out, err
		}
		h := header{Header: stream.Header{Key: string(name)}}
		if n, err = length(); err != nil {
			return out, err
		}
		if n == 0 {
			h.plain = true
		} else if h.Value, err = take(n - 1); err != nil {
			return out, err
		}
		out = append(out, h)
	}
	return out, nil
}
