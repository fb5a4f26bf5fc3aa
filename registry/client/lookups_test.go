package client_test

import (
	"errors"
	"strings"
	"testing"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/schemas"
)

// A lookup finds the version that it is for, asks once, and tells what goes with
// the schema.
func TestLookups(t *testing.T) {
	r, server, requests := serve(t, nil)
	c := open(t, server.URL, client.Options{})
	ctx := t.Context()
	first, err := c.Register(ctx, "s", registry.Schema{Schema: "a", Metadata: &registry.Metadata{Properties: map[string]string{"major": "1", "team": "b&c"}}})
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Register(ctx, "s", registry.Schema{Schema: "b", Metadata: &registry.Metadata{Properties: map[string]string{"major": "2"}}})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := r.Version("s", 1, false)
	if err != nil {
		t.Fatal(err)
	}
	const contract = `{"metadata":{"properties":{"major":"1","team":"b\u0026c"}}}`
	for _, test := range []struct {
		name    string
		lookup  client.Lookup
		id      schemas.ID
		version int
		text    string
	}{
		{"newest", c.Newest, second, 2, "b"},
		{"version", client.Version(c, 1), first, 1, "a"},
		{"id", client.ID(c, first), first, 0, "a"},
		{"metadata", client.WithMetadata(c, map[string]string{"team": "b&c", "major": "1"}), first, 1, "a"},
		{"register", client.Registering(c, registry.Schema{Schema: "c"}), second + 1, 3, "c"},
	} {
		before := requests.Load()
		for range 3 {
			got, err := test.lookup(ctx, "s")
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			if got.ID != test.id || text(got.Schema) != test.text || test.version != 0 && (got.Version != test.version || got.Subject != "s") {
				t.Errorf("%s: got %+v, want id %d, version %d, %s", test.name, got, test.id, test.version, test.text)
			}
			if test.id == first && (string(got.Contract) != contract || got.GUID.String() != stored.GUID) {
				t.Errorf("%s: contract %s, GUID %s; want %s, %s", test.name, got.Contract, got.GUID, contract, stored.GUID)
			}
		}
		if n := requests.Load() - before; n > 2 {
			t.Errorf("%s: %d requests for 3 lookups", test.name, n)
		}
	}
	if _, err := client.WithMetadata(c, map[string]string{"major": "9"})(ctx, "s"); !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("no version has the metadata: %v", err)
	}
	if _, err := client.Version(c, 9)(ctx, "s"); !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("no such version: %v", err)
	}
	var answer *registry.Error
	if _, err := client.Registering(c, registry.Schema{Schema: "narrow"})(ctx, "s"); !errors.As(err, &answer) || answer.Code != registry.CodeIncompatible {
		t.Errorf("an incompatible schema at first use: %v", err)
	}
	// What is registered meanwhile is the newest at once.
	if _, err := c.Register(ctx, "s", registry.Schema{Schema: "d"}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Newest(ctx, "s"); err != nil || text(got.Schema) != "d" {
		t.Errorf("newest after a registration: %v %v", text(got.Schema), err)
	}
}

func TestAssociated(t *testing.T) {
	r, server, requests := serve(t, nil)
	c := open(t, server.URL, client.Options{})
	if _, err := c.Register(t.Context(), "orders-everywhere", registry.Schema{Schema: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Associate(t.Context(), registry.AssociationRequest{
		ResourceName: "orders/eu", ResourceNamespace: "c1", ResourceID: "id-1", ResourceType: "topic",
		Associations: []registry.AssociationChange{{Op: "CREATE", Subject: "orders-everywhere", AssociationType: "value", Lifecycle: "WEAK"}},
	}, false); err != nil {
		t.Fatal(err)
	}
	otherwise := func(topic string) string { return topic + "-value" }
	subject := client.Associated(c, "value", otherwise)
	before := requests.Load()
	for topic, want := range map[string]string{"orders/eu": "orders-everywhere", "x": "x-value"} {
		for range 3 {
			if got, err := subject(t.Context(), topic, ""); err != nil || got != want {
				t.Errorf("topic %s: subject %q, %v; want %q", topic, got, err, want)
			}
		}
	}
	if n := requests.Load() - before; n != 2 {
		t.Errorf("%d requests for two topics", n)
	}
	server.Close()
	if _, err := subject(t.Context(), "y", ""); !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), `"y"`) {
		t.Errorf("the registry is away: %v", err)
	}
}

// The way from one version to another, in both directions; what is gone for good
// is passed over, what was only deleted is not.
func TestPath(t *testing.T) {
	r, server, _ := serve(t, nil)
	c := open(t, server.URL, client.Options{})
	ctx := t.Context()
	ids := map[string]schemas.ID{}
	for _, schema := range []string{"a", "b", "c", "d"} {
		id, err := c.Register(ctx, "s", registry.Schema{Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		ids[schema] = id
	}
	for number, permanent := range map[int][]bool{2: {false}, 3: {false, true}} {
		for _, p := range permanent {
			if _, err := r.DeleteVersion(ctx, "s", number, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	newest, err := c.Newest(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	f := func(from, to schemas.Registered, want string) {
		t.Helper()
		path, err := c.Path(ctx, "s", from, to)
		got := ""
		for _, found := range path {
			got += text(found.Schema)
		}
		if err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	first, err := c.Registered(ctx, schemas.Header{ID: ids["a"]})
	if err != nil || text(first.Schema) != "a" {
		t.Fatal(err)
	}
	f(first, newest, "abd")
	version, err := client.Version(c, 1)(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	f(newest, version, "dba")
	f(newest, newest, "d")
	if _, err := c.Path(ctx, "other", first, newest); !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("the way out of another subject: %v", err)
	}
}
