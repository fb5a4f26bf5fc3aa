package registry

import (
	"context"
	"strconv"
)

func readOnly(name string) error {
	return errorf(CodeNotPermitted, "Subject %s is in read-only mode", name)
}

// DeleteVersion deletes one version of a subject, -1 the newest, and returns
// its number. At first it is hidden, and its id still resolves; with permanent
// a version that is hidden is taken away for good. It is refused, with
// CodeReferenceExists, while another schema refers to the version, and with
// CodeNoActiveVersion, if it is the last live one of a subject that is
// associated.
func (r *Registry) DeleteVersion(ctx context.Context, name string, number int, permanent bool) (deleted int, err error) {
	err = r.write(ctx, r.deleteVersion(normalName(name), number, permanent, &deleted))
	return deleted, err
}

// WouldDeleteVersion returns what DeleteVersion would, and deletes nothing.
func (r *Registry) WouldDeleteVersion(name string, number int, permanent bool) (deleted int, err error) {
	err = r.would(r.deleteVersion(normalName(name), number, permanent, &deleted))
	return deleted, err
}

// would decides on the durable state what nobody writes.
func (r *Registry) would(decide decision) error {
	return r.read(func(x *index) error {
		_, err := decide(x)
		return err
	})
}

func (r *Registry) deleteVersion(name string, number int, permanent bool, deleted *int) decision {
	return func(x *index) ([]Event, error) {
		if effectiveMode(x, name).readOnly() {
			return nil, readOnly(name)
		}
		v, err := pick(x, name, number, true)
		switch {
		case err != nil:
			return nil, err
		case v.deleted && !permanent:
			return nil, errorf(CodeVersionDeleted, "Subject '%s' Version %d was soft deleted.Set permanent=true to delete permanently", name, v.number)
		case !v.deleted && permanent:
			return nil, errorf(CodeVersionNotDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", name, v.number)
		}
		if err := unreferenced(x, SubjectVersion{name, v.number}, "", permanent); err != nil {
			return nil, err
		}
		s := x.subjects.get(name)
		if !permanent && len(s.live()) == 1 && x.associations.get(name) != nil {
			return nil, errorf(CodeNoActiveVersion, "Version %d is the last of subject '%s', which is associated with a resource; delete the association first", v.number, name)
		}
		*deleted = v.number
		now := r.options.Now()
		if !permanent {
			gone := *v
			gone.deleted = true
			return []Event{schemaEvent(name, &gone, now)}, nil
		}
		events := []Event{event(schemaKey(name, v.number), nil, now)}
		if len(s.versions) == 1 {
			events = append(events, r.settingsGone(x, name)...)
		}
		return events, nil
	}
}

// DeleteSubject deletes all versions of a subject and returns their numbers.
// At first they are hidden; with permanent a subject whose versions are all
// hidden is taken away for good, with its configuration and mode. It is
// refused, with CodeReferenceExists, while another subject refers to one, and
// with CodeSubjectAssociated, while a resource is associated with it.
func (r *Registry) DeleteSubject(ctx context.Context, name string, permanent bool) (deleted []int, err error) {
	err = r.write(ctx, r.deleteSubject(normalName(name), permanent, &deleted))
	return deleted, err
}

// WouldDeleteSubject returns what DeleteSubject would, and deletes nothing.
func (r *Registry) WouldDeleteSubject(name string, permanent bool) (deleted []int, err error) {
	err = r.would(r.deleteSubject(normalName(name), permanent, &deleted))
	return deleted, err
}

func (r *Registry) deleteSubject(name string, permanent bool, deleted *[]int) decision {
	return func(x *index) ([]Event, error) {
		if effectiveMode(x, name).readOnly() {
			return nil, readOnly(name)
		}
		if of := deref(x.associations.get(name)); len(of) > 0 {
			return nil, errorf(CodeSubjectAssociated, "Subject '%s' is associated with the %s '%s'; delete the association first", name, of[0].ResourceType, of[0].ResourceName)
		}
		s := x.subjects.get(name)
		if s == nil {
			return nil, subjectNotFound(name)
		}
		going := s.live()
		switch {
		case len(going) == 0 && !permanent:
			return nil, errorf(CodeSubjectDeleted, "Subject '%s' was soft deleted.Set permanent=true to delete permanently", name)
		case len(going) > 0 && permanent:
			return nil, errorf(CodeSubjectNotDeleted, "Subject '%s' was not deleted first before being permanently deleted", name)
		case permanent:
			going = s.versions
		}
		now := r.options.Now()
		var events []Event
		*deleted = nil // what an earlier attempt came to
		for _, v := range going {
			if err := unreferenced(x, SubjectVersion{name, v.number}, name, permanent); err != nil {
				return nil, err
			}
			*deleted = append(*deleted, v.number)
			if permanent {
				events = append(events, event(schemaKey(name, v.number), nil, now))
			}
		}
		if permanent {
			return append(events, r.settingsGone(x, name)...), nil
		}
		return []Event{r.subjectDeleted(name, going[len(going)-1].number)}, nil
	}
}

// subjectDeleted is the record that hides a subject's versions up to number.
func (r *Registry) subjectDeleted(name string, number int) Event {
	return event(recordKey{KeyType: deleteSubjectRecord, Subject: name}, deleteSubjectValue{name, number}, r.options.Now())
}

// Undelete brings softly deleted versions of a subject back and returns their
// numbers: one version, -1 the newest of those, or AllVersions. Compatibility is
// not checked, since it was when they were registered. It is refused, with
// CodeVersionNotDeleted or CodeSubjectNotDeleted, where nothing is deleted, and
// with CodeInvalidSchema, while what a version refers to is.
func (r *Registry) Undelete(ctx context.Context, name string, number int) (back []int, err error) {
	name = normalName(name)
	err = r.write(ctx, func(x *index) ([]Event, error) {
		if effectiveMode(x, name).readOnly() {
			return nil, readOnly(name)
		}
		s := x.subjects.get(name)
		if s == nil {
			return nil, subjectNotFound(name)
		}
		var hidden []*version
		for _, v := range s.versions {
			if v.deleted && (number <= 0 || v.number == number) {
				hidden = append(hidden, v)
			}
		}
		switch {
		case len(hidden) == 0 && number > 0 && s.version(number) == nil:
			return nil, versionNotFound(number)
		case len(hidden) == 0 && number > 0:
			return nil, errorf(CodeVersionNotDeleted, "Subject '%s' Version %d is not deleted", name, number)
		case len(hidden) == 0:
			return nil, errorf(CodeSubjectNotDeleted, "Subject '%s' has no version that is deleted", name)
		case number == latest:
			hidden = hidden[len(hidden)-1:]
		}
		back = nil // what an earlier attempt came to
		var events []Event
		for _, v := range hidden {
			if err := referencesLive(x, name, v, hidden); err != nil {
				return nil, err
			}
			live := *v
			live.deleted = false
			back = append(back, v.number)
			events = append(events, schemaEvent(name, &live, v.registered))
		}
		return events, nil
	})
	return back, err
}

// referencesLive refuses to bring a version back while one that it refers to is
// deleted, and does not come back with it.
func referencesLive(x *index, name string, v *version, with []*version) error {
	for _, ref := range v.content.references {
		at := InContextOf(name, ref.Subject)
		target := x.subjects.get(at).version(ref.Version)
		comes := false
		for _, w := range with {
			comes = comes || w == target
		}
		if target == nil || target.deleted && !comes {
			return errorf(CodeInvalidSchema, "Version %d of '%s' refers to version %d of '%s', which is deleted; bring that back first", v.number, name, ref.Version, at)
		}
	}
	return nil
}

// DeleteContext takes a context away, with its configuration and mode, or
// returns CodeContextNotEmpty while it has subjects, softly deleted ones too.
// Its ids are not given again. One that is not there is no error.
func (r *Registry) DeleteContext(ctx context.Context, context string) error {
	scope := qualify(context, "")
	if scope == "" || context == globalContext {
		return errorf(CodeNotPermitted, "The context '%s' cannot be deleted", context)
	}
	return r.write(ctx, func(x *index) ([]Event, error) {
		if err := settable(x, scope); err != nil {
			return nil, err
		}
		if n := len(x.within(scope)); n > 0 {
			return nil, errorf(CodeContextNotEmpty, "The context '%s' is not empty: it has %d subjects, deleted ones counted; delete them permanently first", context, n)
		}
		if x.contexts.get(context) == nil {
			return nil, nil
		}
		return append(r.settingsGone(x, scope), contextEvent(context, nil, r.options.Now())), nil
	})
}

// unreferenced refuses to delete a version that others refer to; references
// from within subject except do not count.
func unreferenced(x *index, v SubjectVersion, except string, permanent bool) error {
	for _, u := range x.usersOf(v, permanent) {
		if u.subject == except {
			continue
		}
		which := "version " + strconv.Itoa(u.number)
		if u.deleted {
			which = "soft deleted " + which
		}
		return errorf(CodeReferenceExists, "One or more references exist to the schema {magic=1,keytype=SCHEMA,subject=%s,version=%d}: %s of '%s' refers to it and must be deleted first", v.Subject, v.Version, which, u.subject)
	}
	return nil
}

// settingsGone removes the configuration and mode of a scope that is gone.
func (r *Registry) settingsGone(x *index, name string) []Event {
	var events []Event
	if x.configs.get(name) != nil {
		events = append(events, event(recordKey{KeyType: configRecord, Subject: name}, nil, r.options.Now()))
	}
	if x.modes.get(name) != nil {
		events = append(events, event(recordKey{KeyType: modeRecord, Subject: name}, nil, r.options.Now()))
	}
	return events
}

// referable refuses references to a subject that belongs to one resource.
func referable(x *index, name string, refs []Reference) error {
	for _, ref := range refs {
		at := InContextOf(name, ref.Subject)
		for _, a := range deref(x.associations.get(at)) {
			if a.Lifecycle == Strong {
				return errorf(CodeInvalidSchema, "Invalid schema: the reference %q is to '%s', which is strongly associated with the %s '%s', and so cannot be built on", ref.Name, at, a.ResourceType, a.ResourceName)
			}
		}
	}
	return nil
}
