package registry

import (
	"context"
	"slices"
	"strings"
)

// Settings belong to a scope: a subject, a context (":.name:"), or, with the
// empty name, the whole registry.

func effectiveConfig(x *index, name string) Config {
	for _, scope := range scopes(name) {
		if c := x.configs.get(scope); c != nil && c.CompatibilityLevel != "" {
			return *c
		}
	}
	return Config{CompatibilityLevel: DefaultLevel}
}

func effectiveMode(x *index, name string) Mode {
	for _, scope := range scopes(name) {
		if m := x.modes.get(scope); m != nil {
			return *m
		}
	}
	return ReadWrite
}

// Config returns the configuration of a scope. Where a subject has none of its
// own, it is that which holds for it if inherit is set, else CodeConfigNotFound.
func (r *Registry) Config(name string, inherit bool) (c Config, err error) {
	name = normalName(name)
	err = r.read(func(x *index) error {
		own := x.configs.get(name)
		switch {
		case own != nil:
			c = *own
		case inherit || name == "":
			c = effectiveConfig(x, name)
		default:
			return errorf(CodeConfigNotFound, "Subject '%s' does not have subject-level compatibility configured", name)
		}
		return nil
	})
	return c, err
}

// SetConfig configures a scope. The subject need not exist.
func (r *Registry) SetConfig(ctx context.Context, name string, c Config) error {
	name = normalName(name)
	if err := checkScope(name); err != nil {
		return err
	}
	level, err := ParseLevel(string(c.CompatibilityLevel))
	if err != nil {
		return err
	}
	c.CompatibilityLevel = level
	return r.write(ctx, func(x *index) ([]Event, error) {
		if err := settable(x, name); err != nil {
			return nil, err
		}
		return []Event{event(recordKey{KeyType: configRecord, Subject: name}, configValue{name, c}, r.options.Now())}, nil
	})
}

// DeleteConfig takes the configuration of a scope away and returns it. A
// subject that has none is CodeSubjectNotFound.
func (r *Registry) DeleteConfig(ctx context.Context, name string) (old Config, err error) {
	name = normalName(name)
	err = r.write(ctx, func(x *index) ([]Event, error) {
		if err := settable(x, name); err != nil {
			return nil, err
		}
		own := x.configs.get(name)
		if own == nil && name != "" {
			return nil, subjectNotFound(name)
		}
		if own == nil {
			old = effectiveConfig(x, name)
			return nil, nil
		}
		old = *own
		return []Event{event(recordKey{KeyType: configRecord, Subject: name}, nil, r.options.Now())}, nil
	})
	return old, err
}

// Mode returns the mode of a scope. Where a subject has none of its own, it is
// that which holds for it if inherit is set, else CodeModeNotFound.
func (r *Registry) Mode(name string, inherit bool) (m Mode, err error) {
	name = normalName(name)
	err = r.read(func(x *index) error {
		own := x.modes.get(name)
		switch {
		case own != nil:
			m = *own
		case inherit || name == "":
			m = effectiveMode(x, name)
		default:
			return errorf(CodeModeNotFound, "Subject '%s' does not have subject-level mode configured", name)
		}
		return nil
	})
	return m, err
}

// SetMode sets the mode of a scope. IMPORT needs a scope without live versions,
// because what is imported brings its ids along; force sets it all the same.
func (r *Registry) SetMode(ctx context.Context, name string, m Mode, force bool) error {
	name = normalName(name)
	if err := checkScope(name); err != nil {
		return err
	}
	m = Mode(strings.ToUpper(string(m)))
	if !m.valid() {
		return errorf(CodeInvalidMode, "Invalid mode %q. Valid values are READWRITE, READONLY and IMPORT", m)
	}
	return r.write(ctx, func(x *index) ([]Event, error) {
		if m == Import && !force && effectiveMode(x, name) != Import {
			for subject, s := range x.subjects.all() {
				if slices.Contains(scopes(subject), name) && len(s.live()) > 0 {
					return nil, errorf(CodeNotPermitted, "Cannot import since found existing subjects: '%s' has versions; delete them, or set the mode with force=true", subject)
				}
			}
		}
		return []Event{event(recordKey{KeyType: modeRecord, Subject: name}, modeValue{name, m}, r.options.Now())}, nil
	})
}

// DeleteMode takes the mode of a scope away and returns it. A subject that has
// none is CodeSubjectNotFound.
func (r *Registry) DeleteMode(ctx context.Context, name string) (old Mode, err error) {
	name = normalName(name)
	err = r.write(ctx, func(x *index) ([]Event, error) {
		own := x.modes.get(name)
		if own == nil && name != "" {
			return nil, subjectNotFound(name)
		}
		if own == nil {
			old = effectiveMode(x, name)
			return nil, nil
		}
		old = *own
		return []Event{event(recordKey{KeyType: modeRecord, Subject: name}, nil, r.options.Now())}, nil
	})
	return old, err
}

// settable refuses to configure what is read-only.
func settable(x *index, name string) error {
	if effectiveMode(x, name) == ReadOnly {
		return readOnly(name)
	}
	return nil
}

// checkScope refuses names that are no scope's.
func checkScope(name string) error {
	if context, subject := split(name); subject == "" || context == globalContext {
		return nil // the whole registry, or a context
	}
	return checkSubject(name)
}
