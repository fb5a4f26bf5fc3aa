package registry

import (
	"context"
	"errors"
	"slices"
)

// route is one line of the API.
type route struct {
	// pattern is a method and a path, as http.ServeMux has them.
	pattern string
	// op is what the caller must be allowed to do to the subject that of
	// returns. A nil of says that the endpoint asks by itself, or that anybody
	// may.
	op      Operation
	of      func(*query) string
	serve   func(*handler, *query) (any, error)
	summary string
	// params are the query parameters, described in parameters.
	params []string
	// body and reply are examples of what is sent and answered, for the
	// description of the API. nil is nothing.
	body, reply any
}

// nobody is the subject of what belongs to none.
func nobody(*query) string { return "" }

var (
	paging  = []string{"offset", "limit"}
	deleted = []string{"deleted"}
	changed = []string{"dryRun"}
)

func params(lists ...[]string) []string { return slices.Concat(lists...) }

// routes is the API.
func routes() []route {
	subject, scope := (*query).subject, (*query).scope
	return []route{
		{"GET /{$}", OpRead, nobody, (*handler).root, "Answers that the registry is there", nil, nil, struct{}{}},
		{"POST /{$}", OpRead, nobody, (*handler).root, "Answers that the registry is there", nil, nil, struct{}{}},
		{"GET /livez", "", nil, (*handler).root, "Answers that the process lives", nil, nil, struct{}{}},
		{"GET /readyz", "", nil, (*handler).ready, "Answers whether writes are taken", nil, nil, struct{}{}},
		{"GET /openapi.json", "", nil, (*handler).openAPI, "Returns this description", nil, nil, struct{}{}},
		{"GET /v1/metadata/id", OpRead, nobody, (*handler).clusterID, "Names the registry", nil, nil, clusterID{}},
		{"GET /v1/metadata/version", OpRead, nobody, (*handler).serverVersion, "Returns the version of the program", nil, nil, serverVersion{}},
		{"GET /v1/metadata/deployment", OpRead, nobody, (*handler).deployment, "Returns how the registry is run", nil, nil, deployment{}},

		{"GET /schemas", OpRead, nil, (*handler).schemas, "Lists versions of all subjects", params([]string{"subjectPrefix", "aliases", "latestOnly", "ruleType", "resourceType", "associationType", "lifecycle"}, deleted, paging), nil, []view{}},
		{"GET /schemas/types", OpRead, nobody, (*handler).types, "Lists the schema languages", nil, nil, []string{}},
		{"GET /schemas/ids/{id}", OpRead, nil, (*handler).schemaByID, "Returns what an id stands for", []string{"subject", "format", "referenceFormat", "findTags", "fetchMaxId"}, nil, view{}},
		{"GET /schemas/ids/{id}/schema", OpRead, nil, (*handler).textByID, "Returns the text that an id stands for", []string{"subject", "format"}, nil, raw("")},
		{"GET /schemas/ids/{id}/subjects", OpRead, nil, (*handler).subjectsByID, "Lists the subjects that have an id", params([]string{"subject"}, deleted, paging), nil, []string{}},
		{"GET /schemas/ids/{id}/versions", OpRead, nil, (*handler).versionsByID, "Lists the versions that have an id", params([]string{"subject"}, deleted, paging), nil, []SubjectVersion{}},
		{"GET /schemas/guids/{guid}", OpRead, nil, (*handler).schemaByGUID, "Returns what a GUID stands for", []string{"format"}, nil, view{}},
		{"GET /schemas/guids/{guid}/ids", OpRead, nil, (*handler).idsByGUID, "Lists the ids that a GUID has, by context", nil, nil, []ContextID{}},

		{"GET /subjects", OpRead, nil, (*handler).subjects, "Lists subjects", params([]string{"subjectPrefix", "deletedOnly"}, deleted, paging), nil, []string{}},
		{"POST /subjects/{subject}", OpRead, subject, (*handler).lookup, "Looks a schema up under a subject", params([]string{"normalize", "format"}, deleted), Schema{}, view{}},
		{"DELETE /subjects/{subject}", OpDelete, subject, (*handler).deleteSubject, "Deletes a subject, softly at first", params([]string{"permanent"}, changed), nil, []int{}},
		{"POST /subjects/{subject}/undelete", OpDelete, subject, (*handler).undeleteSubject, "Brings all softly deleted versions of a subject back", nil, nil, []int{}},
		{"GET /subjects/{subject}/metadata", OpRead, subject, (*handler).versionWith, "Returns the newest version with certain metadata properties", params([]string{"key", "value", "format"}, deleted), nil, view{}},
		{"GET /subjects/{subject}/versions", OpRead, subject, (*handler).versions, "Lists the versions of a subject", params([]string{"deletedOnly", "deletedAsNegative"}, deleted, paging), nil, []int{}},
		{"POST /subjects/{subject}/versions", OpWrite, subject, (*handler).register, "Registers a schema under a subject", []string{"normalize", "format", "force"}, Schema{}, view{}},
		{"GET /subjects/{subject}/versions/{version}", OpRead, subject, (*handler).version, "Returns one version", params([]string{"format", "referenceFormat", "findTags"}, deleted), nil, view{}},
		{"DELETE /subjects/{subject}/versions/{version}", OpDelete, subject, (*handler).deleteVersion, "Deletes one version, softly at first", params([]string{"permanent"}, changed), nil, 0},
		{"POST /subjects/{subject}/versions/{version}/undelete", OpDelete, subject, (*handler).undeleteVersion, "Brings a softly deleted version back", nil, nil, 0},
		{"GET /subjects/{subject}/versions/{version}/schema", OpRead, subject, (*handler).textOfVersion, "Returns the text of one version", params([]string{"format"}, deleted), nil, raw("")},
		{"GET /subjects/{subject}/versions/{version}/referencedby", OpRead, subject, (*handler).referencedBy, "Lists the ids of the schemas that refer to a version", params(deleted, paging), nil, []int{}},
		{"POST /subjects/{subject}/versions/{version}/tags", OpWrite, subject, (*handler).tag, "Registers a version with other tags", nil, TagRequest{}, view{}},
		{"POST /compatibility/subjects/{subject}/versions", OpCheck, subject, (*handler).checkAll, "Checks a schema as registering it would", []string{"verbose", "normalize"}, Schema{}, checkReply{}},
		{"POST /compatibility/subjects/{subject}/versions/{version}", OpCheck, subject, (*handler).checkOne, "Checks a schema against one version", []string{"verbose", "normalize"}, Schema{}, checkReply{}},

		{"GET /config", OpRead, scope, (*handler).config, "Returns the configuration of the registry", []string{"defaultToGlobal"}, nil, Config{}},
		{"PUT /config", OpAdmin, scope, (*handler).setConfig, "Configures the registry", nil, configUpdate{}, configUpdate{}},
		{"DELETE /config", OpAdmin, scope, (*handler).deleteConfig, "Takes the configuration of the registry away", nil, nil, Config{}},
		{"GET /config/{subject}", OpRead, scope, (*handler).config, "Returns the configuration of a subject", []string{"defaultToGlobal"}, nil, Config{}},
		{"PUT /config/{subject}", OpAdmin, scope, (*handler).setConfig, "Configures a subject", nil, configUpdate{}, configUpdate{}},
		{"DELETE /config/{subject}", OpAdmin, scope, (*handler).deleteConfig, "Takes the configuration of a subject away", nil, nil, Config{}},
		{"GET /mode", OpRead, scope, (*handler).mode, "Returns the mode of the registry", []string{"defaultToGlobal"}, nil, modeBody{}},
		{"PUT /mode", OpAdmin, scope, (*handler).setMode, "Sets the mode of the registry", []string{"force"}, modeBody{}, modeBody{}},
		{"DELETE /mode", OpAdmin, scope, (*handler).deleteMode, "Takes the mode of the registry away", []string{"recursive"}, nil, modeBody{}},
		{"GET /mode/{subject}", OpRead, scope, (*handler).mode, "Returns the mode of a subject", []string{"defaultToGlobal"}, nil, modeBody{}},
		{"PUT /mode/{subject}", OpAdmin, scope, (*handler).setMode, "Sets the mode of a subject", []string{"force"}, modeBody{}, modeBody{}},
		{"DELETE /mode/{subject}", OpAdmin, scope, (*handler).deleteMode, "Takes the mode of a subject away", []string{"recursive"}, nil, modeBody{}},

		{"GET /contexts", OpRead, nil, (*handler).contexts, "Lists the contexts", params([]string{"contextPrefix"}, paging), nil, []string{}},
		{"DELETE /contexts/{context}", OpAdmin, (*query).contextScope, (*handler).deleteContext, "Takes an empty context away", nil, nil, nil},

		{"POST /associations", OpWrite, nil, (*handler).createAssociations, "Associates subjects with a resource", params([]string{"context"}, changed), AssociationRequest{}, AssociationRequest{}},
		{"PUT /associations/resources/{resource}", OpWrite, nil, (*handler).putAssociations, "Associates subjects with a resource, or changes that", params([]string{"context"}, changed), AssociationRequest{}, AssociationRequest{}},
		{"GET /associations/resources/{resource}", OpRead, nil, (*handler).associationsByID, "Lists the associations of a resource", params(associationParams, paging), nil, []Association{}},
		{"GET /associations/resources/{namespace}/{name}", OpRead, nil, (*handler).associationsByName, "Lists the associations of a resource, found by its name; - is any", params(associationParams, paging), nil, []Association{}},
		{"GET /associations/subjects/{subject}", OpRead, subject, (*handler).associationsBySubject, "Lists the associations of a subject", params(associationParams, paging), nil, []Association{}},
		{"DELETE /associations/resources/{resource}", OpWrite, nil, (*handler).deleteAssociations, "Takes associations of a resource away", params([]string{"resourceType", "associationType", "cascadeLifecycle"}, changed), nil, nil},
		{"POST /associations:batchGet", OpRead, nil, (*handler).batchGetAssociations, "Lists the associations of several resources", []string{"includeSchemas"}, batch[associationGet]{}, batchReply{}},
		{"POST /associations:batchMutate", OpWrite, nil, (*handler).batchMutateAssociations, "Changes the associations of several resources", params([]string{"context"}, changed), batch[AssociationRequest]{}, batchReply{}},
	}
}

var associationParams = []string{"resourceType", "associationType", "lifecycle"}

// endpoint makes the route's endpoint, which asks for permission first.
func (rt route) endpoint(h *handler) endpoint {
	return func(q *query) (any, error) {
		if rt.of != nil && h.options.Authorize != nil {
			if err := h.permit(q.req.Context(), rt.op, rt.of(q)); err != nil {
				return nil, err
			}
		}
		return rt.serve(h, q)
	}
}

// permit returns an error where the caller may not do op to subject.
func (h *handler) permit(ctx context.Context, op Operation, subject string) error {
	if h.options.Authorize == nil {
		return nil
	}
	err := h.options.Authorize(ctx, op, subject)
	if err == nil || errors.As(err, new(*Error)) {
		return err
	}
	return &Error{Code: codeForbidden, Message: "The caller may not do that", cause: err}
}

// permitID returns an error where the caller may read none of the subjects that
// have an id.
func (q *query) permitID(in string, id int) error {
	if q.options.Authorize == nil {
		return nil
	}
	uses, err := q.r.VersionsByID(in, id, true)
	if err != nil {
		return err
	}
	for _, u := range uses {
		if err = q.permit(q.req.Context(), OpRead, u.Subject); err == nil {
			return nil
		}
	}
	return err
}

// readable leaves out of a list what the caller may not read.
func readable[T any](q *query, list []T, subject func(T) string) []T {
	if q.options.Authorize == nil {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool {
		return q.permit(q.req.Context(), OpRead, subject(v)) != nil
	})
}

func itself(name string) string { return name }
