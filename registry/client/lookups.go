package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"penstock/registry"
	"penstock/schemas"
)

// Lookup returns a schema of a subject: the newest (Newest), or the one that its
// maker says. It answers from a cache, and its errors are those of Schema.
type Lookup = func(ctx context.Context, subject string) (schemas.Registered, error)

// Version returns a Lookup of one version, whether it is deleted since or not.
func Version(c *Client, number int) Lookup {
	return func(ctx context.Context, subject string) (schemas.Registered, error) {
		return c.fixed(ctx, choice{subject: subject, version: number})
	}
}

// ID returns a Lookup of one schema, whatever the subject.
func ID(c *Client, id schemas.ID) Lookup {
	return func(ctx context.Context, _ string) (schemas.Registered, error) {
		return c.fixed(ctx, id)
	}
}

// WithMetadata returns a Lookup of the newest version whose metadata has these
// properties. The answer may be as old as that of Newest.
func WithMetadata(c *Client, properties map[string]string) Lookup {
	text, err := json.Marshal(properties) // with its keys in order
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", properties, err)) // strings always have a JSON
	}
	return func(ctx context.Context, subject string) (schemas.Registered, error) {
		return c.moving(ctx, choice{subject: subject, version: latest, properties: string(text)})
	}
}

// Registering returns a Lookup of s, which registers it under a subject that does
// not have it, at first use. Only what the registry accepts is kept, for good.
func Registering(c *Client, s registry.Schema) Lookup {
	text, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", s, err)) // strings and numbers always have a JSON
	}
	return func(ctx context.Context, subject string) (schemas.Registered, error) {
		return c.fixed(ctx, registering{subject, string(text), s.Normalize})
	}
}

// registering is the key of a schema that is registered at first use.
type registering struct {
	subject   string
	text      string // of a registry.Schema, in JSON
	normalize bool
}

// byRegistering implements registeringSource.
func (c *Client) byRegistering(ctx context.Context, key registering) (registry.Schema, error) {
	var s registry.Schema
	if err := json.Unmarshal([]byte(key.text), &s); err != nil {
		return s, fmt.Errorf("register schema of subject %q: %w", key.subject, err)
	}
	s.Normalize = key.normalize
	if _, err := c.Register(ctx, key.subject, s); err != nil {
		return s, err
	}
	return c.Lookup(ctx, key.subject, s)
}

// Registered returns the schema that a record names, and all that the registry
// says of it. Its errors are those of Schema.
func (c *Client) Registered(ctx context.Context, named schemas.Header) (schemas.Registered, error) {
	if named.ByGUID {
		return c.fixed(ctx, named.GUID)
	}
	return c.fixed(ctx, named.ID)
}

// maxPath is how many versions one may lie from another.
const maxPath = 10_000

// Path returns the versions that lead from one schema of a subject to another, the
// two included, in that order; those that are gone for good are left out. The
// error wraps schemas.ErrNoSchema if the first is no version of the subject.
func (c *Client) Path(ctx context.Context, subject string, from, to schemas.Registered) ([]schemas.Registered, error) {
	first := from.Version
	if from.Subject != subject || first == 0 {
		uses, err := c.UsesOf(ctx, subject, from.ID)
		if err != nil {
			return nil, err
		}
		first = 0
		for _, use := range uses {
			if use.Subject == subject {
				first = use.Version
			}
		}
		if first == 0 {
			return nil, fmt.Errorf("%w: subject %q has no version with schema %d", schemas.ErrNoSchema, subject, from.ID)
		}
	}
	step := 1
	if first > to.Version {
		step = -1
	}
	if n := max(first, to.Version) - min(first, to.Version); n > maxPath {
		return nil, fmt.Errorf("the way from version %d of subject %q to version %d has %d steps, more than %d", first, subject, to.Version, n, maxPath)
	}
	var path []schemas.Registered
	for number := first; ; number += step {
		switch found, err := c.fixed(ctx, choice{subject: subject, version: number}); {
		case err == nil:
			path = append(path, found)
		case !errors.Is(err, schemas.ErrNoSchema):
			return nil, err
		}
		if number == to.Version {
			return path, nil
		}
	}
}

// Associated returns what names the subject of a topic's keys or values (part is
// "key" or "value"): the one that the registry associates with the topic, else
// what otherwise says. The answer may be as old as that of Newest.
func Associated(c *Client, part string, otherwise func(topic string) string) func(ctx context.Context, topic, _ string) (string, error) {
	return func(ctx context.Context, topic, _ string) (string, error) {
		found, err := c.moving(ctx, association{topic, part})
		if err != nil {
			return "", err
		}
		return cmp.Or(found.Subject, otherwise(topic)), nil
	}
}

// association is the key of a topic's subject.
type association struct{ topic, part string }

// subjectOf implements associationSource.
func (c *Client) subjectOf(ctx context.Context, a association) (string, error) {
	var list []registry.Association
	err := c.do(ctx, http.MethodGet, "/associations/resources/-/"+url.PathEscape(a.topic),
		url.Values{"resourceType": {"topic"}, "associationType": {a.part}}, nil, &list)
	var answer *registry.Error
	switch {
	case errors.As(err, &answer) && answer.Code.Status() == http.StatusNotFound:
		return "", nil // a registry without associations, too
	case err != nil:
		return "", fmt.Errorf("get the subject that topic %q is associated with: %w", a.topic, err)
	case len(list) > 1:
		return "", fmt.Errorf("topic %q is associated with %d subjects for its %s; one of its namespaces has to be meant, and none can be said", a.topic, len(list), a.part)
	case len(list) == 0:
		return "", nil
	}
	return list[0].Subject, nil
}

// Parse parses what the registry said of a version, with what that refers to.
// Its errors wrap schemas.ErrBadSchema where the text is beyond what is
// understood here.
func (c *Client) Parse(ctx context.Context, s registry.Schema) (schemas.Schema, error) {
	texts := map[string]string{}
	if err := c.references(ctx, s.References, texts); err != nil {
		return nil, fmt.Errorf("get what version %d of subject %q refers to: %w", s.Version, s.Subject, err)
	}
	return c.parse(s, texts)
}
