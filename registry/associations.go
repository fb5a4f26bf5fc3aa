package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
)

// Limits on associations.
const (
	// maxAssociations is how many resources one subject may belong to, and how
	// many requests one batch may hold.
	maxAssociations = 1000
	// maxResourceBytes is the longest name, namespace or id of a resource.
	maxResourceBytes = 1024
)

// Lifecycle says how closely a subject is tied to a resource.
type Lifecycle string

// The lifecycles.
const (
	// Strong: the subject belongs to that resource alone, and goes with it.
	Strong Lifecycle = "STRONG"
	// Weak: others may have the subject too.
	Weak Lifecycle = "WEAK"
)

// Association says that the schemas of a subject are those of a resource.
type Association struct {
	Subject           string    `json:"subject"`
	GUID              string    `json:"guid,omitempty"`
	ResourceName      string    `json:"resourceName"`
	ResourceNamespace string    `json:"resourceNamespace"`
	ResourceID        string    `json:"resourceId"`
	ResourceType      string    `json:"resourceType"`    // "topic"
	AssociationType   string    `json:"associationType"` // "key" or "value"
	Lifecycle         Lifecycle `json:"lifecycle"`
	// Frozen forbids to change the association, and to delete it on its own.
	Frozen bool `json:"frozen"`
	// CreateTime and UpdateTime are in milliseconds since 1970.
	CreateTime int64 `json:"createTs,omitempty"`
	UpdateTime int64 `json:"updateTs,omitempty"`
}

// key is the key of the record of a.
func (a *Association) key() recordKey {
	return recordKey{
		KeyType: associationRecord, Tenant: tenant, ResourceName: a.ResourceName, ResourceNamespace: a.ResourceNamespace,
		ResourceType: a.ResourceType, AssociationType: a.AssociationType, Subject: a.Subject,
	}
}

// withKey returns a with what its record's key says.
func (a Association) withKey(key recordKey) *Association {
	a.ResourceName, a.ResourceNamespace = key.ResourceName, key.ResourceNamespace
	a.ResourceType, a.AssociationType, a.Subject = key.ResourceType, key.AssociationType, key.Subject
	return &a
}

// AssociationQuery says which associations are meant. What is empty is not
// asked for, but that ResourceType is "topic" then.
type AssociationQuery struct {
	ResourceID, ResourceName, ResourceNamespace, ResourceType string
	Subject                                                   string
	AssociationTypes                                          []string
	Lifecycles                                                []Lifecycle
}

func (q AssociationQuery) admits(a *Association) bool {
	return (q.ResourceID == "" || q.ResourceID == a.ResourceID) &&
		(q.ResourceName == "" || q.ResourceName == a.ResourceName) &&
		(q.ResourceNamespace == "" || q.ResourceNamespace == a.ResourceNamespace) &&
		(q.Subject == "" || q.Subject == a.Subject) &&
		cmp.Or(q.ResourceType, topic) == a.ResourceType &&
		(len(q.AssociationTypes) == 0 || slices.Contains(q.AssociationTypes, a.AssociationType)) &&
		(len(q.Lifecycles) == 0 || slices.Contains(q.Lifecycles, a.Lifecycle))
}

const topic = "topic"

// find returns what q admits, in order.
func (q AssociationQuery) find(x *index) []*Association {
	var found []*Association
	add := func(list []*Association) {
		for _, a := range list {
			if q.admits(a) {
				found = append(found, a)
			}
		}
	}
	switch {
	case q.Subject != "":
		add(deref(x.associations.get(q.Subject)))
	case q.ResourceName != "":
		add(deref(x.resources.get(q.ResourceName)))
	default:
		for _, list := range x.resources.all() {
			add(*list)
		}
	}
	slices.SortFunc(found, func(a, b *Association) int {
		return cmp.Or(
			cmp.Compare(a.ResourceNamespace, b.ResourceNamespace), cmp.Compare(a.ResourceName, b.ResourceName),
			cmp.Compare(a.AssociationType, b.AssociationType), cmp.Compare(a.Subject, b.Subject))
	})
	return found
}

// Associations returns what q admits, ordered by resource.
func (r *Registry) Associations(q AssociationQuery) []Association {
	list := []Association{}
	if q.Subject != "" {
		q.Subject = normalName(q.Subject)
	}
	_ = r.read(func(x *index) error {
		for _, a := range q.find(x) {
			list = append(list, *a)
		}
		return nil
	})
	return list
}

// AssociationRequest asks for changes to the associations of one resource. It
// is the form of the answer, too.
type AssociationRequest struct {
	ResourceName      string              `json:"resourceName,omitempty"`
	ResourceNamespace string              `json:"resourceNamespace,omitempty"`
	ResourceID        string              `json:"resourceId,omitempty"`
	ResourceType      string              `json:"resourceType,omitempty"`
	Associations      []AssociationChange `json:"associations,omitempty"`
}

// AssociationChange is one change.
type AssociationChange struct {
	// Op is CREATE, UPSERT or DELETE.
	Op string `json:"opType,omitempty"`
	// Subject is, where it is absent, ":.NAMESPACE:NAME-TYPE".
	Subject         string    `json:"subject,omitempty"`
	AssociationType string    `json:"associationType,omitempty"`
	Lifecycle       Lifecycle `json:"lifecycle,omitempty"`
	Frozen          *bool     `json:"frozen,omitempty"`
	// Schema is registered under Subject.
	Schema    *Schema `json:"schema,omitempty"`
	Normalize bool    `json:"normalize,omitempty"`
	// CascadeLifecycle, in a DELETE, deletes the subject of a strong
	// association too.
	CascadeLifecycle bool `json:"cascadeLifecycle,omitempty"`
}

// The operations of a change.
const (
	opCreate = "CREATE"
	opUpsert = "UPSERT"
	opDelete = "DELETE"
)

func badAssociation(format string, args ...any) error {
	return errorf(CodeInvalidAssociation, "Invalid association: "+format, args...)
}

// complete refuses what cannot be meant, and fills in what follows from the
// rest. Subjects without a context are put into context, unless that is empty.
func (q *AssociationRequest) complete(context string, dryRun bool) error {
	for _, field := range []struct{ name, value string }{
		{"resourceName", q.ResourceName}, {"resourceNamespace", q.ResourceNamespace}, {"resourceId", q.ResourceID},
	} {
		switch {
		case field.value == "" && (field.name != "resourceId" || !dryRun):
			return badAssociation("%q is empty", field.name)
		case len(field.value) > maxResourceBytes:
			return badAssociation("%q has %d bytes, more than %d", field.name, len(field.value), maxResourceBytes)
		}
	}
	q.ResourceType = cmp.Or(q.ResourceType, topic)
	if q.ResourceType != topic {
		return badAssociation("\"resourceType\" is %q, expected %q", q.ResourceType, topic)
	}
	if len(q.Associations) == 0 {
		return badAssociation("\"associations\" is empty")
	}
	seen := map[string]bool{}
	for i := range q.Associations {
		if err := q.completeChange(&q.Associations[i], context); err != nil {
			return err
		}
		c := q.Associations[i]
		if seen[c.AssociationType] {
			return badAssociation("the type %q comes twice", c.AssociationType)
		}
		seen[c.AssociationType] = true
		if first := q.Associations[0].Frozen; i > 0 && deref(first) != deref(c.Frozen) {
			return badAssociation("of one resource either all are frozen or none is")
		}
	}
	return nil
}

func (q *AssociationRequest) completeChange(c *AssociationChange, context string) error {
	c.AssociationType = cmp.Or(c.AssociationType, "value")
	if c.AssociationType != "key" && c.AssociationType != "value" {
		return badAssociation("\"associationType\" is %q, expected key or value", c.AssociationType)
	}
	c.Lifecycle = Lifecycle(strings.ToUpper(string(c.Lifecycle)))
	if c.Lifecycle != "" && c.Lifecycle != Strong && c.Lifecycle != Weak {
		return badAssociation("\"lifecycle\" is %q, expected STRONG or WEAK", c.Lifecycle)
	}
	if c.Op != opCreate && c.Op != opUpsert && c.Op != opDelete {
		return badAssociation("\"opType\" is %q, expected CREATE, UPSERT or DELETE", c.Op)
	}
	own := normalName(":." + strings.TrimPrefix(q.ResourceNamespace, ".") + ":" + q.ResourceName + "-" + c.AssociationType)
	switch {
	case c.Subject == "":
		c.Subject = own
	case context != "" && !strings.HasPrefix(c.Subject, ":."):
		c.Subject = qualify(context, c.Subject)
	default:
		c.Subject = normalName(c.Subject)
	}
	if err := checkSubject(c.Subject); err != nil {
		return err
	}
	if deref(c.Frozen) && c.Subject != own {
		return badAssociation("a frozen association is with subject '%s', not with '%s'", own, c.Subject)
	}
	if deref(c.Frozen) && c.Lifecycle == Weak {
		return badAssociation("a frozen association is STRONG")
	}
	return nil
}

// Associate makes the changes of a request, and registers the schemas that come
// with it, all or nothing, and returns what the associations are then. With
// dryRun nothing is changed.
func (r *Registry) Associate(ctx context.Context, q AssociationRequest, dryRun bool) (AssociationRequest, error) {
	var made []AssociationChange
	associate := r.associate(q, &made)
	if err := r.would(associate); err != nil {
		return q, err
	}
	var decisions []decision
	registered := map[string]*registration{}
	for _, c := range q.Associations {
		if c.Schema == nil || c.Op == opDelete {
			continue
		}
		s := *c.Schema
		s.Normalize = s.Normalize || c.Normalize
		reg, err := r.registration(c.Subject, s, false)
		if err != nil {
			return q, err
		}
		if _, err := reg.look(); err != nil {
			return q, err
		}
		decisions = append(decisions, reg.decide)
		registered[c.Subject] = reg
	}
	decide := inTurn(append(decisions, associate)...)
	var err error
	if dryRun {
		err = r.would(decide)
	} else {
		err = r.write(ctx, decide)
	}
	if err != nil {
		return q, err
	}
	for i, c := range made {
		if reg := registered[c.Subject]; reg != nil {
			made[i].Schema = &reg.result
		}
	}
	q.Associations = made
	return q, nil
}

// inTurn makes one decision of several, each of which sees what those before it
// come to. If one refuses, that is all.
func inTurn(decisions ...decision) decision {
	return func(x *index) (events []Event, err error) {
		x = x.tentatively()
		for _, decide := range decisions {
			made, err := decide(x)
			if err != nil {
				return nil, err
			}
			for _, e := range made {
				if err := x.apply(e); err != nil {
					return nil, fmt.Errorf("apply own record %s: %w", e.Key, err)
				}
			}
			events = append(events, made...)
		}
		return events, nil
	}
}

// associate is the decision of Associate; made is what it comes to.
func (r *Registry) associate(q AssociationRequest, made *[]AssociationChange) decision {
	return func(x *index) ([]Event, error) {
		*made = nil // what an earlier attempt came to
		var events []Event
		for _, c := range q.Associations {
			if err := settable(x, c.Subject); err != nil {
				return nil, err
			}
			found := AssociationQuery{
				ResourceName: q.ResourceName, ResourceNamespace: q.ResourceNamespace, ResourceType: q.ResourceType,
				AssociationTypes: []string{c.AssociationType},
			}.find(x)
			if c.Op == opDelete {
				if len(found) == 0 {
					return nil, associationNotFound(q.ResourceName)
				}
				gone, err := r.dissociate(x, found[0], c.CascadeLifecycle)
				if err != nil {
					return nil, err
				}
				events = append(events, gone...)
				continue
			}
			a, err := r.associated(x, q, c, found)
			if err != nil {
				return nil, err
			}
			if len(found) == 0 || *a != *found[0] {
				events = append(events, event(a.key(), a, r.options.Now()))
			}
			frozen := a.Frozen
			*made = append(*made, AssociationChange{Subject: a.Subject, AssociationType: a.AssociationType, Lifecycle: a.Lifecycle, Frozen: &frozen, Schema: c.Schema})
		}
		return events, nil
	}
}

func associationNotFound(resource string) error {
	return errorf(CodeAssociationNotFound, "No association found for the resource '%s'", resource)
}

// associated is the association that a change comes to, given the one that the
// resource has already, if any.
func (r *Registry) associated(x *index, q AssociationRequest, c AssociationChange, found []*Association) (*Association, error) {
	now := r.options.Now().UnixMilli()
	a := Association{
		Subject: c.Subject, GUID: newUUID(), ResourceName: q.ResourceName, ResourceNamespace: q.ResourceNamespace,
		ResourceID: q.ResourceID, ResourceType: q.ResourceType, AssociationType: c.AssociationType,
		Lifecycle: Weak, CreateTime: now, UpdateTime: now,
	}
	if len(found) > 0 {
		a = *found[0]
	}
	if c.Frozen != nil {
		a.Frozen = *c.Frozen
	}
	a.Lifecycle = cmp.Or(c.Lifecycle, a.Lifecycle)
	if a.Frozen {
		a.Lifecycle = Strong
	}
	if len(found) > 0 {
		old := found[0]
		switch {
		case old.Subject != c.Subject || old.ResourceID != q.ResourceID && q.ResourceID != "":
			return nil, errorf(CodeResourceAssociated, "The %s '%s' has a %s association already, with subject '%s' and the resource id '%s'; delete it first", old.ResourceType, old.ResourceName, old.AssociationType, old.Subject, old.ResourceID)
		case a == *old:
			return &a, nil
		case c.Op == opCreate:
			return nil, errorf(CodeResourceAssociated, "The %s '%s' has a %s association already, which differs; change it with PUT", old.ResourceType, old.ResourceName, old.AssociationType)
		case old.Frozen:
			return nil, errorf(CodeAssociationFrozen, "The association of the %s '%s' with subject '%s' is frozen", old.ResourceType, old.ResourceName, old.Subject)
		}
		a.UpdateTime = now
	}
	return &a, r.mayAssociate(x, &a, c.Schema != nil)
}

// mayAssociate refuses what contradicts the subject's other associations.
func (r *Registry) mayAssociate(x *index, a *Association, registers bool) error {
	s := x.subjects.get(a.Subject)
	if !registers && len(s.live()) == 0 {
		return errorf(CodeNoActiveVersion, "Subject '%s' has no version; register a schema first, or send one along", a.Subject)
	}
	of := deref(x.associations.get(a.Subject))
	for _, other := range of {
		switch {
		case other.ResourceName == a.ResourceName && other.ResourceNamespace == a.ResourceNamespace:
		case other.Lifecycle == Strong:
			return errorf(CodeStronglyAssociated, "Subject '%s' belongs to the %s '%s' alone", a.Subject, other.ResourceType, other.ResourceName)
		case a.Lifecycle == Strong:
			return errorf(CodeSubjectAssociated, "Subject '%s' is associated with the %s '%s', and so cannot belong to '%s' alone", a.Subject, other.ResourceType, other.ResourceName, a.ResourceName)
		}
	}
	if len(of) >= maxAssociations {
		return errorf(CodeTooManyAssociations, "Subject '%s' has %d associations already, the most there can be", a.Subject, len(of))
	}
	if a.Lifecycle == Strong && s != nil {
		for _, v := range s.versions {
			if err := unreferenced(x, SubjectVersion{a.Subject, v.number}, a.Subject, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// dissociate takes an association away; with cascade, the subject that it is
// strongly tied to is hidden.
func (r *Registry) dissociate(x *index, a *Association, cascade bool) ([]Event, error) {
	if err := settable(x, a.Subject); err != nil {
		return nil, err
	}
	if a.Frozen && !cascade {
		return nil, errorf(CodeAssociationFrozen, "The association of the %s '%s' with subject '%s' is frozen: it can only be deleted with its subject, by cascadeLifecycle=true", a.ResourceType, a.ResourceName, a.Subject)
	}
	events := []Event{event(a.key(), nil, r.options.Now())}
	live := x.subjects.get(a.Subject).live()
	if !cascade || a.Lifecycle != Strong || len(live) == 0 {
		return events, nil
	}
	for _, v := range live {
		if err := unreferenced(x, SubjectVersion{a.Subject, v.number}, a.Subject, false); err != nil {
			return nil, err
		}
	}
	return append(events, r.subjectDeleted(a.Subject, live[len(live)-1].number)), nil
}

// Dissociate takes away what q admits, or returns CodeAssociationNotFound. With
// cascade the subjects of strong associations are deleted softly. With dryRun
// nothing is changed.
func (r *Registry) Dissociate(ctx context.Context, q AssociationQuery, cascade, dryRun bool) error {
	decide := func(x *index) ([]Event, error) {
		found := q.find(x)
		if len(found) == 0 {
			return nil, associationNotFound(q.ResourceID)
		}
		var events []Event
		for _, a := range found {
			gone, err := r.dissociate(x, a, cascade)
			if err != nil {
				return nil, err
			}
			events = append(events, gone...)
		}
		return events, nil
	}
	if dryRun {
		return r.would(decide)
	}
	return r.write(ctx, decide)
}

// newUUID is a random UUID.
func newUUID() string {
	var g guid
	_, _ = rand.Read(g[:]) // never fails
	g[6], g[8] = g[6]&0x0f|0x40, g[8]&0x3f|0x80
	return g.String()
}
