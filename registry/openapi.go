package registry

import (
	"reflect"

	"penstock/openapi"
)

// parameters are those that the routes name.
func parameters() map[string]openapi.Parameter {
	return map[string]openapi.Parameter{
		"id":        {Kind: "integer", Description: "An id, as messages carry it"},
		"guid":      {Kind: "string", Description: "A GUID: the schema's identity in all registries"},
		"subject":   {Kind: "string", Description: "A subject, or :.context:subject"},
		"version":   {Kind: "string", Description: "A version: 1 to 2147483647, latest, or -1"},
		"context":   {Kind: "string", Description: "A context"},
		"exporter":  {Kind: "string", Description: "The name of an exporter"},
		"resource":  {Kind: "string", Description: "The id of a resource"},
		"namespace": {Kind: "string", Description: "The namespace of a resource; - is any"},
		"name":      {Kind: "string", Description: "The name of a resource; - is any"},

		"aliases":           {Kind: "boolean", Description: "Name the aliases of each subject, and list what they stand for"},
		"associationType":   {Kind: "strings", Description: "Only associations of this type: key or value"},
		"cascadeLifecycle":  {Kind: "boolean", Description: "Delete the subjects of strong associations too, softly"},
		"contextPrefix":     {Kind: "string", Description: "Only contexts that start so"},
		"defaultToGlobal":   {Kind: "boolean", Description: "What holds for the subject, if it has none of its own"},
		"deleted":           {Kind: "boolean", Description: "Softly deleted ones too"},
		"deletedAsNegative": {Kind: "boolean", Description: "All versions, those softly deleted with a minus"},
		"deletedOnly":       {Kind: "boolean", Description: "Only softly deleted ones"},
		"dryRun":            {Kind: "boolean", Description: "Answer what would be done, and do nothing"},
		"fetchMaxId":        {Kind: "boolean", Description: "Add the highest id of the context"},
		"findTags":          {Kind: "strings", Description: "Add the parts that have this tag; * is any"},
		"force":             {Kind: "boolean", Description: "Leave out the checks that stand against it"},
		"format":            {Kind: "string", Description: "Another form of the text: resolved (Avro); serialized, ignore_extensions (Protobuf)"},
		"includeSchemas":    {Kind: "boolean", Description: "Add the latest schema of each subject"},
		"key":               {Kind: "strings", Description: "A property's name, one for each value"},
		"latestOnly":        {Kind: "boolean", Description: "Only the newest version of each subject"},
		"lifecycle":         {Kind: "strings", Description: "Only associations of this lifecycle: STRONG or WEAK"},
		"limit":             {Kind: "integer", Description: "How many at most; -1 is as many as there are, or the server's limit"},
		"normalize":         {Kind: "boolean", Description: "Bring the text to its normal form first"},
		"offset":            {Kind: "integer", Description: "How many to pass over"},
		"permanent":         {Kind: "boolean", Description: "Take what is softly deleted away for good"},
		"recursive":         {Kind: "boolean", Description: "Also in all subjects of the scope"},
		"referenceFormat":   {Kind: "string", Description: "qualified: name the subjects of references with their context"},
		"resourceType":      {Kind: "string", Description: "Only associations of this kind of resource: topic"},
		"ruleType":          {Kind: "string", Description: "Only schemas that have a rule of this type"},
		"subjectPrefix":     {Kind: "string", Description: "Only subjects that start so; :*: is any context"},
		"value":             {Kind: "strings", Description: "A property's value, one for each key"},
		"verbose":           {Kind: "boolean", Description: "Say what is incompatible"},
	}
}

// openAPI describes the API.
func (h *handler) openAPI(*query) (any, error) {
	return describe(h.r.options.Version, h.routes), nil
}

// describe makes an OpenAPI document of routes.
func describe(version string, routes []route) map[string]any {
	a := openapi.API{
		Title: "Penstock schema registry", Version: version, Media: mediaTypes, Parameters: parameters(), Refusal: Error{},
		Description: "The interface of Confluent's schema registry, and what Penstock adds: dryRun, undelete, and findings in machine-readable form for those who accept " + FindingsMediaType + ". Any path may be prefixed with /contexts/{context}.",
	}
	for _, rt := range routes {
		described := openapi.Route{Pattern: rt.pattern, Summary: rt.summary, Params: rt.params, Body: rt.body, Reply: rt.reply}
		if reflect.TypeOf(rt.reply) == reflect.TypeFor[batchReply]() {
			described.Status = "207"
		}
		a.Routes = append(a.Routes, described)
	}
	return a.Document()
}
