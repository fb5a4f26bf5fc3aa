// Package openapi describes an HTTP API in a document of OpenAPI 3.1, made of the
// table that the API is served by and of the Go types that it speaks.
package openapi

import (
	"cmp"
	"reflect"
	"strings"
)

// API is what is described.
type API struct {
	Title, Version, Description string
	Media                       []string             // the types of bodies and answers
	Parameters                  map[string]Parameter // by name: those that routes name
	Refusal                     any                  // an example of the answer of an error
	Routes                      []Route
}

// Parameter is a part of a path, or of a query or a header that a route names.
type Parameter struct {
	Kind        string // boolean, integer, string, or strings for one that may repeat
	Description string
	Header      bool // else of the query, or of the path
}

// Route is one method of one path.
type Route struct {
	Pattern string // METHOD PATH, as http.ServeMux takes it
	Summary string
	Params  []string // of query and headers
	Body    any      // an example of what is sent; nil is nothing
	Takes   []string // the types of the body; nil are those of the API
	Reply   any      // an example of what is answered; nil is nothing
	Status  string   // of a success; empty is 200, or 204 where nothing is answered
}

type object = map[string]any

// Document returns the description, to be written as JSON.
func (a API) Document() map[string]any {
	d := &describer{api: a, schemas: object{}}
	paths := object{}
	for _, rt := range a.Routes {
		method, path, _ := strings.Cut(rt.Pattern, " ")
		path = strings.TrimSuffix(path, "{$}")
		operations, ok := paths[path].(object)
		if !ok {
			operations = object{}
			paths[path] = operations
		}
		operations[strings.ToLower(method)] = d.operation(rt, path)
	}
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": a.Title, "version": a.Version,
			"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": a.Description,
		},
		"paths":      paths,
		"components": object{"schemas": d.schemas},
	}
}

type describer struct {
	api     API
	schemas object
}

func (d *describer) operation(rt Route, path string) object {
	params := []object{}
	for segment := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			params = append(params, d.parameter(strings.TrimSuffix(name, "}"), "path"))
		}
	}
	for _, name := range rt.Params {
		in := "query"
		if d.api.Parameters[name].Header {
			in = "header"
		}
		params = append(params, d.parameter(name, in))
	}
	content := func(v any, types []string) object {
		schema := d.schema(reflect.TypeOf(v))
		out := object{}
		for _, t := range types {
			out[t] = object{"schema": schema}
		}
		return out
	}
	ok := object{"description": "Done"}
	status := "204"
	if rt.Reply != nil {
		status = "200"
		ok["content"] = content(rt.Reply, d.api.Media)
	}
	op := object{
		"summary": rt.Summary, "parameters": params,
		"responses": object{
			cmp.Or(rt.Status, status): ok,
			"default":                 object{"description": "Refused, or failed", "content": content(d.api.Refusal, d.api.Media)},
		},
	}
	if rt.Body != nil {
		types := rt.Takes
		if types == nil {
			types = d.api.Media
		}
		op["requestBody"] = object{"required": true, "content": content(rt.Body, types)}
	}
	return op
}

func (d *describer) parameter(name, in string) object {
	p := d.api.Parameters[name]
	schema := object{"type": p.Kind}
	if p.Kind == "strings" {
		schema = object{"type": "array", "items": object{"type": "string"}}
	}
	return object{"name": name, "in": in, "required": in == "path", "description": p.Description, "schema": schema}
}

// schema describes the JSON of a type; named structs become components.
func (d *describer) schema(t reflect.Type) object {
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Struct:
		name := componentName(t)
		if name == "" {
			return object{"type": "object"}
		}
		if _, known := d.schemas[name]; !known {
			d.schemas[name] = nil // it may hold itself
			d.schemas[name] = object{"type": "object", "properties": d.properties(t)}
		}
		return object{"$ref": "#/components/schemas/" + name}
	default:
		return object{"type": "string"}
	}
}

func componentName(t reflect.Type) string {
	name, of, generic := strings.Cut(t.Name(), "[")
	if generic {
		name += of[strings.LastIndex(of, ".")+1 : len(of)-1]
	}
	if name == "" {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// properties are the members of a struct, with those of structs within it that
// have no name, which its own hide.
func (d *describer) properties(t reflect.Type) object {
	own := object{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "-" || name == "" {
			continue
		}
		if _, hidden := own[name]; hidden && len(f.Index) > 1 {
			continue
		}
		own[name] = d.schema(f.Type)
	}
	return own
}
