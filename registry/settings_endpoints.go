package registry

import (
	"cmp"
	"encoding/json"
	"strings"
)

func (h *handler) config(q *query) (any, error) {
	return h.r.Config(q.scope(), q.is("defaultToGlobal"))
}

// configUpdate is a configuration as it is set, where the level has another
// name.
type configUpdate struct {
	Compatibility Level `json:"compatibility,omitempty"`
	Config
}

func (h *handler) setConfig(q *query) (any, error) {
	var sent map[string]json.RawMessage
	if err := q.body(&sent); err != nil {
		return nil, err
	}
	var c Config
	var level struct{ Compatibility Level }
	for _, into := range []any{&c, &level} {
		if err := json.Unmarshal(toJSON(sent), into); err != nil {
			return nil, badJSON(err)
		}
	}
	c.CompatibilityLevel = cmp.Or(level.Compatibility, c.CompatibilityLevel)
	var clear []string
	for name, value := range sent {
		if string(value) == "null" {
			if name == "compatibility" {
				name = "compatibilityLevel"
			}
			clear = append(clear, name)
		}
	}
	if len(sent) > 0 {
		if err := h.r.SetConfig(q.req.Context(), q.scope(), c, clear...); err != nil {
			return nil, err
		}
	}
	reply := configUpdate{Compatibility: Level(strings.ToUpper(string(c.CompatibilityLevel))), Config: c}
	reply.CompatibilityLevel = ""
	reply.CompatibilityPolicy = Policy(strings.ToUpper(string(c.CompatibilityPolicy)))
	return reply, nil
}

func (h *handler) deleteConfig(q *query) (any, error) {
	return h.r.DeleteConfig(q.req.Context(), q.scope())
}

// modeBody is a mode as it is set and returned; null where there was none.
type modeBody struct {
	Mode *Mode `json:"mode"`
}

func (h *handler) mode(q *query) (any, error) {
	m, err := h.r.Mode(q.scope(), q.is("defaultToGlobal"))
	return modeBody{&m}, err
}

func (h *handler) setMode(q *query) (any, error) {
	var sent modeBody
	if err := q.body(&sent); err != nil {
		return nil, err
	}
	m := Mode(strings.ToUpper(string(deref(sent.Mode))))
	return modeBody{&m}, h.r.SetMode(q.req.Context(), q.scope(), m, q.is("force"))
}

func (h *handler) deleteMode(q *query) (any, error) {
	m, err := h.r.DeleteMode(q.req.Context(), q.scope(), q.is("recursive"))
	return modeBody{pointerUnless(m == "", m)}, err
}
