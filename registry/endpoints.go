package registry

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
)

func (h *handler) root(*query) (any, error) { return struct{}{}, nil }

// ready answers that writes are taken. New has replayed the log before there
// is a handler.
func (h *handler) ready(*query) (any, error) {
	select {
	case <-h.r.done:
		return nil, &Error{Code: 503, Message: "The registry is shutting down"}
	default:
		return struct{}{}, nil
	}
}

func (h *handler) types(*query) (any, error) { return h.r.Types(), nil }

// maxSchemas caps what one request for /schemas gets.
const maxSchemas = 1000

func (h *handler) schemas(q *query) (any, error) {
	list := page(q, h.r.Schemas(q.prefix(), q.is("deleted"), q.is("latestOnly")))
	return list[:min(len(list), maxSchemas)], nil
}

// prefix is what the names asked for start with. Without a context in the path,
// that is over all contexts.
func (q *query) prefix() string {
	prefix := q.values.Get("subjectPrefix")
	if strings.HasPrefix(prefix, ":*:") {
		return prefix[len(":*:"):]
	}
	return normalName(q.qualify(prefix))
}

func (h *handler) schemaByID(q *query) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	s, err := h.r.SchemaByID(q.context(), id)
	if err != nil || !q.is("fetchMaxId") {
		return s, err
	}
	return struct {
		Schema
		MaxID int `json:"maxId"`
	}{s, h.r.MaxID(q.context())}, nil
}

func (h *handler) textByID(q *query) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	s, err := h.r.SchemaByID(q.context(), id)
	return raw(s.Schema), err
}

func (h *handler) subjectsByID(q *query) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	uses, err := h.r.VersionsByID(q.context(), id, q.is("deleted"))
	names := make([]string, len(uses))
	for i, u := range uses {
		names[i] = u.Subject
	}
	return page(q, slices.Compact(names)), err
}

func (h *handler) versionsByID(q *query) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	uses, err := h.r.VersionsByID(q.context(), id, q.is("deleted"))
	return page(q, uses), err
}

func (h *handler) schemaByGUID(q *query) (any, error) {
	return h.r.SchemaByGUID(q.req.PathValue("guid"))
}

func (h *handler) idsByGUID(q *query) (any, error) {
	return h.r.IDsByGUID(q.req.PathValue("guid")), nil
}

func (h *handler) subjects(q *query) (any, error) {
	return page(q, h.r.Subjects(q.prefix(), q.deleted())), nil
}

func (h *handler) versions(q *query) (any, error) {
	numbers, err := h.r.Versions(q.subject(), q.deleted())
	return page(q, numbers), err
}

func (h *handler) version(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	return h.r.Version(q.subject(), n, q.is("deleted"))
}

func (h *handler) textOfVersion(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	s, err := h.r.Version(q.subject(), n, q.is("deleted"))
	return raw(s.Schema), err
}

func (h *handler) referencedBy(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	ids, err := h.r.ReferencedBy(q.subject(), n, q.is("deleted"))
	return page(q, ids), err
}

func (h *handler) register(q *query) (any, error) {
	var s Schema
	if err := q.body(&s); err != nil {
		return nil, err
	}
	return h.r.Register(q.req.Context(), q.subject(), s, q.is("force"))
}

func (h *handler) lookup(q *query) (any, error) {
	var s Schema
	if err := q.body(&s); err != nil {
		return nil, err
	}
	return h.r.Lookup(q.subject(), s, q.is("deleted"))
}

func (h *handler) deleteSubject(q *query) (any, error) {
	return h.r.DeleteSubject(q.req.Context(), q.subject(), q.is("permanent"))
}

func (h *handler) deleteVersion(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	return h.r.DeleteVersion(q.req.Context(), q.subject(), n, q.is("permanent"))
}

func (h *handler) checkAll(q *query) (any, error) { return h.check(q, AllVersions) }

func (h *handler) checkOne(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	return h.check(q, n)
}

// checkReply is the answer of the compatibility routes.
type checkReply struct {
	Compatible bool      `json:"is_compatible"`
	Messages   []string  `json:"messages,omitempty"`
	Findings   []Finding `json:"findings,omitempty"`
}

func (h *handler) check(q *query, number int) (any, error) {
	var s Schema
	if err := q.body(&s); err != nil {
		return nil, err
	}
	c, err := h.r.Check(q.subject(), number, s)
	reply := checkReply{Compatible: c.Compatible, Messages: c.Messages, Findings: c.Findings}
	if err != nil {
		if !q.is("verbose") || !errors.Is(err, &Error{Code: CodeInvalidSchema}) {
			return nil, err
		}
		reply.Messages = []string{public(err).Message}
	}
	if !q.is("verbose") {
		reply.Messages = nil
	}
	if !wantsFindings(q.req) {
		reply.Findings = nil
	}
	return reply, nil
}

func (h *handler) config(q *query) (any, error) {
	return h.r.Config(q.subject(), q.is("defaultToGlobal"))
}

// setConfig takes the level, and refuses the other settings that Confluent's
// registry has rather than drop them in silence.
func (h *handler) setConfig(q *query) (any, error) {
	var sent map[string]json.RawMessage
	if err := q.body(&sent); err != nil {
		return nil, err
	}
	var level string
	for _, name := range slices.Sorted(maps.Keys(sent)) {
		switch value := string(sent[name]); {
		case value == "null", value == "false":
		case name == "compatibility":
			if err := json.Unmarshal(sent[name], &level); err != nil {
				return nil, errorf(CodeInvalidLevel, "Invalid compatibility level %s, expected a string", value)
			}
		case slices.Contains([]string{
			"alias", "normalize", "validateFields", "validateRules", "compatibilityGroup", "compatibilityPolicy",
			"defaultMetadata", "overrideMetadata", "defaultRuleSet", "overrideRuleSet",
		}, name):
			return nil, errorf(CodeNotPermitted, "The setting %q is not supported by this registry yet; leave it out", name)
		}
	}
	if level != "" {
		if err := h.r.SetConfig(q.req.Context(), q.subject(), Config{CompatibilityLevel: Level(level)}); err != nil {
			return nil, err
		}
	}
	return struct {
		Compatibility string `json:"compatibility,omitempty"`
	}{strings.ToUpper(level)}, nil
}

func (h *handler) deleteConfig(q *query) (any, error) {
	return h.r.DeleteConfig(q.req.Context(), q.subject())
}

type modeBody struct {
	Mode Mode `json:"mode"`
}

func (h *handler) mode(q *query) (any, error) {
	m, err := h.r.Mode(q.subject(), q.is("defaultToGlobal"))
	return modeBody{m}, err
}

func (h *handler) setMode(q *query) (any, error) {
	var sent modeBody
	if err := q.body(&sent); err != nil {
		return nil, err
	}
	sent.Mode = Mode(strings.ToUpper(string(sent.Mode)))
	return sent, h.r.SetMode(q.req.Context(), q.subject(), sent.Mode, q.is("force"))
}

func (h *handler) deleteMode(q *query) (any, error) {
	m, err := h.r.DeleteMode(q.req.Context(), q.subject())
	return modeBody{m}, err
}

func (h *handler) contexts(q *query) (any, error) { return page(q, h.r.Contexts()), nil }

func (h *handler) clusterID(*query) (any, error) {
	type scope struct {
		Path     []string          `json:"path"`
		Clusters map[string]string `json:"clusters"`
	}
	return struct {
		ID    string `json:"id"`
		Scope scope  `json:"scope"`
	}{Scope: scope{
		Path:     []string{},
		Clusters: map[string]string{"kafka-cluster": h.r.options.ClusterID, "schema-registry-cluster": "schema-registry"},
	}}, nil
}
