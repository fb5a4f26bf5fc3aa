package linking

import (
	"encoding/json"
	"errors"
	"net/http"

	"penstock/registry"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// Routes is the API of exporters, for registry.HandlerOptions.
func Routes(m *Manager) []registry.Route {
	one := func(f func(r *http.Request, name string) (any, error)) func(r *http.Request) (any, error) {
		return func(r *http.Request) (any, error) { return f(r, r.PathValue("name")) }
	}
	return []registry.Route{
		{Pattern: "GET /exporters", Op: registry.OpAdmin, Serve: func(*http.Request) (any, error) { return m.Names(), nil }},
		{Pattern: "POST /exporters", Op: registry.OpAdmin, Serve: func(r *http.Request) (any, error) {
			var e Exporter
			if err := body(r, &e); err != nil {
				return nil, err
			}
			return named{e.Name}, m.Create(r.Context(), e)
		}},
		{Pattern: "GET /exporters/{name}", Op: registry.OpAdmin, Serve: one(func(_ *http.Request, name string) (any, error) {
			return m.Get(name)
		})},
		{Pattern: "PUT /exporters/{name}", Op: registry.OpAdmin, Serve: one(func(r *http.Request, name string) (any, error) {
			var e Exporter
			if err := body(r, &e); err != nil {
				return nil, err
			}
			return named{name}, m.Update(r.Context(), name, e)
		})},
		{Pattern: "DELETE /exporters/{name}", Op: registry.OpAdmin, Serve: one(func(r *http.Request, name string) (any, error) {
			return nil, m.Delete(r.Context(), name)
		})},
		{Pattern: "GET /exporters/{name}/config", Op: registry.OpAdmin, Serve: one(func(_ *http.Request, name string) (any, error) {
			e, err := m.Get(name)
			return e.Config, err
		})},
		{Pattern: "PUT /exporters/{name}/config", Op: registry.OpAdmin, Serve: one(func(r *http.Request, name string) (any, error) {
			var config map[string]string
			if err := body(r, &config); err != nil {
				return nil, err
			}
			return named{name}, m.Update(r.Context(), name, Exporter{Config: config})
		})},
		{Pattern: "GET /exporters/{name}/status", Op: registry.OpAdmin, Serve: one(func(_ *http.Request, name string) (any, error) {
			return m.Status(name)
		})},
		{Pattern: "PUT /exporters/{name}/pause", Op: registry.OpAdmin, Serve: one(func(r *http.Request, name string) (any, error) {
			return named{name}, m.Pause(r.Context(), name, true)
		})},
		{Pattern: "PUT /exporters/{name}/resume", Op: registry.OpAdmin, Serve: one(func(r *http.Request, name string) (any, error) {
			return named{name}, m.Pause(r.Context(), name, false)
		})},
		{Pattern: "PUT /exporters/{name}/reset", Op: registry.OpAdmin, Serve: one(func(r *http.Request, name string) (any, error) {
			return named{name}, m.Reset(r.Context(), name)
		})},
	}
}

// named is what a change answers.
type named struct {
	Name string `json:"name"`
}

func body(r *http.Request, v any) error {
	err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody)).Decode(v)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return &registry.Error{Code: http.StatusRequestEntityTooLarge, Message: "The body is too large"}
	}
	if err != nil {
		return invalid("the body is a JSON object of its members: %v", err)
	}
	return nil
}
