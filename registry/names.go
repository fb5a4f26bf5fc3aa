package registry

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultContext is the context of subjects whose name says none.
const DefaultContext = "."

// globalContext holds what is configured for every context.
const globalContext = ".__GLOBAL"

// split takes a qualified name ":.context:subject" apart. A name that is not
// qualified is in the default context.
func split(name string) (context, subject string) {
	if rest, ok := strings.CutPrefix(name, ":."); ok {
		if context, subject, ok := strings.Cut(rest, ":"); ok {
			return "." + context, subject
		}
		return "." + rest, ""
	}
	return DefaultContext, name
}

// qualify puts a subject into a context.
func qualify(context, subject string) string {
	if context == DefaultContext {
		return subject
	}
	return ":" + context + ":" + subject
}

// normalName is the one spelling of a subject's name: the default context is
// left out.
func normalName(name string) string {
	return qualify(split(name))
}

// ScopeOf returns the scope of a subject's context, as settings name it:
// ":.context:", or "" for the default one.
func ScopeOf(name string) string {
	context, _ := split(name)
	return qualify(context, "")
}

// InContextOf resolves the name of a subject that a schema of parent refers to:
// one that says no context is in parent's.
func InContextOf(parent, name string) string {
	if strings.HasPrefix(name, ":.") {
		return normalName(name)
	}
	context, _ := split(parent)
	return qualify(context, name)
}

// anyContext is a context that stands for all of them where names are listed.
const anyContext = ":*:"

// prefixFilter is a test whether a subject's name starts with prefix. A prefix
// with anyContext is of names in whatever context, one that is empty of all, and
// one without a context of names in the default one.
func prefixFilter(prefix string) func(name string) bool {
	if rest, ok := strings.CutPrefix(prefix, anyContext); ok {
		return func(name string) bool {
			_, own := split(name)
			return strings.HasPrefix(own, rest)
		}
	}
	context, own := split(prefix)
	if prefix == "" || context != DefaultContext || !strings.HasPrefix(prefix, ":.:") {
		return func(name string) bool { return strings.HasPrefix(name, prefix) }
	}
	return func(name string) bool {
		in, n := split(name)
		return in == DefaultContext && strings.HasPrefix(n, own)
	}
}

// scopes lists the places where what is configured for a subject is looked up,
// most specific first. "" is the whole registry.
func scopes(name string) []string {
	context, subject := split(name)
	own := qualify(context, subject)
	wide := qualify(context, "") // the context, or "" for the default one
	if own == wide {
		return []string{wide, qualify(globalContext, "")}
	}
	return []string{own, wide, qualify(globalContext, "")}
}

// checkSubject refuses names that cannot be a subject's.
func checkSubject(name string) error {
	context, subject := split(name)
	switch {
	case subject == "":
		return errorf(CodeInvalidSubject, "The specified subject '%s' is not a valid subject: it is empty", name)
	case len(name) > maxSubjectBytes:
		return errorf(CodeInvalidSubject, "The specified subject '%.60s…' is not a valid subject: it has %d bytes, more than %d", name, len(name), maxSubjectBytes)
	case !utf8.ValidString(name):
		return notUTF8(name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return errorf(CodeInvalidSubject, "The specified subject %q is not a valid subject: it has control characters", name)
	case subject == "__GLOBAL", subject == "__EMPTY", context == globalContext:
		return errorf(CodeInvalidSubject, "The specified subject '%s' is not a valid subject: the name is reserved", name)
	}
	return nil
}

// notUTF8 refuses a name that a record, which is JSON, would hold as another.
func notUTF8(name string) error {
	return errorf(CodeInvalidSubject, "The specified subject %q is not a valid subject: it is not UTF-8", name)
}
