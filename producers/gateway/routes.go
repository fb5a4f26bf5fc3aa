package gateway

import (
	"maps"
	"net/http"
	"slices"

	"penstock/openapi"
)

// route is a route as it is served and described.
type route struct {
	openapi.Route
	serve http.HandlerFunc
}

// recordsV3 is the body of v3, for the description.
type recordsV3 struct {
	Key       *sideOfV3    `json:"key"`
	Value     *sideOfV3    `json:"value"`
	Headers   []headerOfV3 `json:"headers"`
	Timestamp string       `json:"timestamp"`
}

type sideOfV3 struct {
	Type          string `json:"type"`
	Data          any    `json:"data"`
	Subject       string `json:"subject"`
	Strategy      string `json:"subject_name_strategy"`
	SchemaID      int    `json:"schema_id"`
	SchemaVersion int    `json:"schema_version"`
	Schema        string `json:"schema"`
}

type headerOfV3 struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type entriesOfV3 struct {
	Entries []recordsV3 `json:"entries"`
}

// routes is the API.
func (g *Gateway) routes() []route {
	media := append([]string{typeEvent, typeCloudEvent, typeCloudEvents}, slices.Sorted(maps.Keys(kafkaForms))...)
	const v3 = "/v3/clusters/{cluster}"
	return []route{
		{openapi.Route{
			Pattern: "POST /topics/{topic}", Summary: "Publishes an event, records of the REST Proxy v2 or CloudEvents, by their type",
			Params: []string{"key", keyHeader, "Priority"}, Takes: media, Body: struct{}{}, Reply: Answer{},
		}, g.to(g.post)},
		{openapi.Route{
			Pattern: "GET /topics/{topic}/publish", Summary: "Opens a WebSocket of subprotocol " + Subprotocol + ": each Message is answered by an Ack",
			Reply: Ack{}, Status: "101",
		}, g.to(g.socket)},
		{openapi.Route{Pattern: "GET /v3/clusters", Summary: "Lists the cluster", Reply: struct{}{}}, g.clusters},
		{openapi.Route{Pattern: "GET " + v3, Summary: "Describes the cluster", Reply: struct{}{}}, g.cluster},
		{openapi.Route{
			Pattern: "POST " + v3 + "/topics/{topic}/records", Summary: "Publishes a stream of records, each answered in its order",
			Params: []string{keyHeader}, Body: recordsV3{}, Reply: Delivery{},
		}, g.to(g.stream)},
		{openapi.Route{
			Pattern: "POST " + v3 + "/topics/{topic}/records:batch", Summary: "Publishes up to ten records, each answered by its id",
			Params: []string{keyHeader, "Priority"}, Body: entriesOfV3{}, Reply: Batch{}, Status: "207",
		}, g.to(g.batch)},
		{openapi.Route{Pattern: "GET /openapi.json", Summary: "Returns this description", Reply: struct{}{}}, g.describes},
	}
}

// describeAPI makes an OpenAPI document of the routes.
func (g *Gateway) describeAPI() map[string]any {
	a := openapi.API{
		Title: "Penstock gateway", Version: "1", Media: []string{typeEvent}, Refusal: Answer{},
		Description: "Events over HTTP: checked against the topic's schema, and durable when answered. An error_code is the HTTP status and two digits more.",
		Parameters: map[string]openapi.Parameter{
			"topic":    {Kind: "string", Description: "A topic"},
			"cluster":  {Kind: "string", Description: "The id of the cluster: " + g.cfg.Cluster},
			"key":      {Kind: "string", Description: "The field of the event that becomes the record's key"},
			keyHeader:  {Kind: "string", Description: "A key under which the request may be sent again, and is published once", Header: true},
			"Priority": {Kind: "string", Description: "How urgent the request is where not all can be served: u=0 the most, u=7 the least, u=3 by default", Header: true},
		},
	}
	for _, rt := range g.routes() {
		a.Routes = append(a.Routes, rt.Route)
	}
	return a.Document()
}

func (g *Gateway) describes(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(g.document); err != nil {
		g.cfg.Log.Debug("answer over HTTP", "error", err) // the client is gone
	}
}
