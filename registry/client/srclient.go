package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/riferrei/srclient"

	"penstock/registry"
	"penstock/schemas"
)

// Srclient answers Schema and Latest through a client of the package srclient,
// for programs that have one set up already. It keeps what it has read as
// Client does, and may be used concurrently.
type Srclient struct {
	*cache
}

// FromSrclient returns an adapter of c. Requests of c know no context: a caller
// whose context ends goes on at once, but Close waits for those under way, up
// to c's own time limit. Whoever calls it calls Close.
func FromSrclient(c *srclient.SchemaRegistryClient, formats []schemas.Format, o CacheOptions) *Srclient {
	return &Srclient{newCache(srclientSource{c}, formats, o)}
}

type srclientSource struct {
	client *srclient.SchemaRegistryClient
}

func (s srclientSource) byID(_ context.Context, id schemas.ID) (registry.Schema, error) {
	got, err := s.client.GetSchema(int(id))
	if err != nil {
		return registry.Schema{}, srclientError(err)
	}
	return fromSrclient(got), nil
}

// byVersion asks for the list of versions first where the newest is wanted:
// srclient keeps its own answer for "latest" without end.
func (s srclientSource) byVersion(_ context.Context, subject string, number int) (registry.Schema, error) {
	if number == latest {
		numbers, err := s.client.GetSchemaVersions(subject)
		if err != nil {
			return registry.Schema{}, srclientError(err)
		}
		if len(numbers) == 0 {
			return registry.Schema{}, fmt.Errorf("subject %q has no versions: %w", subject, schemas.ErrNoSchema)
		}
		number = slices.Max(numbers)
	}
	got, err := s.client.GetSchemaByVersion(subject, number)
	if err != nil {
		return registry.Schema{}, srclientError(err)
	}
	return fromSrclient(got), nil
}

func fromSrclient(s *srclient.Schema) registry.Schema {
	out := registry.Schema{ID: s.ID(), Version: s.Version(), Schema: s.Schema()}
	if t := s.SchemaType(); t != nil {
		out.SchemaType = schemas.Type(t.String())
	}
	for _, r := range s.References() {
		out.References = append(out.References, registry.Reference{Name: r.Name, Subject: r.Subject, Version: r.Version})
	}
	return out
}

func srclientError(err error) error {
	var answer srclient.Error
	if errors.As(err, &answer) {
		return &registry.Error{Code: registry.Code(answer.Code), Message: answer.Message}
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
