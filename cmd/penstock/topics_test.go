package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/registry"
)

// Topics that other registries wrote: ours starts on them, everything is there,
// it goes on writing, and the others can start on what it leaves.
func TestForeignTopics(t *testing.T) {
	read := func(name string) (records []*kgo.Record) {
		text, err := os.ReadFile(filepath.Join("testdata", "topics", name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			key, value, isValue := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			r := &kgo.Record{Key: []byte(key)}
			if isValue {
				r.Value = []byte(value)
			}
			records = append(records, r)
		}
		return records
	}
	// What a Karapace before version 4 calls its records.
	old := func(records []*kgo.Record) []*kgo.Record {
		for _, r := range records {
			key := struct {
				Subject *string `json:"subject"`
				Version int     `json:"version,omitempty"`
				Magic   int     `json:"magic"`
				KeyType string  `json:"keytype"`
			}{}
			if err := json.Unmarshal(r.Key, &key); err != nil {
				t.Fatal(err)
			}
			var err error
			if r.Key, err = json.Marshal(key); err != nil {
				t.Fatal(err)
			}
		}
		return records
	}
	t.Run("confluent", func(t *testing.T) { foreignTopic(t, read("confluent.tsv")) })
	t.Run("karapace", func(t *testing.T) { foreignTopic(t, read("karapace.tsv")) })
	t.Run("karapace before 4", func(t *testing.T) { foreignTopic(t, old(read("karapace.tsv"))) })
}

func foreignTopic(t *testing.T, records []*kgo.Record) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	kafka, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("_schemas"), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	if _, err := kadm.NewClient(kafka).CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}, "_schemas"); err != nil {
		t.Fatal(err)
	}
	if err := kafka.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}

	reg, err := openStore(t.Context(), "kafka://"+strings.Join(cluster.ListenAddrs(), ","), "http://127.0.0.1:8081", registry.Options{Logger: newTerminal(nil, nil, new(bytes.Buffer), false).log})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(reg.handler(registry.HandlerOptions{}))
	defer server.Close()
	// ask sends a request and wants the given members in the answer.
	ask := func(method, path, body, want string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var wanted, members any
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &members); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, got)
		}
		if w, ok := wanted.(map[string]any); ok {
			m, _ := members.(map[string]any)
			for name := range m {
				if _, isWanted := w[name]; !isWanted {
					delete(m, name)
				}
			}
		}
		if diff := cmp.Diff(wanted, members); diff != "" {
			t.Errorf("%s %s: %s (-want +got):\n%s", method, path, got, diff)
		}
	}
	text := func(kind, schema, references string) string {
		b, err := json.Marshal(schema)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"schemaType":%q,"schema":%s,"references":[%s]}`, kind, b, references)
	}
	sizes := "/subjects/" + url.PathEscape("größe/value")

	ask("GET", "/subjects?deleted=true&subjectPrefix=:.:", "", `["city-value","größe/value","hidden-value","path-value","place.proto","point-value","route-value","trip-value"]`)
	ask("GET", sizes+"/versions?deleted=true", "", `[1,2]`)
	ask("GET", sizes+"/versions", "", `[2]`)
	ask("GET", "/subjects/hidden-value/versions/2?deleted=true", "", `{"id":12,"version":2}`)
	ask("GET", "/subjects/hidden-value/versions", "", `{"error_code":40401}`)
	ask("GET", "/subjects/city-value/versions/1/referencedby", "", `[3]`)
	ask("GET", "/schemas/ids/10", "", `{"error_code":40403}`)
	ask("GET", "/config", "", `{"compatibilityLevel":"FULL"}`)
	ask("GET", "/config/city-value", "", `{"error_code":40408}`)
	ask("GET", "/config/"+url.PathEscape("größe/value"), "", `{"compatibilityLevel":"NONE"}`)
	ask("GET", "/config/point-value", "", `{"compatibilityLevel":"FORWARD_TRANSITIVE"}`)

	// Clients look schemas up by the text that they have.
	ask("POST", "/subjects/city-value", text("AVRO", `{"type": "record", "name": "City", "namespace": "geo", "doc": "Größe", "fields": [
		{"name": "name", "type": {"type": "string"}}, {"name": "people", "type": ["null", "long"], "default": null}]}`, ""), `{"id":1,"version":1}`)
	ask("POST", "/subjects/trip-value", text("AVRO", `{"namespace":"geo","type":"record","name":"Trip","fields":[{"name":"from","type":"geo.City"},{"name":"to","type":"geo.City"}]}`,
		`{"name":"geo.City","subject":"city-value","version":1}`), `{"id":3}`)
	ask("POST", "/subjects/path-value", text("JSON", `{"type":"array","items":{"$ref":"point.json"}}`, `{"name":"point.json","subject":"point-value","version":1}`), `{"id":5}`)
	ask("POST", "/subjects/point-value", text("JSON", `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","title":"Point",
		"properties":{"y":{"type":"number"},"x":{"type":"number"}},"required":["x","y"],"additionalProperties":false}`, ""), `{"id":4}`)
	ask("POST", "/subjects/place.proto", text("PROTOBUF", "syntax = \"proto3\";\npackage geo;\nmessage Place { string name = 1; int64 people = 2; }", ""), `{"id":6}`)
	ask("POST", "/subjects/route-value", text("PROTOBUF", "syntax = \"proto3\";\npackage geo;\nimport \"place.proto\";\nmessage Route { Place from = 1; Place to = 2; }",
		`{"name":"place.proto","subject":"place.proto","version":1}`), `{"id":7}`)

	// And it goes on.
	ask("POST", "/subjects/new-value/versions", text("AVRO", `"double"`, ""), `{"id":11,"version":1}`)
	ask("POST", "/subjects/new-value/versions", text("AVRO", `"bytes"`, ""), `{"error_code":40901}`)
	ask("POST", sizes+"/versions", text("AVRO", `"bytes"`, ""), `{"id":13,"version":3}`)
	ask("DELETE", sizes+"/versions/1?permanent=true", "", `1`)
	ask("DELETE", "/subjects/hidden-value?permanent=true", "", `[1,2]`)
	ask("DELETE", "/subjects/trip-value", "", `[1]`)
	ask("DELETE", "/config", "", `{"compatibilityLevel":"FULL"}`)
	ask("PUT", "/config/new-value", `{"compatibility":"FULL"}`, `{"compatibility":"FULL"}`)
	server.Close()
	if err := reg.close(); err != nil {
		t.Fatal(err)
	}

	// What the others find.
	got := foreignReader(t, kafka)
	want := map[string]string{
		"CONFIG größe/value 0": "NONE", "CONFIG point-value 0": "FORWARD_TRANSITIVE", "CONFIG new-value 0": "FULL",
		"SCHEMA city-value 1": "1", "SCHEMA city-value 2": "2", "SCHEMA trip-value 1": "3 deleted", "SCHEMA point-value 1": "4",
		"SCHEMA path-value 1": "5", "SCHEMA place.proto 1": "6", "SCHEMA route-value 1": "7", "SCHEMA größe/value 2": "9",
		"SCHEMA größe/value 3": "13", "SCHEMA new-value 1": "11",
	}
	for key := range got {
		if strings.HasPrefix(key, "SCHEMA :.lab:") || strings.HasPrefix(key, "MODE") || strings.HasPrefix(key, "CONTEXT") {
			delete(got, key) // only Confluent's has such
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what other registries find in the topic (-want +got):\n%s", diff)
	}
}

// foreignReader reads the topic after Kafka has compacted it and forgotten the
// tombstones, by what Confluent's registry and Karapace have in common: the kinds
// of record that they know, the last of which by its key counts, a record that
// deletes the versions of a subject up to one, and that the topic's last offset
// is that of a record.
func foreignReader(t *testing.T, kafka *kgo.Client) map[string]string {
	ends, err := kadm.NewClient(kafka).ListEndOffsets(t.Context(), "_schemas")
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup("_schemas", 0)
	kafka.AddConsumeTopics("_schemas")
	var records []*kgo.Record
	for len(records) == 0 || records[len(records)-1].Offset < end.Offset-1 {
		fetches := kafka.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		records = append(records, fetches.Records()...)
	}
	if records[len(records)-1].Attrs.IsControl() {
		t.Error("the topic ends with the marker of a transaction")
	}
	records = slices.DeleteFunc(records, func(r *kgo.Record) bool { return r.Attrs.IsControl() })
	last := map[string]int64{}
	for _, r := range records {
		last[string(r.Key)] = r.Offset
	}
	state := map[string]string{}
	for _, r := range records {
		var key, value struct {
			KeyType, Subject, CompatibilityLevel string
			Version, ID, Magic                   int
			Deleted                              bool
		}
		if err := json.Unmarshal(r.Key, &key); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains([]string{"SCHEMA", "CONFIG", "MODE", "DELETE_SUBJECT", "CLEAR_SUBJECT", "CONTEXT", "NOOP"}, key.KeyType) {
			t.Errorf("record %s is of a kind at which Confluent's registry ends", r.Key)
		}
		if r.Offset != last[string(r.Key)] || len(r.Value) == 0 {
			continue
		}
		if err := json.Unmarshal(r.Value, &value); err != nil {
			t.Fatal(err)
		}
		name := func(version int) string { return fmt.Sprint(key.KeyType, " ", key.Subject, " ", version) }
		switch key.KeyType {
		case "SCHEMA":
			state[name(key.Version)] = fmt.Sprint(value.ID) + map[bool]string{true: " deleted"}[value.Deleted]
		case "DELETE_SUBJECT":
			key.KeyType = "SCHEMA"
			for v := range value.Version {
				if id, ok := state[name(v+1)]; ok {
					state[name(v+1)] = strings.TrimSuffix(id, " deleted") + " deleted"
				}
			}
		default:
			state[name(0)] = value.CompatibilityLevel
		}
	}
	return state
}
