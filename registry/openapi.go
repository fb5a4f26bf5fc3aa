package registry

import (
	"reflect"
	"strings"
)

// parameter describes a query or path parameter.
type parameter struct {
	kind        string // boolean, integer, string, or strings for one that may repeat
	description string
}

// parameters are those that the routes name.
func parameters() map[string]parameter {
	return map[string]parameter{
		"id":        {"integer", "An id, as messages carry it"},
		"guid":      {"string", "A GUID: the schema's identity in all registries"},
		"subject":   {"string", "A subject, or :.context:subject"},
		"version":   {"string", "A version: 1 to 2147483647, latest, or -1"},
		"context":   {"string", "A context"},
		"exporter":  {"string", "The name of an exporter"},
		"resource":  {"string", "The id of a resource"},
		"namespace": {"string", "The namespace of a resource; - is any"},
		"name":      {"string", "The name of a resource; - is any"},

		"aliases":           {"boolean", "Name the aliases of each subject, and list what they stand for"},
		"associationType":   {"strings", "Only associations of this type: key or value"},
		"cascadeLifecycle":  {"boolean", "Delete the subjects of strong associations too, softly"},
		"contextPrefix":     {"string", "Only contexts that start so"},
		"defaultToGlobal":   {"boolean", "What holds for the subject, if it has none of its own"},
		"deleted":           {"boolean", "Softly deleted ones too"},
		"deletedAsNegative": {"boolean", "All versions, those softly deleted with a minus"},
		"deletedOnly":       {"boolean", "Only softly deleted ones"},
		"dryRun":            {"boolean", "Answer what would be done, and do nothing"},
		"fetchMaxId":        {"boolean", "Add the highest id of the context"},
		"findTags":          {"strings", "Add the parts that have this tag; * is any"},
		"force":             {"boolean", "Leave out the checks that stand against it"},
		"format":            {"string", "Another form of the text: resolved (Avro); serialized, ignore_extensions (Protobuf)"},
		"includeSchemas":    {"boolean", "Add the latest schema of each subject"},
		"key":               {"strings", "A property's name, one for each value"},
		"latestOnly":        {"boolean", "Only the newest version of each subject"},
		"lifecycle":         {"strings", "Only associations of this lifecycle: STRONG or WEAK"},
		"limit":             {"integer", "How many at most; -1 is as many as there are, or the server's limit"},
		"normalize":         {"boolean", "Bring the text to its normal form first"},
		"offset":            {"integer", "How many to pass over"},
		"permanent":         {"boolean", "Take what is softly deleted away for good"},
		"recursive":         {"boolean", "Also in all subjects of the scope"},
		"referenceFormat":   {"string", "qualified: name the subjects of references with their context"},
		"resourceType":      {"string", "Only associations of this kind of resource: topic"},
		"ruleType":          {"string", "Only schemas that have a rule of this type"},
		"subjectPrefix":     {"string", "Only subjects that start so; :*: is any context"},
		"value":             {"strings", "A property's value, one for each key"},
		"verbose":           {"boolean", "Say what is incompatible"},
	}
}

type object = map[string]any

// openAPI describes the API.
func (h *handler) openAPI(*query) (any, error) { return describe(h.r.options.Version, h.routes), nil }

// describe makes an OpenAPI document of routes.
func describe(version string, routes []route) object {
	d := &describer{schemas: object{}, parameters: parameters()}
	paths := object{}
	for _, rt := range routes {
		method, path, _ := strings.Cut(rt.pattern, " ")
		path = strings.TrimSuffix(path, "{$}")
		operations, ok := paths[path].(object)
		if !ok {
			operations = object{}
			paths[path] = operations
		}
		operations[strings.ToLower(method)] = d.operation(rt, path)
	}
	d.schema(reflect.TypeFor[Error]())
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Penstock schema registry", "version": version,
			"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "The interface of Confluent's schema registry, and what Penstock adds: dryRun, undelete, and findings in machine-readable form for those who accept " + FindingsMediaType + ". Any path may be prefixed with /contexts/{context}.",
		},
		"paths":      paths,
		"components": object{"schemas": d.schemas},
	}
}

type describer struct {
	schemas    object
	parameters map[string]parameter
}

func (d *describer) operation(rt route, path string) object {
	params := []object{}
	for segment := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			params = append(params, d.parameter(strings.TrimSuffix(name, "}"), "path"))
		}
	}
	for _, name := range rt.params {
		params = append(params, d.parameter(name, "query"))
	}
	content := func(v any) object {
		schema := d.schema(reflect.TypeOf(v))
		out := object{}
		for _, t := range mediaTypes {
			out[t] = object{"schema": schema}
		}
		return out
	}
	ok := object{"description": "Done"}
	status := "200"
	switch {
	case rt.reply == nil:
		status = "204"
	case reflect.TypeOf(rt.reply) == reflect.TypeFor[batchReply]():
		status = "207"
		fallthrough
	default:
		ok["content"] = content(rt.reply)
	}
	op := object{
		"summary": rt.summary, "parameters": params,
		"responses": object{status: ok, "default": object{"description": "Refused, or failed", "content": content(Error{})}},
	}
	if rt.body != nil {
		op["requestBody"] = object{"required": true, "content": content(rt.body)}
	}
	return op
}

func (d *describer) parameter(name, in string) object {
	p := d.parameters[name]
	schema := object{"type": p.kind}
	if p.kind == "strings" {
		schema = object{"type": "array", "items": object{"type": "string"}}
	}
	return object{"name": name, "in": in, "required": in == "path", "description": p.description, "schema": schema}
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
	case reflect.Int, reflect.Int64:
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
