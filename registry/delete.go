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
// CodeReferenceExists, while another schema refers to the version.
func (r *Registry) DeleteVersion(ctx context.Context, name string, number int, permanent bool) (int, error) {
	name = normalName(name)
	var deleted int
	err := r.write(ctx, func(x *index) ([]Event, error) {
		if effectiveMode(x, name) == ReadOnly {
			return nil, readOnly(name)
		}
		v, err := pick(x, name, number, permanent || number != latest)
		switch {
		case err != nil:
			return nil, err
		case v.deleted && !permanent:
			return nil, errorf(CodeVersionDeleted, "Subject '%s' Version %d was soft deleted. Set permanent=true to delete permanently", name, v.number)
		case !v.deleted && permanent:
			return nil, errorf(CodeVersionNotDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", name, v.number)
		}
		if err := unreferenced(x, SubjectVersion{name, v.number}, "", permanent); err != nil {
			return nil, err
		}
		deleted = v.number
		now := r.options.Now()
		if !permanent {
			gone := *v
			gone.deleted = true
			return []Event{schemaEvent(name, &gone, now)}, nil
		}
		events := []Event{event(schemaKey(name, v.number), nil, now)}
		if len(x.subjects.get(name).versions) == 1 {
			events = append(events, r.settingsGone(x, name)...)
		}
		return events, nil
	})
	return deleted, err
}

// DeleteSubject deletes all versions of a subject and returns their numbers.
// At first they are hidden; with permanent a subject whose versions are all
// hidden is taken away for good, with its configuration and mode. It is
// refused, with CodeReferenceExists, while another subject refers to one.
func (r *Registry) DeleteSubject(ctx context.Context, name string, permanent bool) ([]int, error) {
	name = normalName(name)
	var deleted []int
	err := r.write(ctx, func(x *index) ([]Event, error) {
		if effectiveMode(x, name) == ReadOnly {
			return nil, readOnly(name)
		}
		s := x.subjects.get(name)
		if s == nil {
			return nil, subjectNotFound(name)
		}
		going := s.live()
		switch {
		case len(going) == 0 && !permanent:
			return nil, errorf(CodeSubjectDeleted, "Subject '%s' was soft deleted. Set permanent=true to delete permanently", name)
		case len(going) > 0 && permanent:
			return nil, errorf(CodeSubjectNotDeleted, "Subject '%s' was not deleted first before being permanently deleted", name)
		case permanent:
			going = s.versions
		}
		now := r.options.Now()
		var events []Event
		deleted = nil // what an earlier attempt came to
		for _, v := range going {
			if err := unreferenced(x, SubjectVersion{name, v.number}, name, permanent); err != nil {
				return nil, err
			}
			deleted = append(deleted, v.number)
			if permanent {
				events = append(events, event(schemaKey(name, v.number), nil, now))
			}
		}
		if permanent {
			return append(events, r.settingsGone(x, name)...), nil
		}
		last := going[len(going)-1].number
		return []Event{event(recordKey{KeyType: deleteSubjectRecord, Subject: name}, deleteSubjectValue{name, last}, now)}, nil
	})
	return deleted, err
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

// settingsGone removes the configuration and mode of a subject that is gone.
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
