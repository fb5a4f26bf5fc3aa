package registry

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"penstock/schemas"
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
	prefix := q.prefix()
	list := h.r.Schemas(prefix, q.is("deleted"), q.is("latestOnly"))
	var aliases map[string][]string
	if q.is("aliases") {
		aliases = h.r.aliases()
		matches := prefixFilter(prefix)
		for target, names := range aliases {
			if !matches(target) && slices.ContainsFunc(names, matches) {
				for _, s := range h.r.Schemas(target, q.is("deleted"), q.is("latestOnly")) {
					if s.Subject == target {
						list = append(list, s)
					}
				}
			}
		}
	}
	wanted := AssociationQuery{ResourceType: q.values.Get("resourceType"), AssociationTypes: q.values["associationType"], Lifecycles: q.lifecycles()}
	associated := wanted.ResourceType != "" || len(wanted.AssociationTypes)+len(wanted.Lifecycles) > 0
	views := []view{}
	for _, s := range readable(q, list, func(s Schema) string { return s.Subject }) {
		v := h.view(s)
		v.Aliases = aliases[s.Subject]
		if wanted.Subject = s.Subject; associated {
			v.Associations = h.r.Associations(wanted)
		}
		if rule := q.values.Get("ruleType"); associated && len(v.Associations) == 0 || rule != "" && !s.RuleSet.has(rule) {
			continue
		}
		views = append(views, v)
	}
	views = page(q, views)
	return views[:min(len(views), maxSchemas)], nil
}

// prefix is what the names asked for start with. Without a context in the path,
// that is over all contexts.
func (q *query) prefix() string { return q.qualify(q.values.Get("subjectPrefix")) }

func (h *handler) schemaByID(q *query) (any, error) {
	id, in, err := q.id()
	if err != nil {
		return nil, err
	}
	s, err := h.r.SchemaByID(in, id)
	if err != nil {
		return nil, err
	}
	v, err := q.reply(in, s)
	if q.is("fetchMaxId") {
		v.MaxID = new(h.r.MaxID(in))
	}
	return v, err
}

func (h *handler) textByID(q *query) (any, error) {
	id, in, err := q.id()
	if err != nil {
		return nil, err
	}
	s, err := h.r.SchemaByID(in, id)
	if err != nil {
		return nil, err
	}
	text, err := h.r.InFormat(in, s, q.values.Get("format"))
	return raw(text), err
}

func (h *handler) subjectsByID(q *query) (any, error) {
	uses, err := q.uses()
	names := make([]string, len(uses))
	for i, u := range uses {
		names[i] = u.Subject
	}
	return page(q, slices.Compact(names)), err
}

func (h *handler) versionsByID(q *query) (any, error) {
	uses, err := q.uses()
	return page(q, uses), err
}

// uses returns the versions that have the id of the path.
func (q *query) uses() ([]SubjectVersion, error) {
	id, in, err := q.id()
	if err != nil {
		return nil, err
	}
	uses, err := q.r.VersionsByID(in, id, q.is("deleted"))
	return readable(q, uses, func(u SubjectVersion) string { return u.Subject }), err
}

func (h *handler) schemaByGUID(q *query) (any, error) {
	guid := q.req.PathValue("guid")
	s, err := h.r.SchemaByGUID(guid)
	if err != nil {
		return nil, err
	}
	for _, id := range h.r.IDsByGUID(guid) {
		if err = q.permitID(id.Context, id.ID); err == nil {
			return q.reply(id.Context, s)
		}
	}
	return nil, err
}

func (h *handler) idsByGUID(q *query) (any, error) {
	ids := h.r.IDsByGUID(q.req.PathValue("guid"))
	return slices.DeleteFunc(ids, func(id ContextID) bool { return q.permitID(id.Context, id.ID) != nil }), nil
}

func (h *handler) subjects(q *query) (any, error) {
	return page(q, readable(q, h.r.Subjects(q.prefix(), q.deleted()), itself)), nil
}

func (h *handler) versions(q *query) (any, error) {
	if q.is("deletedAsNegative") {
		return q.signedVersions()
	}
	numbers, err := h.r.Versions(q.subject(), q.deleted())
	return page(q, numbers), err
}

// signedVersions lists all versions, those deleted with a minus.
func (q *query) signedVersions() (any, error) {
	numbers, err := q.r.Versions(q.subject(), WithDeleted)
	gone, _ := q.r.Versions(q.subject(), OnlyDeleted)
	for i, n := range numbers {
		if slices.Contains(gone, n) {
			numbers[i] = -n
		}
	}
	return page(q, numbers), err
}

func (h *handler) version(q *query) (any, error) {
	s, err := q.asked()
	if err != nil {
		return nil, err
	}
	context, _ := split(s.Subject)
	return q.reply(context, s)
}

// asked is the version that the path names.
func (q *query) asked() (Schema, error) {
	n, err := q.version()
	if err != nil {
		return Schema{}, err
	}
	return q.found(q.r.Version(q.subject(), n, q.is("deleted")))
}

// found lets a version pass that may be of another context than was asked for.
func (q *query) found(s Schema, err error) (Schema, error) {
	if err == nil && s.Subject != q.subject() {
		err = q.permit(q.req.Context(), OpRead, s.Subject)
	}
	return s, err
}

func (h *handler) versionWith(q *query) (any, error) {
	properties := map[string]string{}
	keys, values := q.values["key"], q.values["value"]
	for i, key := range keys[:min(len(keys), len(values))] {
		properties[key] = values[i]
	}
	s, err := q.found(h.r.VersionWith(q.subject(), properties, q.is("deleted")))
	if err != nil {
		return nil, err
	}
	context, _ := split(s.Subject)
	return q.reply(context, s)
}

func (h *handler) textOfVersion(q *query) (any, error) {
	s, err := q.asked()
	if err != nil {
		return nil, err
	}
	context, _ := split(s.Subject)
	text, err := h.r.InFormat(context, s, q.values.Get("format"))
	return raw(text), err
}

func (h *handler) referencedBy(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	ids, err := h.r.ReferencedBy(q.subject(), n, q.is("deleted"))
	context, _ := split(q.subject())
	ids = slices.DeleteFunc(ids, func(id int) bool { return q.permitID(context, id) != nil })
	return page(q, ids), err
}

// sent reads a schema from the body, and checks that what it refers to may be
// read.
func (q *query) sent() (Schema, error) {
	var s Schema
	if err := q.body(&s); err != nil {
		return s, err
	}
	s.Normalize = q.is("normalize")
	return s, q.permitReferences(q.subject(), s)
}

func (q *query) permitReferences(subject string, s Schema) error {
	for _, ref := range s.References {
		if err := q.permit(q.req.Context(), OpRead, InContextOf(subject, ref.Subject)); err != nil {
			return err
		}
	}
	return nil
}

func (h *handler) register(q *query) (any, error) {
	s, err := q.sent()
	if err != nil {
		return nil, err
	}
	done, err := h.r.Register(q.req.Context(), q.subject(), s, q.is("force"))
	return q.registered(s, done, err)
}

// registered is the answer to a registration.
func (q *query) registered(sent, done Schema, err error) (any, error) {
	var refused *Error
	switch {
	case errors.As(err, &refused) && wantsFindings(q.req):
		located := *refused
		located.Findings = q.r.locate(q.subject(), sent, refused.Findings)
		return nil, &located
	case err != nil:
		return nil, err
	case q.options.Dialect == DialectV7:
		return struct {
			ID int `json:"id"`
		}{done.ID}, nil
	}
	return q.replyTo(sent, done)
}

func (h *handler) tag(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	var t TagRequest
	if err := q.body(&t); err != nil {
		return nil, err
	}
	done, err := h.r.Tag(q.req.Context(), q.subject(), n, t)
	return q.registered(Schema{}, done, err)
}

func (h *handler) lookup(q *query) (any, error) {
	s, err := q.sent()
	if err != nil {
		return nil, err
	}
	found, err := h.r.Lookup(q.subject(), s, q.is("deleted"))
	if err != nil {
		return nil, err
	}
	return q.replyTo(s, found)
}

func (h *handler) deleteSubject(q *query) (any, error) {
	if q.is("dryRun") {
		return h.r.WouldDeleteSubject(q.subject(), q.is("permanent"))
	}
	return h.r.DeleteSubject(q.req.Context(), q.subject(), q.is("permanent"))
}

func (h *handler) deleteVersion(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	if q.is("dryRun") {
		return h.r.WouldDeleteVersion(q.subject(), n, q.is("permanent"))
	}
	return h.r.DeleteVersion(q.req.Context(), q.subject(), n, q.is("permanent"))
}

func (h *handler) undeleteSubject(q *query) (any, error) {
	return h.r.Undelete(q.req.Context(), q.subject(), AllVersions)
}

func (h *handler) undeleteVersion(q *query) (any, error) {
	n, err := q.version()
	if err != nil {
		return nil, err
	}
	back, err := h.r.Undelete(q.req.Context(), q.subject(), n)
	if err != nil {
		return nil, err
	}
	return back[0], nil
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
	s, err := q.sent()
	if err != nil {
		return nil, err
	}
	c, err := h.r.Check(q.subject(), number, s)
	reply := checkReply{Compatible: c.Compatible, Messages: c.Messages}
	if err != nil {
		if !q.is("verbose") || !errors.Is(err, &Error{Code: CodeInvalidSchema}) {
			return nil, err
		}
		reply.Messages = []string{public(err).Message}
	}
	if !q.is("verbose") {
		reply.Messages = nil
	}
	if wantsFindings(q.req) {
		reply.Findings = h.r.locate(q.subject(), s, c.Findings)
	}
	return reply, nil
}

func (h *handler) contexts(q *query) (any, error) {
	names := slices.DeleteFunc(h.r.Contexts(), func(name string) bool { return !strings.HasPrefix(name, q.values.Get("contextPrefix")) })
	return page(q, readable(q, names, func(name string) string { return qualify(name, "") })), nil
}

// contextScope is the context of the path, as a scope.
func (q *query) contextScope() string { return qualify(contextName(q.req.PathValue("context")), "") }

func (h *handler) deleteContext(q *query) (any, error) {
	err := h.r.DeleteContext(q.req.Context(), contextName(q.req.PathValue("context")))
	return withStatus{status: 204}, err
}

// clusterID is the answer of /v1/metadata/id.
type clusterID struct {
	ID    string       `json:"id"`
	Scope clusterScope `json:"scope"`
}

type clusterScope struct {
	Path     []string          `json:"path"`
	Clusters map[string]string `json:"clusters"`
}

func (h *handler) clusterID(*query) (any, error) {
	return clusterID{Scope: clusterScope{
		Path:     []string{},
		Clusters: map[string]string{"kafka-cluster": h.r.options.ClusterID, "schema-registry-cluster": "schema-registry"},
	}}, nil
}

// serverVersion is the answer of /v1/metadata/version.
type serverVersion struct {
	Version  string `json:"version"`
	CommitID string `json:"commitId"`
}

func (h *handler) serverVersion(*query) (any, error) {
	return serverVersion{Version: h.r.options.Version}, nil
}

// deployment is the answer of /v1/metadata/deployment.
type deployment struct {
	Attributes []string `json:"attributes"`
}

func (h *handler) deployment(*query) (any, error) { return deployment{Attributes: []string{}}, nil }

// locate fills in where findings lie: in the text of sent for the new schema, in
// the stored text for an old one. The text is read anew for each, so where there
// are very many findings in a large text, the last remain without. It returns a
// copy.
func (r *Registry) locate(name string, sent Schema, findings []Finding) []Finding {
	locator, ok := r.checker.(Locator)
	if !ok {
		return findings
	}
	findings = slices.Clone(findings)
	old := map[int]Schema{}
	left := 16 << 20 // bytes to read
	for i := range findings {
		f := &findings[i]
		stored, known := old[f.Version]
		if !known {
			stored, _ = r.Version(name, f.Version, true) // what is gone has no text
			old[f.Version] = stored
		}
		reader, writer := sent, stored
		if f.Direction == Forward {
			reader, writer = writer, reader
		}
		if left -= len(reader.Schema) + len(writer.Schema); left < 0 {
			break
		}
		f.ReaderAt = locateIn(locator, reader, f.ReaderPath)
		f.WriterAt = locateIn(locator, writer, f.WriterPath)
	}
	return findings
}

func locateIn(l Locator, s Schema, path string) *Position {
	if s.Schema == "" {
		return nil
	}
	return l.Locate(cmp.Or(s.SchemaType, schemas.Avro), s.Schema, path)
}
