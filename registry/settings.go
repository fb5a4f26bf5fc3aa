package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Settings belong to a scope: a subject, a context (":.name:"), or, with the
// empty name, the whole registry.

// effectiveConfig is what holds for a scope. Level, policy, group and switches
// come from the nearest scope that sets them; metadata and rules from the
// nearest that has a configuration; aliases are not inherited.
func effectiveConfig(x *index, name string) Config {
	var c Config
	found := false
	for i, scope := range scopes(name) {
		own := x.configs.get(scope)
		if own == nil {
			continue
		}
		if !found {
			c, found = *own, true
			if i > 0 {
				c.Alias, c.AliasForDeks = "", ""
			}
			continue
		}
		c.CompatibilityLevel = cmp.Or(c.CompatibilityLevel, own.CompatibilityLevel)
		c.CompatibilityPolicy = cmp.Or(c.CompatibilityPolicy, own.CompatibilityPolicy)
		c.CompatibilityGroup = cmp.Or(c.CompatibilityGroup, own.CompatibilityGroup)
		c.Normalize = cmp.Or(c.Normalize, own.Normalize)
		c.ValidateFields = cmp.Or(c.ValidateFields, own.ValidateFields)
		c.ValidateNewSchemas = cmp.Or(c.ValidateNewSchemas, own.ValidateNewSchemas)
		c.ValidateRules = cmp.Or(c.ValidateRules, own.ValidateRules)
	}
	c.CompatibilityLevel = cmp.Or(c.CompatibilityLevel, DefaultLevel)
	return c
}

func effectiveMode(x *index, name string) Mode {
	own := ReadWrite
	for _, scope := range slices.Backward(scopes(name)) {
		if m := x.modes.get(scope); m != nil {
			if own = *m; own == ReadOnlyOverride {
				break // whatever is set below
			}
		}
	}
	return own
}

// Config returns the configuration of a scope. Where a subject has none of its
// own, it is that which holds for it if inherit is set, else CodeConfigNotFound.
func (r *Registry) Config(name string, inherit bool) (c Config, err error) {
	name = normalName(name)
	err = r.read(func(x *index) error {
		own := x.configs.get(name)
		switch {
		case inherit || name == "":
			c = effectiveConfig(x, name)
		case own != nil:
			c = *own
		default:
			return errorf(CodeConfigNotFound, "Subject '%s' does not have subject-level compatibility configured", name)
		}
		return nil
	})
	return c, err
}

// SetConfig configures a scope: what c has is set, what clear names, as JSON
// spells it, is taken away, and the rest stays. The subject need not exist.
func (r *Registry) SetConfig(ctx context.Context, name string, c Config, clear ...string) error {
	name = normalName(name)
	if err := checkScope(name); err != nil {
		return err
	}
	if err := c.validate(); err != nil {
		return err
	}
	return r.write(ctx, func(x *index) ([]Event, error) {
		if err := settable(x, name); err != nil {
			return nil, err
		}
		merged := c.over(deref(x.configs.get(name)), clear)
		return []Event{event(recordKey{KeyType: configRecord, Subject: name}, configValue{name, merged}, r.options.Now())}, nil
	})
}

// validate refuses values that are not known, and spells the others as they are
// kept.
func (c *Config) validate() (err error) {
	if c.CompatibilityLevel != "" {
		if c.CompatibilityLevel, err = ParseLevel(string(c.CompatibilityLevel)); err != nil {
			return err
		}
	}
	if c.CompatibilityPolicy != "" {
		if c.CompatibilityPolicy, err = ParsePolicy(string(c.CompatibilityPolicy)); err != nil {
			return err
		}
	}
	if c.Alias != "" {
		if err := checkSubject(c.Alias); err != nil {
			return err
		}
	}
	return cmp.Or(c.DefaultRuleSet.validate(), c.OverrideRuleSet.validate())
}

// over lays c over old. Both are read as JSON has them, where what is not set
// is absent.
func (c Config) over(old Config, clear []string) (merged Config) {
	fields := map[string]json.RawMessage{}
	for _, layer := range []Config{old, c} {
		_ = json.Unmarshal(toJSON(layer), &fields) // what was just encoded
		for _, name := range clear {
			delete(fields, name)
		}
		clear = nil // of the old one
	}
	_ = json.Unmarshal(toJSON(fields), &merged)
	return merged
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
		case inherit || name == "":
			m = effectiveMode(x, name)
		case own != nil:
			m = *own
		default:
			return errorf(CodeModeNotFound, "Subject '%s' does not have subject-level mode configured", name)
		}
		return nil
	})
	return m, err
}

// SetMode sets the mode of a scope. IMPORT needs a scope without live versions,
// because what is imported brings its ids along; force sets it all the same.
// Softly deleted versions of the scope are then taken away for good, but for
// those that others refer to.
func (r *Registry) SetMode(ctx context.Context, name string, m Mode, force bool) error {
	name = normalName(name)
	if r.options.FixedModes {
		return errModesFixed
	}
	if err := checkScope(name); err != nil {
		return err
	}
	m = Mode(strings.ToUpper(string(m)))
	if !m.valid() {
		return errorf(CodeInvalidMode, "Invalid mode %q. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, IMPORT and FORWARD", m)
	}
	if m == ForwardMode && name != "" && name != qualify(globalContext, "") {
		return errorf(CodeInvalidMode, "Invalid mode %q for '%s': it can be set for the whole registry only", m, name)
	}
	return r.write(ctx, func(x *index) ([]Event, error) {
		var events []Event
		if m == Import && effectiveMode(x, name) != Import {
			gone, err := r.makeRoom(x, name, force)
			if err != nil {
				return nil, err
			}
			events = gone
		}
		return append(events, event(recordKey{KeyType: modeRecord, Subject: name}, modeValue{name, m}, r.options.Now())), nil
	})
}

var errModesFixed = &Error{Code: CodeNotPermitted, Message: "Mode changes are not allowed: the registry was started so"}

// makeRoom clears a scope for an import.
func (r *Registry) makeRoom(x *index, scope string, force bool) ([]Event, error) {
	subjects := x.within(scope)
	var events []Event
	now := r.options.Now()
	for _, name := range slices.Sorted(maps.Keys(subjects)) {
		s := subjects[name]
		if !force && len(s.live()) > 0 {
			return nil, errorf(CodeNotPermitted, "Cannot import since found existing subjects: '%s' has versions; delete them, or set the mode with force=true", name)
		}
		used := func(v *version) bool { return len(x.usersOf(SubjectVersion{name, v.number}, true)) > 0 }
		if slices.ContainsFunc(s.versions, func(v *version) bool { return v.deleted && used(v) }) {
			continue
		}
		for _, v := range s.versions {
			if v.deleted {
				events = append(events, event(schemaKey(name, v.number), nil, now))
			}
		}
		events = append(events, event(recordKey{KeyType: clearSubjectRecord, Subject: name}, clearSubjectValue{name}, now))
	}
	return events, nil
}

// DeleteMode takes the mode of a scope away and returns it; with recursive those
// of the subjects in it too, and then it may have none and "" is returned, where
// otherwise that is CodeSubjectNotFound.
func (r *Registry) DeleteMode(ctx context.Context, name string, recursive bool) (old Mode, err error) {
	name = normalName(name)
	if r.options.FixedModes {
		return "", errModesFixed
	}
	err = r.write(ctx, func(x *index) ([]Event, error) {
		going := map[string]bool{}
		if recursive {
			for scope := range x.modes.all() {
				if slices.Contains(scopes(scope), name) {
					going[scope] = true
				}
			}
		}
		own := x.modes.get(name)
		switch {
		case own != nil:
			old, going[name] = *own, true
		case name == "":
			old = effectiveMode(x, name)
		case recursive:
			old = ""
		default:
			return nil, subjectNotFound(name)
		}
		var events []Event
		for _, scope := range slices.Sorted(maps.Keys(going)) {
			events = append(events, event(recordKey{KeyType: modeRecord, Subject: scope}, nil, r.options.Now()))
		}
		return events, nil
	})
	return old, err
}

// aliased returns the subject that a name stands for.
func (r *Registry) aliased(name string) string {
	if name == "" {
		return name
	}
	_ = r.read(func(x *index) error {
		if alias := deref(x.configs.get(name)).Alias; alias != "" {
			name = InContextOf(name, alias)
		}
		return nil
	})
	return name
}

// aliases lists, in order, the names that stand for each subject.
func (r *Registry) aliases() map[string][]string {
	names := map[string][]string{}
	_ = r.read(func(x *index) error {
		for name, c := range x.configs.all() {
			if c.Alias != "" {
				target := InContextOf(name, c.Alias)
				names[target] = append(names[target], name)
			}
		}
		return nil
	})
	for _, list := range names {
		slices.Sort(list)
	}
	return names
}

// settable refuses to configure what is read-only.
func settable(x *index, name string) error {
	if effectiveMode(x, name).readOnly() {
		return readOnly(name)
	}
	return nil
}

// checkScope refuses names that are no scope's.
func checkScope(name string) error {
	if !utf8.ValidString(name) {
		return notUTF8(name)
	}
	if context, subject := split(name); subject == "" || context == globalContext {
		return nil // the whole registry, or a context
	}
	return checkSubject(name)
}
