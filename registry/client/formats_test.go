package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/riferrei/srclient"
	"github.com/twmb/franz-go/pkg/sr"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/registry/compat"
	"penstock/registry/logs/memory"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/schemas/jsonschema"
	"penstock/schemas/protobuf"
)

var languages = []schemas.Format{avro.Format{}, jsonschema.Format{}, protobuf.Format{}}

// A life is a subject's in one language: a payment with an amount of another
// subject, then with a note as well, and one that cannot follow.
type life struct {
	language                 schemas.Type
	reference                string // the name of the other subject's schema
	amount, one, two, broken string
	first, second            any
	// What the two are encoded as, worked out by hand.
	firstBytes, secondBytes string
	indexes                 []byte // of messages, in front of these
}

var lives = []life{
	{
		language: schemas.Avro, reference: "Amount",
		amount: `{"type":"record","name":"Amount","fields":[{"name":"units","type":"long"}]}`,
		one:    `{"type":"record","name":"Payment","fields":[{"name":"n","type":"long"},{"name":"amount","type":"Amount"}]}`,
		two:    `{"type":"record","name":"Payment","fields":[{"name":"n","type":"long"},{"name":"amount","type":"Amount"},{"name":"note","type":"string","default":""}]}`,
		broken: `{"type":"record","name":"Payment","fields":[{"name":"n","type":"string"},{"name":"amount","type":"Amount"}]}`,
		first:  map[string]any{"n": int64(3), "amount": map[string]any{"units": int64(5)}},
		second: map[string]any{"n": int64(3), "amount": map[string]any{"units": int64(5)}, "note": "y"},

		firstBytes: "\x06\x0a", secondBytes: "\x06\x0a\x02y",
	},
	{
		language: schemas.JSON, reference: "amount.json",
		amount: `{"type":"object","properties":{"units":{"type":"integer"}}}`,
		one:    `{"type":"object","properties":{"n":{"type":"integer"},"amount":{"$ref":"amount.json"}},"additionalProperties":false}`,
		two:    `{"type":"object","properties":{"n":{"type":"integer"},"amount":{"$ref":"amount.json"},"note":{"type":"string"}},"additionalProperties":false}`,
		broken: `{"type":"object","properties":{"n":{"type":"string"},"amount":{"$ref":"amount.json"}},"additionalProperties":false}`,
		first:  map[string]any{"n": json.Number("3"), "amount": map[string]any{"units": json.Number("5")}},
		second: map[string]any{"n": json.Number("3"), "amount": map[string]any{"units": json.Number("5")}, "note": "y"},

		firstBytes: `{"amount":{"units":5},"n":3}`, secondBytes: `{"amount":{"units":5},"n":3,"note":"y"}`,
	},
	{
		language: schemas.Protobuf, reference: "amount.proto",
		amount: `syntax = "proto3"; message Amount { int64 units = 1; }`,
		one:    `syntax = "proto3"; import "amount.proto"; message Payment { int64 n = 1; Amount amount = 2; }`,
		two:    `syntax = "proto3"; import "amount.proto"; message Payment { int64 n = 1; Amount amount = 2; string note = 3; }`,
		broken: `syntax = "proto3"; import "amount.proto"; message Payment { string n = 1; Amount amount = 2; }`,
		first:  map[string]any{"n": int64(3), "amount": map[string]any{"units": int64(5)}},
		second: map[string]any{"n": int64(3), "amount": map[string]any{"units": int64(5)}, "note": "y"},

		firstBytes: "\x08\x03\x12\x02\x08\x05", secondBytes: "\x08\x03\x12\x02\x08\x05\x1a\x01y",
		indexes: []byte{0},
	},
}

// peer is another client of registries, and our schemas read through or beside
// it.
type peer interface {
	create(subject, text string, refs ...registry.Reference) (id int, err error)
	lookup(subject, text string, refs ...registry.Reference) (version int, err error)
	compatible(subject, text string, refs ...registry.Reference) (bool, error)
	remove(subject string, permanent bool) error
	// payload is data behind the header as the peer writes it, and data what it
	// finds behind the header.
	payload(id int, indexes, data []byte) ([]byte, error)
	data(id int, indexes, payload []byte) ([]byte, error)
}

// TestLives runs a subject's life in the three languages with other people's
// clients: register, encode, decode, evolve, check, delete.
func TestLives(t *testing.T) {
	for _, l := range lives {
		t.Run("franz-go "+string(l.language), func(t *testing.T) {
			url := serveLanguages(t)
			theirs, err := sr.NewClient(sr.URLs(url))
			if err != nil {
				t.Fatal(err)
			}
			ours, err := client.New(url, languages, client.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			l.live(t, franz{t, theirs, l.language}, ours.Schema)
		})
		t.Run("srclient "+string(l.language), func(t *testing.T) {
			theirs := srclient.NewSchemaRegistryClient(serveLanguages(t))
			ours := client.FromSrclient(theirs, languages, client.CacheOptions{})
			defer ours.Close()
			l.live(t, riferrei{theirs, srclient.SchemaType(l.language)}, ours.Schema)
		})
	}
}

func serveLanguages(t *testing.T) (url string) {
	r, err := registry.New(t.Context(), memory.New(), languages, compat.Checker{}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	server := httptest.NewServer(registry.Handler(r, registry.HandlerOptions{}))
	t.Cleanup(server.Close)
	return server.URL
}

func (l life) live(t *testing.T, p peer, schema func(context.Context, schemas.ID) (schemas.Schema, error)) {
	const subject = "payments-value"
	ref := registry.Reference{Name: l.reference, Subject: "amount", Version: 1}
	if _, err := p.create("amount", l.amount); err != nil {
		t.Fatal(err)
	}
	// exchange lets each side read what the other wrote.
	exchange := func(id int, value any, data string) {
		t.Helper()
		s, err := schema(t.Context(), schemas.ID(id))
		if err != nil {
			t.Fatal(err)
		}
		payload, err := p.payload(id, l.indexes, []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		h, rest, err := schemas.ParseHeader(payload)
		if err != nil || h.ID != schemas.ID(id) {
			t.Fatalf("header: %+v %v, want id %d", h, err, id)
		}
		of, body, err := schemas.SelectMessage(s, rest)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := schemas.Decode(of, body, schemas.Limits{}); err != nil || !cmp.Equal(got, value) {
			t.Errorf("their payload is read as %v, %v, want %v", got, err, value)
		}
		ours, err := s.AppendEncode(schemas.AppendFrame(nil, schemas.ID(id), s), value)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.data(id, l.indexes, ours); err != nil || string(got) != data {
			t.Errorf("our payload is read as %q, %v, want %q", got, err, data)
		}
	}
	check := func(text string, want bool) {
		t.Helper()
		if ok, err := p.compatible(subject, text, ref); err != nil || ok != want {
			t.Errorf("compatible: %v %v, want %v", ok, err, want)
		}
	}

	one, err := p.create(subject, l.one, ref)
	if err != nil {
		t.Fatal(err)
	}
	exchange(one, l.first, l.firstBytes)
	check(l.two, true)
	check(l.broken, false)
	if _, err := p.create(subject, l.broken, ref); err == nil {
		t.Error("a schema that breaks its readers is registered")
	}
	two, err := p.create(subject, l.two, ref)
	if err != nil || two == one {
		t.Fatalf("evolve: id %d, %v, want another than %d", two, err, one)
	}
	exchange(two, l.second, l.secondBytes)
	exchange(one, l.first, l.firstBytes) // old events stay readable
	for version, text := range map[int]string{1: l.one, 2: l.two} {
		if n, err := p.lookup(subject, text, ref); err != nil || n != version {
			t.Errorf("lookup: version %d, %v, want %d", n, err, version)
		}
	}
	if again, err := p.create(subject, l.one, ref); err != nil || again != one {
		t.Errorf("register again: id %d, %v, want %d", again, err, one)
	}
	if err := p.remove("amount", false); err == nil {
		t.Error("what is referred to is deleted")
	}
	for _, permanent := range []bool{false, true} {
		if err := p.remove(subject, permanent); err != nil {
			t.Errorf("delete, permanent %v: %v", permanent, err)
		}
	}
	if n, err := p.lookup(subject, l.two, ref); err == nil {
		t.Errorf("version %d is there after its deletion", n)
	}
	if err := p.remove("amount", false); err != nil {
		t.Errorf("delete what was referred to: %v", err)
	}
}

// franz is franz-go's client, with its Serde.
type franz struct {
	t        *testing.T
	client   *sr.Client
	language schemas.Type
}

func (f franz) schema(text string, refs []registry.Reference) sr.Schema {
	s := sr.Schema{Schema: text}
	if err := s.Type.UnmarshalText([]byte(f.language)); err != nil {
		f.t.Fatal(err)
	}
	for _, r := range refs {
		s.References = append(s.References, sr.SchemaReference{Name: r.Name, Subject: r.Subject, Version: r.Version})
	}
	return s
}

func (f franz) create(subject, text string, refs ...registry.Reference) (int, error) {
	s, err := f.client.CreateSchema(f.t.Context(), subject, f.schema(text, refs))
	return s.ID, err
}

func (f franz) lookup(subject, text string, refs ...registry.Reference) (int, error) {
	s, err := f.client.LookupSchema(f.t.Context(), subject, f.schema(text, refs))
	return s.Version, err
}

func (f franz) compatible(subject, text string, refs ...registry.Reference) (bool, error) {
	answer, err := f.client.CheckCompatibility(f.t.Context(), subject, -1, f.schema(text, refs))
	return answer.Is, err
}

func (f franz) remove(subject string, permanent bool) error {
	_, err := f.client.DeleteSubject(f.t.Context(), subject, sr.DeleteHow(permanent))
	return err
}

// encoded is a value that is its own encoding.
type encoded struct{ data []byte }

func serde(id int, indexes []byte) *sr.Serde {
	options := []sr.EncodingOpt{
		sr.EncodeFn(func(v any) ([]byte, error) { return v.(encoded).data, nil }),
		sr.DecodeFn(func(data []byte, v any) error {
			v.(*encoded).data = bytes.Clone(data)
			return nil
		}),
	}
	if len(indexes) > 0 {
		options = append(options, sr.Index(0))
	}
	var s sr.Serde
	s.Register(id, encoded{}, options...)
	return &s
}

func (franz) payload(id int, indexes, data []byte) ([]byte, error) {
	return serde(id, indexes).Encode(encoded{data})
}

func (franz) data(id int, indexes, payload []byte) ([]byte, error) {
	var v encoded
	err := serde(id, indexes).Decode(payload, &v)
	return v.data, err
}

// riferrei is srclient, which leaves payloads to its user.
type riferrei struct {
	client   *srclient.SchemaRegistryClient
	language srclient.SchemaType
}

func srclientReferences(refs []registry.Reference) (out []srclient.Reference) {
	for _, r := range refs {
		out = append(out, srclient.Reference{Name: r.Name, Subject: r.Subject, Version: r.Version})
	}
	return out
}

func (r riferrei) create(subject, text string, refs ...registry.Reference) (int, error) {
	s, err := r.client.CreateSchema(subject, text, r.language, srclientReferences(refs)...)
	if err != nil {
		return 0, err
	}
	return s.ID(), nil
}

func (r riferrei) lookup(subject, text string, refs ...registry.Reference) (int, error) {
	s, err := r.client.LookupSchema(subject, text, r.language, srclientReferences(refs)...)
	if err != nil {
		return 0, err
	}
	return s.Version(), nil
}

func (r riferrei) compatible(subject, text string, refs ...registry.Reference) (bool, error) {
	return r.client.IsSchemaCompatible(subject, text, "latest", r.language, srclientReferences(refs)...)
}

func (r riferrei) remove(subject string, permanent bool) error {
	return r.client.DeleteSubject(subject, permanent)
}

func (riferrei) payload(id int, indexes, data []byte) ([]byte, error) {
	payload := binary.BigEndian.AppendUint32([]byte{0}, uint32(id))
	return append(append(payload, indexes...), data...), nil
}

func (riferrei) data(id int, indexes, payload []byte) ([]byte, error) {
	header, err := riferrei{}.payload(id, indexes, nil)
	data, ok := bytes.CutPrefix(payload, header)
	if !ok {
		return nil, errors.New("another header")
	}
	return data, err
}
