package registry

import (
	"fmt"
	"net/http"
	"strings"
)

func (h *handler) createAssociations(q *query) (any, error) {
	return q.associate(opCreate, func(*AssociationRequest) {})
}

func (h *handler) putAssociations(q *query) (any, error) {
	return q.associate(opUpsert, func(r *AssociationRequest) { r.ResourceID = q.req.PathValue("resource") })
}

// associate reads a request in which all changes are of one kind, and makes
// them.
func (q *query) associate(op string, amend func(*AssociationRequest)) (any, error) {
	var r AssociationRequest
	if err := q.body(&r); err != nil {
		return nil, err
	}
	amend(&r)
	for i := range r.Associations {
		r.Associations[i].Op = op
	}
	return q.change(r)
}

// change makes the changes of one request, as far as the caller may.
func (q *query) change(r AssociationRequest) (AssociationRequest, error) {
	dryRun := q.is("dryRun")
	if err := r.complete(q.associationContext(), dryRun); err != nil {
		return r, err
	}
	for _, c := range r.Associations {
		if err := q.permit(q.req.Context(), OpWrite, c.Subject); err != nil {
			return r, err
		}
		if c.CascadeLifecycle {
			if err := q.permit(q.req.Context(), OpDelete, c.Subject); err != nil {
				return r, err
			}
		}
		if c.Schema != nil {
			if err := q.permitReferences(c.Subject, *c.Schema); err != nil {
				return r, err
			}
		}
	}
	return q.r.Associate(q.req.Context(), r, dryRun)
}

// associationContext is the context of subjects that are named without one.
func (q *query) associationContext() string {
	if named := q.values.Get("context"); named != "" {
		return contextName(named)
	}
	return q.req.PathValue("in")
}

func (q *query) lifecycles() []Lifecycle {
	var all []Lifecycle
	for _, l := range q.values["lifecycle"] {
		all = append(all, Lifecycle(strings.ToUpper(l)))
	}
	return all
}

// associationQuery is what the query's parameters ask for.
func (q *query) associationQuery() AssociationQuery {
	return AssociationQuery{ResourceType: q.values.Get("resourceType"), AssociationTypes: q.values["associationType"], Lifecycles: q.lifecycles()}
}

// list answers with the associations that the caller may see.
func (q *query) list(wanted AssociationQuery) (any, error) {
	all := q.r.Associations(wanted)
	return page(q, readable(q, all, func(a Association) string { return a.Subject })), nil
}

func (h *handler) associationsByID(q *query) (any, error) {
	wanted := q.associationQuery()
	wanted.ResourceID = q.req.PathValue("resource")
	return q.list(wanted)
}

// anyName is the name of a resource, or of its namespace, that stands for all.
const anyName = "-"

func (h *handler) associationsByName(q *query) (any, error) {
	wanted := q.associationQuery()
	if name := q.req.PathValue("name"); name != anyName {
		wanted.ResourceName = name
	}
	if namespace := q.req.PathValue("namespace"); namespace != anyName {
		wanted.ResourceNamespace = namespace
	}
	return q.list(wanted)
}

func (h *handler) associationsBySubject(q *query) (any, error) {
	wanted := q.associationQuery()
	wanted.Subject = q.subject()
	return q.list(wanted)
}

func (h *handler) deleteAssociations(q *query) (any, error) {
	wanted := q.associationQuery()
	wanted.ResourceID = q.req.PathValue("resource")
	cascade := q.is("cascadeLifecycle")
	for _, a := range h.r.Associations(wanted) {
		if err := q.permit(q.req.Context(), OpWrite, a.Subject); err != nil {
			return nil, err
		}
		if cascade {
			if err := q.permit(q.req.Context(), OpDelete, a.Subject); err != nil {
				return nil, err
			}
		}
	}
	err := h.r.Dissociate(q.req.Context(), wanted, cascade, q.is("dryRun"))
	return withStatus{status: http.StatusNoContent}, err
}

// batch is a request that holds several.
type batch[T any] struct {
	Requests []T `json:"requests"`
}

// batchReply has one result for each of a batch's requests, in their order.
type batchReply struct {
	Results []batchResult `json:"results"`
}

type batchResult struct {
	Error  *Error              `json:"error,omitempty"`
	Result *AssociationRequest `json:"result,omitempty"`
}

// associationGet is one request of a batchGet.
type associationGet struct {
	ResourceName      string    `json:"resourceName,omitempty"`
	ResourceNamespace string    `json:"resourceNamespace,omitempty"`
	ResourceID        string    `json:"resourceId,omitempty"`
	ResourceType      string    `json:"resourceType,omitempty"`
	AssociationTypes  []string  `json:"associationTypes,omitempty"`
	Lifecycle         Lifecycle `json:"lifecycle,omitempty"`
}

func tooMany(n int) error {
	return errorf(CodeTooManyAssociations, "The batch has %d requests, more than %d; send several batches", n, maxAssociations)
}

func (h *handler) batchGetAssociations(q *query) (any, error) {
	var sent batch[associationGet]
	if err := q.body(&sent); err != nil {
		return nil, err
	}
	if len(sent.Requests) > maxAssociations {
		return nil, tooMany(len(sent.Requests))
	}
	reply := batchReply{Results: []batchResult{}}
	for _, g := range sent.Requests {
		reply.Results = append(reply.Results, q.get(g))
	}
	return withStatus{http.StatusMultiStatus, reply}, nil
}

// get answers one request of a batchGet.
func (q *query) get(g associationGet) batchResult {
	if g.ResourceID == "" && g.ResourceName == "" {
		return batchResult{Error: public(badAssociation("neither \"resourceId\" nor \"resourceName\" is given"))}
	}
	wanted := AssociationQuery{
		ResourceID: g.ResourceID, ResourceName: g.ResourceName, ResourceNamespace: g.ResourceNamespace,
		ResourceType: g.ResourceType, AssociationTypes: g.AssociationTypes,
	}
	if g.Lifecycle != "" {
		wanted.Lifecycles = []Lifecycle{Lifecycle(strings.ToUpper(string(g.Lifecycle)))}
	}
	found := readable(q, q.r.Associations(wanted), func(a Association) string { return a.Subject })
	if len(found) == 0 {
		return batchResult{Error: public(associationNotFound(fmt.Sprint(g.ResourceName, g.ResourceID)))}
	}
	first := found[0]
	result := &AssociationRequest{
		ResourceName: first.ResourceName, ResourceNamespace: first.ResourceNamespace,
		ResourceID: first.ResourceID, ResourceType: first.ResourceType,
	}
	for _, a := range found {
		c := AssociationChange{Subject: a.Subject, AssociationType: a.AssociationType, Lifecycle: a.Lifecycle, Frozen: &a.Frozen}
		if q.is("includeSchemas") {
			if s, err := q.r.Version(a.Subject, latest, false); err == nil {
				c.Schema = &s
			}
		}
		result.Associations = append(result.Associations, c)
	}
	return batchResult{Result: result}
}

func (h *handler) batchMutateAssociations(q *query) (any, error) {
	var sent batch[AssociationRequest]
	if err := q.body(&sent); err != nil {
		return nil, err
	}
	if len(sent.Requests) > maxAssociations {
		return nil, tooMany(len(sent.Requests))
	}
	reply := batchReply{Results: []batchResult{}}
	for i, r := range sent.Requests {
		result := q.mutate(r)
		if e := result.Error; i == 0 && e != nil && e.Code.Status() >= http.StatusInternalServerError {
			return nil, e // nothing is done, and the next would fare no better
		}
		reply.Results = append(reply.Results, result)
	}
	return withStatus{http.StatusMultiStatus, reply}, nil
}

// mutate answers one request of a batchMutate.
func (q *query) mutate(r AssociationRequest) batchResult {
	for i := range r.Associations {
		r.Associations[i].Op = strings.ToUpper(r.Associations[i].Op)
	}
	made, err := q.change(r)
	if err == nil {
		return batchResult{Result: &made}
	}
	e := *public(err)
	if !wantsFindings(q.req) {
		e.Findings = nil
	}
	return batchResult{Error: &e}
}
