package compat

import (
	"net/url"
	"strings"

	"penstock/registry"
	"penstock/schemas"
)

// findJSON finds paths of the rules of JSON Schema. Their names are raw, so
// that a slash may be part of one: of several readings that which leads
// furthest is taken. References within the text are followed, as the rules do.
func findJSON(text string) func(path string) *registry.Position {
	root, err := schemas.ReadJSON(text, schemas.JSONOptions{LastWins: true})
	if err != nil {
		return nil
	}
	position := positions(text)
	return func(path string) *registry.Position {
		const most = 10_000 // steps, since every slash may be read in two ways
		l := jsonLocator{root: root, left: most}
		l.schema(root, strings.Trim(strings.TrimPrefix(path, "#"), "/"), 0)
		if l.best == nil {
			return position(root.Offset)
		}
		return position(l.best.Offset)
	}
}

// jsonLocator keeps the place that is reached with the least of the path left.
type jsonLocator struct {
	root *schemas.JSONNode
	left int
	best *schemas.JSONNode
	rest int
}

// reach notes a place, and reports whether to go on from it.
func (l *jsonLocator) reach(at *schemas.JSONNode, rest string) bool {
	if l.best == nil || len(rest) < l.rest {
		l.best, l.rest = at, len(rest)
	}
	l.left--
	return rest != "" && l.left > 0 && l.rest > 0
}

// schema goes on from a schema. hops counts the references that led to it
// without a step of the path.
func (l *jsonLocator) schema(at *schemas.JSONNode, path string, hops int) {
	const most = 20
	if !l.reach(at, path) || hops > most {
		return
	}
	word, rest, _ := strings.Cut(path, "/")
	switch word {
	case "properties", "patternProperties":
		if list := at.Get(word); list != nil {
			l.named(list, rest)
		}
	case "dependencies":
		for _, word := range []string{"dependencies", "dependentRequired", "dependentSchemas"} {
			if list := at.Get(word); list != nil {
				l.named(list, rest)
			}
		}
	case "required":
		if list := at.Get(word); list != nil {
			for _, item := range list.Items {
				if item.Kind == schemas.JSONString && item.Text == rest {
					l.reach(item, "")
				}
			}
		}
	case "allOf", "anyOf", "oneOf":
		index, rest, _ := strings.Cut(rest, "/")
		if list := at.Get(word); list != nil {
			if item := step(list, index); item != nil {
				l.schema(item, rest, 0)
			}
		}
		// It may be one that the rules have made of the schema's own words.
		l.schema(at, rest, hops+1)
	case "items", "additionalItems":
		l.items(at, word, rest)
	default:
		if next := at.Get(word); next != nil {
			l.schema(next, rest, 0)
		}
	}
	if ref := textOf(at.Get("$ref")); strings.HasPrefix(ref, "#") {
		if next := l.pointer(ref[1:]); next != nil {
			l.schema(next, path, hops+1)
		}
	}
}

// named goes on from a list of schemas by name.
func (l *jsonLocator) named(list *schemas.JSONNode, path string) {
	for _, m := range list.Members {
		if rest, ok := strings.CutPrefix(path, m.Name); ok && (rest == "" || rest[0] == '/') {
			l.schema(m.Value, strings.TrimPrefix(rest, "/"), 0)
		}
	}
}

// items goes on from a schema of arrays, which has its items under one keyword
// or another.
func (l *jsonLocator) items(at *schemas.JSONNode, word, path string) {
	items, positions := at.Get("items"), at.Get("prefixItems")
	if word == "additionalItems" {
		if next := at.Get(word); next != nil {
			l.schema(next, path, 0)
		} else if items != nil && items.Kind != schemas.JSONArray {
			l.schema(items, path, 0)
		}
		return
	}
	if positions == nil && items != nil && items.Kind == schemas.JSONArray {
		positions = items
	}
	index, rest, _ := strings.Cut(path, "/")
	if positions != nil {
		if item := step(positions, index); item != nil {
			l.schema(item, rest, 0)
		}
	}
	if items != nil && items != positions {
		l.schema(items, path, 0)
	}
}

// pointer returns what a JSON Pointer within the text leads to, nil for an
// anchor.
func (l *jsonLocator) pointer(fragment string) *schemas.JSONNode {
	if fragment != "" && fragment[0] != '/' {
		return nil
	}
	if decoded, err := url.PathUnescape(fragment); err == nil {
		fragment = decoded
	}
	at := l.root
	for i, token := range strings.Split(fragment, "/") {
		if i == 0 {
			continue
		}
		if at = step(at, unescape(token)); at == nil {
			return nil
		}
	}
	return at
}
