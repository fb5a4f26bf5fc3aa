package linking

import "penstock/registry"

// Routes is the API of exporters, for registry.HandlerOptions.
func Routes(m *Manager) []registry.Route {
	type request = registry.Request
	// change answers with the name of the exporter that f has changed.
	change := func(f func(r request, name string) error) func(request) (any, error) {
		return func(r request) (any, error) {
			name := r.PathValue("exporter")
			return named{name}, f(r, name)
		}
	}
	update := func(r request, e Exporter) (any, error) {
		name := r.PathValue("exporter")
		return named{name}, m.Update(r.Context(), name, e)
	}
	routes := []registry.Route{
		{Pattern: "GET /exporters", Summary: "Lists the exporters", Reply: []string{}, Serve: func(request) (any, error) {
			return m.Names(), nil
		}},
		{Pattern: "POST /exporters", Summary: "Adds an exporter, which starts", Body: Exporter{}, Reply: named{}, Serve: func(r request) (any, error) {
			var e Exporter
			if err := r.Read(&e); err != nil {
				return nil, err
			}
			return named{e.Name}, m.Create(r.Context(), e)
		}},
		{Pattern: "GET /exporters/{exporter}", Summary: "Returns an exporter, without its secrets", Reply: Exporter{}, Serve: func(r request) (any, error) {
			return m.Get(r.PathValue("exporter"))
		}},
		{Pattern: "PUT /exporters/{exporter}", Summary: "Changes an exporter", Body: Exporter{}, Reply: named{}, Serve: func(r request) (any, error) {
			var e Exporter
			if err := r.Read(&e); err != nil {
				return nil, err
			}
			return update(r, e)
		}},
		{Pattern: "DELETE /exporters/{exporter}", Summary: "Takes an exporter away; what it copied stays", Serve: func(r request) (any, error) {
			return nil, m.Delete(r.Context(), r.PathValue("exporter"))
		}},
		{Pattern: "GET /exporters/{exporter}/config", Summary: "Returns how the target of an exporter is reached", Reply: map[string]string{}, Serve: func(r request) (any, error) {
			e, err := m.Get(r.PathValue("exporter"))
			return e.Config, err
		}},
		{Pattern: "PUT /exporters/{exporter}/config", Summary: "Changes how the target of an exporter is reached", Body: map[string]string{}, Reply: named{}, Serve: func(r request) (any, error) {
			var config map[string]string
			if err := r.Read(&config); err != nil {
				return nil, err
			}
			return update(r, Exporter{Config: config})
		}},
		{Pattern: "GET /exporters/{exporter}/status", Summary: "Returns how an exporter fares", Reply: Status{}, Serve: func(r request) (any, error) {
			return m.Status(r.PathValue("exporter"))
		}},
		{Pattern: "PUT /exporters/{exporter}/pause", Summary: "Stops an exporter until it is resumed", Reply: named{}, Serve: change(func(r request, name string) error {
			return m.Pause(r.Context(), name, true)
		})},
		{Pattern: "PUT /exporters/{exporter}/resume", Summary: "Lets a paused exporter go on", Reply: named{}, Serve: change(func(r request, name string) error {
			return m.Pause(r.Context(), name, false)
		})},
		{Pattern: "PUT /exporters/{exporter}/reset", Summary: "Lets an exporter look anew what its target lacks", Reply: named{}, Serve: change(func(r request, name string) error {
			return m.Reset(r.Context(), name)
		})},
	}
	for i := range routes {
		routes[i].Op = registry.OpAdmin
	}
	return routes
}

// named is what a change answers.
type named struct {
	Name string `json:"name"`
}
