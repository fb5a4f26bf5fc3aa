package linking

import (
	"encoding/json"
	"errors"
	"net/http"

	"penstock/registry"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// Handler serves the API of exporters below /exporters. authorize is asked
// before each request, and may refuse it; nil permits everything.
func Handler(m *Manager, authorize func(r *http.Request) error) http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(r *http.Request) (any, error){
		"GET /exporters": func(*http.Request) (any, error) { return m.Names(), nil },
		"POST /exporters": func(r *http.Request) (any, error) {
			var e Exporter
			if err := body(r, &e); err != nil {
				return nil, err
			}
			return named{e.Name}, m.Create(r.Context(), e)
		},
		"GET /exporters/{name}": func(r *http.Request) (any, error) { return m.Get(r.PathValue("name")) },
		"PUT /exporters/{name}": func(r *http.Request) (any, error) {
			var e Exporter
			if err := body(r, &e); err != nil {
				return nil, err
			}
			return named{r.PathValue("name")}, m.Update(r.Context(), r.PathValue("name"), e)
		},
		"DELETE /exporters/{name}": func(r *http.Request) (any, error) { return nil, m.Delete(r.Context(), r.PathValue("name")) },
		"GET /exporters/{name}/config": func(r *http.Request) (any, error) {
			e, err := m.Get(r.PathValue("name"))
			return e.Config, err
		},
		"PUT /exporters/{name}/config": func(r *http.Request) (any, error) {
			var config map[string]string
			if err := body(r, &config); err != nil {
				return nil, err
			}
			return named{r.PathValue("name")}, m.Update(r.Context(), r.PathValue("name"), Exporter{Config: config})
		},
		"GET /exporters/{name}/status": func(r *http.Request) (any, error) { return m.Status(r.PathValue("name")) },
		"PUT /exporters/{name}/pause": func(r *http.Request) (any, error) {
			return named{r.PathValue("name")}, m.Pause(r.Context(), r.PathValue("name"), true)
		},
		"PUT /exporters/{name}/resume": func(r *http.Request) (any, error) {
			return named{r.PathValue("name")}, m.Pause(r.Context(), r.PathValue("name"), false)
		},
		"PUT /exporters/{name}/reset": func(r *http.Request) (any, error) {
			return named{r.PathValue("name")}, m.Reset(r.Context(), r.PathValue("name"))
		},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if authorize != nil {
				if err := authorize(r); err != nil {
					registry.WriteError(w, r, err)
					return
				}
			}
			answer, err := serve(r)
			switch {
			case err != nil:
				registry.WriteError(w, r, err)
			case answer == nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				registry.WriteJSON(w, r, answer)
			}
		})
	}
	return mux
}

// named is what a change answers.
type named struct {
	Name string `json:"name"`
}

func body(r *http.Request, v any) error {
	err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody)).Decode(v)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return &registry.Error{Code: 413, Message: "The body is too large"}
	}
	if err != nil {
		return invalid("the body is a JSON object of its members: %v", err)
	}
	return nil
}
