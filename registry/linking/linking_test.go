package linking_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/registry/compat"
	"penstock/registry/linking"
	"penstock/registry/logs/memory"
	"penstock/schemas"
	"penstock/schemas/avro"
)

// home is a registry with a client in this process.
type home struct {
	*testing.T
	log      *memory.Log
	registry *registry.Registry
	handler  http.Handler
	client   *client.Client
}

func fresh(t *testing.T) *home { return over(t, memory.New()) }

func over(t *testing.T, log *memory.Log) *home {
	t.Helper()
	r, err := registry.New(t.Context(), log, []schemas.Format{avro.Format{}}, compat.Checker{}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	h := &home{T: t, log: log, registry: r, handler: registry.Handler(r, registry.HandlerOptions{})}
	if h.client, err = client.Local(h.handler, nil, client.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.client.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func record(name, fields string) string {
	return fmt.Sprintf(`{"type":"record","name":%q,"fields":[%s]}`, name, fields)
}

func (h *home) register(subject, text string, refs ...registry.Reference) {
	h.Helper()
	if _, err := h.registry.Register(h.Context(), subject, registry.Schema{Schema: text, References: refs}, false); err != nil {
		h.Fatal(err)
	}
}

// state is all that a registry says of its subjects.
func (h *home) state() map[string]any {
	h.Helper()
	state := map[string]any{}
	for _, s := range h.registry.Schemas("", true, false) {
		s.Timestamp = 0
		state[fmt.Sprint(s.Subject, " ", s.Version)] = s
		for _, kind := range []string{"config", "mode"} {
			if v, err := h.client.Setting(h.Context(), kind, s.Subject); err == nil {
				state[kind+" "+s.Subject] = v
			}
		}
	}
	for _, kind := range []string{"config", "mode"} {
		v, err := h.client.Setting(h.Context(), kind, "")
		if err != nil {
			h.Fatal(err)
		}
		state[kind] = v
	}
	return state
}

// full makes a registry with something of everything.
func full(t *testing.T) *home {
	h := fresh(t)
	h.register("a-value", record("A", `{"name":"x","type":"int"}`))
	h.register("gone", record("G", `{"name":"x","type":"int"}`))
	h.register("z-base", record("B", ""))
	h.register("a-user", record("U", `{"name":"b","type":"B"}`), registry.Reference{Name: "B", Subject: "z-base", Version: 1})
	h.register("a-value", record("A", `{"name":"x","type":"int"},{"name":"y","type":"int","default":0}`))
	h.register(":.other:a-value", record("A", `{"name":"other","type":"int"}`))
	for _, d := range []struct {
		subject   string
		permanent bool
	}{{"gone", false}, {"gone", true}} {
		if _, err := h.registry.DeleteSubject(t.Context(), d.subject, d.permanent); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.registry.DeleteVersion(t.Context(), "a-value", 1, false); err != nil {
		t.Fatal(err)
	}
	if err := h.registry.SetConfig(t.Context(), "a-value", registry.Config{CompatibilityLevel: registry.LevelFull}); err != nil {
		t.Fatal(err)
	}
	if err := h.registry.SetMode(t.Context(), "a-user", registry.ReadOnly, false); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestCopyEverything(t *testing.T) {
	from, to := full(t), fresh(t)
	counts, err := linking.New(from.client, to.client, linking.Options{Settings: true}).Copy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (linking.Counts{Subjects: 4, Versions: 5, Copied: 5, Deleted: 1, Settings: 4}); counts != want {
		t.Errorf("counts %+v, want %+v", counts, want)
	}
	if diff := cmp.Diff(from.state(), to.state()); diff != "" {
		t.Errorf("source and target differ (-source +target):\n%s", diff)
	}
	to.register("new", record("N", "")) // it gives ids again
}

// TestCopyByAndBy: a copy with settings leaves the target as the source is, and
// yet goes on from there, until the target has something of its own.
func TestCopyByAndBy(t *testing.T) {
	from, to := full(t), fresh(t)
	do := func() error {
		_, err := linking.New(from.client, to.client, linking.Options{Settings: true}).Copy(t.Context())
		return err
	}
	for i := range 3 {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(from.state(), to.state()); diff != "" {
			t.Fatalf("after %d more versions (-source +target):\n%s", i, diff)
		}
		from.register("new", record(fmt.Sprint("N", i), ""))
		if _, err := from.registry.DeleteVersion(t.Context(), "new", i+1, false); err != nil {
			t.Fatal(err)
		}
	}
	to.register("mine", record("M", ""))
	if err := do(); err == nil || !strings.Contains(err.Error(), `version 1 of subject "mine"`) {
		t.Errorf("copied beside a schema of the target's own: %v", err)
	}
}

// TestHighestID: an id that the source has given is not given again by a copy of
// it, even if it is gone: not by another registry, and not by one from a file.
func TestHighestID(t *testing.T) {
	from, to := full(t), fresh(t)
	for range 2 { // a second time there is nothing to do
		from.register("last", record("L", ""))
		for _, permanent := range []bool{false, true} {
			if _, err := from.registry.DeleteSubject(t.Context(), "last", permanent); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := linking.New(from.client, to.client, linking.Options{Settings: true}).Copy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var file bytes.Buffer
	if _, err := linking.WriteRecords(t.Context(), &file, to.log); err != nil {
		t.Fatal(err)
	}
	log := memory.New()
	if _, err := linking.ReadRecords(t.Context(), &file, log); err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]*home{"the copy": to, "the file": over(t, log)} {
		for _, context := range []string{".", ".other"} {
			if got, want := r.registry.MaxID(context), from.registry.MaxID(context); got != want || want == 0 {
				t.Errorf("%s, context %s: the highest id is %d, in the source %d", what, context, got, want)
			}
		}
		if diff := cmp.Diff(from.state(), r.state()); diff != "" {
			t.Errorf("%s (-source +copy):\n%s", what, diff)
		}
	}
}

// A second copy asks for little, and sends what is new and what is gone.
func TestCopyAgain(t *testing.T) {
	from, to := full(t), fresh(t)
	link := linking.New(from.client, to.client, linking.Options{Prune: true, Rename: func(s string) string { return ":.mirror:" + strings.TrimPrefix(s, registry.ScopeOf(s)) }, Subjects: []string{"a-*"}})
	if _, err := link.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{":.mirror:a-user", ":.mirror:a-value", ":.mirror:z-base"}
	if diff := cmp.Diff(want, to.registry.Subjects("", registry.WithDeleted)); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
	if counts, err := link.Copy(t.Context()); err != nil || counts.Copied+counts.Deleted > 0 {
		t.Errorf("a second copy did %+v, %v", counts, err)
	}
	if err := from.registry.SetMode(t.Context(), "a-user", registry.ReadWrite, false); err != nil {
		t.Fatal(err)
	}
	if _, err := from.registry.DeleteVersion(t.Context(), "a-value", 1, true); err != nil {
		t.Fatal(err)
	}
	from.register("a-value", record("A", `{"name":"x","type":"int"},{"name":"z","type":"int","default":0}`))
	if counts, err := link.Copy(t.Context()); err != nil || counts.Copied != 1 || counts.Deleted != 1 {
		t.Errorf("after a version more and one less: %+v, %v", counts, err)
	}
	got, err := to.registry.Versions(":.mirror:a-value", registry.WithDeleted)
	if err != nil || !slices.Equal(got, []int{2, 3}) {
		t.Errorf("versions %v, %v", got, err)
	}
}

// A target with schemas of its own is not written to.
func TestCopyRefused(t *testing.T) {
	from, to := full(t), fresh(t)
	to.register("mine", record("M", ""))
	_, err := linking.New(from.client, to.client, linking.Options{}).Copy(t.Context())
	if err == nil || !strings.Contains(err.Error(), "mine") {
		t.Errorf("copied into a registry that is in use: %v", err)
	}
}

func TestRecords(t *testing.T) {
	from := full(t)
	var file bytes.Buffer
	written, err := linking.WriteRecords(t.Context(), &file, from.log)
	if err != nil {
		t.Fatal(err)
	}
	log := memory.New()
	read, err := linking.ReadRecords(t.Context(), bytes.NewReader(file.Bytes()), log)
	if err != nil || read != written || read == 0 {
		t.Fatalf("read %d of %d records, %v", read, written, err)
	}
	if diff := cmp.Diff(from.state(), over(t, log).state()); diff != "" {
		t.Errorf("what was written and what was read differ (-written +read):\n%s", diff)
	}
}

func TestReadPrintedTopic(t *testing.T) {
	topic := `{"keytype":"NOOP","magic":0}	null
{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}	{"subject":"s","version":1,"id":7,"schema":"\"int\"","deleted":false}
`
	log := memory.New()
	if n, err := linking.ReadRecords(t.Context(), strings.NewReader(topic), log); err != nil || n != 2 {
		t.Fatalf("read %d records, %v", n, err)
	}
	if s, err := over(t, log).registry.Version("s", 1, false); err != nil || s.ID != 7 || s.Schema != `"int"` {
		t.Errorf("got %+v, %v", s, err)
	}
	_, err := linking.ReadRecords(t.Context(), strings.NewReader("{}\n"), memory.New())
	if err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a line that is no record: %v", err)
	}
}

func FuzzReadRecords(f *testing.F) {
	f.Add([]byte("{\"key\":{\"keytype\":\"NOOP\",\"magic\":0},\"value\":null}\n"))
	f.Add([]byte("{\"keytype\":\"NOOP\"}\tnull\n{]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		log := memory.New()
		n, err := linking.ReadRecords(t.Context(), bytes.NewReader(data), log)
		if err != nil {
			return
		}
		got := 0
		if err := log.Replay(t.Context(), 0, func(registry.Event) error { got++; return nil }); err != nil || got != n {
			t.Errorf("%d records were read, the log has %d, %v", n, got, err)
		}
	})
}

// api is the exporters of a registry behind HTTP, with targets in this process.
func api(t *testing.T, from *home, targets map[string]*home) func(method, path, body string, status int) map[string]any {
	t.Helper()
	m := linking.NewManager(linking.Config{
		Registry: from.registry, From: from.client, Cluster: "here",
		Connect: func(url, _, _, _ string) (linking.Target, error) {
			c, err := client.Local(targets[url].handler, nil, client.Options{})
			return target{c}, err
		},
	})
	t.Cleanup(m.Close)
	h := registry.Handler(from.registry, registry.HandlerOptions{Routes: linking.Routes(m)})
	return func(method, path, body string, status int) map[string]any {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
		if w.Code != status {
			t.Fatalf("%s %s: status %d, want %d: %s", method, path, w.Code, status, w.Body)
		}
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			got = map[string]any{"raw": w.Body.String()}
		}
		return got
	}
}

type target struct{ *client.Client }

func (t target) Close() { _ = t.Client.Close() }

// TestRoutesAreDescribed: the exporters' routes are in the description of the
// API, with what they take and answer.
func TestRoutesAreDescribed(t *testing.T) {
	doc := api(t, fresh(t), nil)("GET", "/openapi.json", "", 200)
	for _, rt := range linking.Routes(nil) {
		method, path, _ := strings.Cut(rt.Pattern, " ")
		operations, _ := doc["paths"].(map[string]any)[path].(map[string]any)
		op, _ := operations[strings.ToLower(method)].(map[string]any)
		if op["summary"] != rt.Summary || rt.Summary == "" || (op["requestBody"] == nil) != (rt.Body == nil) {
			t.Errorf("%s: described as %v", rt.Pattern, op)
		}
		if got := fmt.Sprint(op["parameters"]); strings.Contains(path, "{") && !strings.Contains(got, "name of an exporter") {
			t.Errorf("%s: parameters %s", rt.Pattern, got)
		}
		if rt.Op != registry.OpAdmin {
			t.Errorf("%s asks for %q, want admin", rt.Pattern, rt.Op)
		}
	}
	if schemas := fmt.Sprint(doc["components"]); !strings.Contains(schemas, "subjectRenameFormat") || !strings.Contains(schemas, "trace") {
		t.Errorf("what an exporter is, is not described: %s", schemas)
	}
}

func TestExporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := full(t), fresh(t)
		do := api(t, from, map[string]*home{"http://there": to})
		if got := do("GET", "/exporters", "", 200); got["raw"] != `[]` {
			t.Errorf("names of none: %v", got)
		}
		do("POST", "/exporters", `{"name":"e"}`, 422)
		do("POST", "/exporters", `{"name":"e","contextType":"CUSTOM","context":"copy","subjects":["*"],"config":{"schema.registry.url":"http://there","basic.auth.user.info":"u:hush"}}`, 200)
		if got := do("POST", "/exporters", `{"name":"e","config":{"schema.registry.url":"http://there"}}`, 409); got["error_code"] != 40950.0 {
			t.Errorf("a second of that name: %v", got)
		}
		if got := do("GET", "/exporters", "", 200); got["raw"] != `["e"]` {
			t.Errorf("names %v", got)
		}
		if got := do("GET", "/exporters/e", "", 200); strings.Contains(fmt.Sprint(got), "hush") {
			t.Errorf("an answer holds the password: %v", got)
		}
		copied := func() []string { return to.registry.Subjects(":.copy:", registry.WithoutDeleted) }
		time.Sleep(3 * time.Second)
		if got := copied(); len(got) != 3 {
			t.Errorf("copied %q", got)
		}
		if got := do("GET", "/exporters/e/status", "", 200); got["state"] != "RUNNING" || got["copied"] != 4.0 {
			t.Errorf("status %v", got)
		}

		do("PUT", "/exporters/e/pause", "", 200)
		from.register("late", record("L", ""))
		time.Sleep(time.Minute)
		if got := do("GET", "/exporters/e/status", "", 200); got["state"] != "PAUSED" || len(copied()) != 3 {
			t.Errorf("paused: %v, copied %q", got, copied())
		}
		do("PUT", "/exporters/e/resume", "", 200)
		time.Sleep(3 * time.Second)
		if got := copied(); !slices.Contains(got, ":.copy:late") {
			t.Errorf("resumed: copied %q", got)
		}

		// What is lost in the target comes again after a reset.
		for _, permanent := range []bool{false, true} {
			if _, err := to.registry.DeleteSubject(t.Context(), ":.copy:late", permanent); err != nil {
				t.Fatal(err)
			}
		}
		do("PUT", "/exporters/e/reset", "", 200)
		time.Sleep(3 * time.Second)
		if got := copied(); !slices.Contains(got, ":.copy:late") {
			t.Errorf("reset: copied %q", got)
		}
		do("PUT", "/exporters/e/config", `{"schema.registry.url":"ftp://there"}`, 422)
		do("DELETE", "/exporters/e", "", 204)
		if got := do("GET", "/exporters/e/status", "", 404); got["error_code"] != 40450.0 {
			t.Errorf("after its deletion: %v", got)
		}
	})
}

func TestExporterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := full(t), fresh(t)
		to.register(":.copy:mine", record("M", ""))
		do := api(t, from, map[string]*home{"http://there": to})
		do("POST", "/exporters", `{"name":"e","contextType":"CUSTOM","context":".copy","config":{"schema.registry.url":"http://there"}}`, 200)
		time.Sleep(3 * time.Second)
		got := do("GET", "/exporters/e/status", "", 200)
		if got["state"] != "ERROR" || !strings.Contains(fmt.Sprint(got["trace"]), "mine") {
			t.Errorf("status %v", got)
		}
		for _, permanent := range []bool{false, true} {
			if _, err := to.registry.DeleteSubject(t.Context(), ":.copy:mine", permanent); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		if got := do("GET", "/exporters/e/status", "", 200); got["state"] != "RUNNING" {
			t.Errorf("status %v", got)
		}
	})
}

// Of the nodes of one registry the one that leads exports, and the others say so.
func TestExporterRunsWhereOneLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := full(t), fresh(t)
		var leader atomic.Int64
		var connected [2]atomic.Int64
		var managers []*linking.Manager
		for i := range 2 {
			m := linking.NewManager(linking.Config{
				Registry: from.registry, From: from.client, Runs: func() bool { return leader.Load() == int64(i) },
				Connect: func(string, string, string, string) (linking.Target, error) {
					connected[i].Add(1)
					c, err := client.Local(to.handler, nil, client.Options{})
					return target{c}, err
				},
			})
			t.Cleanup(m.Close)
			managers = append(managers, m)
		}
		if err := managers[1].Create(t.Context(), linking.Exporter{Name: "e", ContextType: "NONE", Config: map[string]string{"schema.registry.url": "http://there"}}); err != nil {
			t.Fatal(err)
		}
		for i, other := range []int{1, 0, 1} {
			leader.Store(int64(1 - other))
			from.register(fmt.Sprint("more", i), record("M", ""))
			time.Sleep(3 * time.Second)
			if s, err := managers[1-other].Status("e"); err != nil || s.State != "RUNNING" {
				t.Errorf("round %d: where it runs its status is %+v, %v", i, s, err)
			}
			if s, err := managers[other].Status("e"); err != nil || s.State == "RUNNING" || !strings.Contains(s.Trace, "another node") {
				t.Errorf("round %d: where it does not run its status is %+v, %v", i, s, err)
			}
			if got := to.registry.Subjects("", registry.WithoutDeleted); !slices.Contains(got, fmt.Sprint("more", i)) {
				t.Errorf("round %d: copied %q", i, got)
			}
		}
		// Whoever runs it again asks the target anew what it holds.
		if a, b := connected[0].Load(), connected[1].Load(); a != 2 || b != 1 {
			t.Errorf("the nodes connected %d and %d times, want 2 and 1", a, b)
		}
	})
}
