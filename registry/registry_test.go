package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/registry"
	"penstock/registry/logs/file"
	"penstock/registry/logs/memory"
	"penstock/schemas"
)

// gatedLog is a log whose appends wait, and fail, as a test says.
type gatedLog struct {
	*memory.Log
	arrived chan int // of each append, its number of events
	gate    chan error
}

func newGatedLog() *gatedLog {
	return &gatedLog{memory.New(), make(chan int), make(chan error)}
}

func (l *gatedLog) Append(ctx context.Context, prev uint64, events ...registry.Event) (uint64, error) {
	l.arrived <- len(events)
	if err := <-l.gate; err != nil {
		return 0, err
	}
	return l.Log.Append(ctx, prev, events...)
}

// TestReadsDoNotWait: while an append is on its way, reads answer, and do not
// show what is not durable; a failed one leaves no trace.
func TestReadsDoNotWait(t *testing.T) {
	log := newGatedLog()
	r := open(t, log)
	registering := make(chan error, 1)
	register := func(words string) {
		_, err := r.Register(t.Context(), "s", fake(words), false)
		registering <- err
	}
	go register("+a")
	<-log.arrived
	if names := r.Subjects("", registry.WithDeleted); len(names) != 0 {
		t.Errorf("before the append is done there are subjects %v", names)
	}
	if _, err := r.SchemaByID(".", 1); !errors.Is(err, schemas.ErrNoSchema) {
		t.Errorf("before the append is done, id 1: %v", err)
	}
	log.gate <- errors.New("secret detail of the disk")
	err := <-registering
	if codeOf(err) != registry.CodeStore || strings.Contains(err.Error(), "secret") {
		t.Errorf("the append failed: got %v, want CodeStore without what is inside", err)
	}
	if names := r.Subjects("", registry.WithDeleted); len(names) != 0 {
		t.Errorf("after a failed append there are subjects %v", names)
	}
	go register("+b")
	<-log.arrived
	log.gate <- nil
	if err := <-registering; err != nil {
		t.Fatal(err)
	}
	if s, err := r.SchemaByID(".", 1); err != nil || s.Schema != text("+b") {
		t.Errorf("id 1: %+v %v, want what was registered after the failure", s, err)
	}
}

// TestGroupCommit: writes that wait while one is on its way share the next
// append, each decided on what those before it leave.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newGatedLog()
		r, err := registry.New(t.Context(), log, []schemas.Format{fakeFormat{schemas.Avro}}, fakeChecker{}, registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var wg sync.WaitGroup
		register := func(subject, words string) {
			wg.Go(func() {
				if _, err := r.Register(t.Context(), subject, fake(words), false); err != nil {
					t.Error(err)
				}
			})
		}
		register("first", "+a")
		<-log.arrived
		for i := range 10 {
			register(fmt.Sprint("s", i), fmt.Sprintf("+%d", i/2)) // two of each, and so one id
		}
		register("twice", "+z")
		register("twice", "+z")
		synctest.Wait()
		log.gate <- nil
		if n := <-log.arrived; n != 11 {
			t.Errorf("the second append has %d events, want 11", n)
		}
		log.gate <- nil
		wg.Wait()
		if got := r.MaxID("."); got != 7 {
			t.Errorf("ids up to %d were given, want 7", got)
		}
	})
}

// TestTwoWriters: two registries on one log, as two nodes have it, give no id
// twice and no version twice, and each finds its own writes.
func TestTwoWriters(t *testing.T) {
	log := memory.New()
	nodes := []*registry.Registry{open(t, log), open(t, log)}
	var mu sync.Mutex
	ids, versions := map[int]string{}, map[int]string{}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				words := fmt.Sprintf("+%d.%d", w, i)
				s, err := nodes[w%2].Register(t.Context(), "s", fake(words), false)
				if err != nil {
					t.Error(err)
					return
				}
				if own, err := nodes[w%2].Version("s", s.Version, false); err != nil || own.Schema != text(words) {
					t.Errorf("%s is registered as version %d, which reads %+v, %v", words, s.Version, own, err)
				}
				mu.Lock()
				if ids[s.ID] != "" || versions[s.Version] != "" {
					t.Errorf("id %d or version %d was given twice", s.ID, s.Version)
				}
				ids[s.ID], versions[s.Version] = words, words
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(ids) != 160 || len(versions) != 160 {
		t.Errorf("%d ids and %d versions, want 160", len(ids), len(versions))
	}
	third := everything(open(t, log))
	for i, node := range nodes {
		// A write that changes nothing that is asked for brings the node up to
		// date.
		if err := node.SetMode(t.Context(), "other", registry.ReadWrite, false); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(third, everything(node)); diff != "" {
			t.Errorf("node %d differs from a fresh one (-fresh +node):\n%s", i, diff)
		}
	}
}

// TestForeignRecords replays what other registries write: unknown kinds, null
// subjects, unknown fields, tombstones of what never was.
func TestForeignRecords(t *testing.T) {
	log := memory.New()
	var events []registry.Event
	for _, record := range [][2]string{
		{`{"keytype":"NOOP","magic":0}`, ``},
		{`{"keytype":"CONTEXT","tenant":"default","context":".c"}`, `{"tenant":"default","context":".c"}`},
		{`{"keytype":"ASSOC","tenant":"t","resourceName":"r","magic":0}`, `{"guid":"x"}`},
		{`{"keytype":"SOMETHING_NEW","magic":0}`, `{}`},
		{`{"keytype":"CONFIG","subject":null,"magic":0}`, `{"subject":null,"compatibilityLevel":"FULL","normalize":true}`},
		{`{"keytype":"CONFIG","subject":"s","magic":0}`, `{"compatibilityLevel":"NONE"}`},
		{`{"keytype":"MODE","subject":"s","magic":0}`, `{"mode":"READWRITE"}`},
		{`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1,"node":3,"seq":7}`, `{"subject":"s","version":1,"id":7,"schema":"{\"has\":[\"a\"]}","deleted":false,"unknown":[1]}`},
		{`{"keytype":"SCHEMA","subject":"s","version":3,"magic":1}`, `{"subject":"s","version":3,"id":9,"md5":"wrong","schemaType":"AVRO","references":[{"name":"n","subject":"s","version":1}],"schema":"{}","deleted":false}`},
		{`{"keytype":"SCHEMA","subject":"gone","version":1,"magic":1}`, ``},
		{`{"keytype":"DELETE_SUBJECT","subject":"never","magic":0}`, `{"subject":"never","version":4}`},
		{`{"keytype":"SCHEMA","subject":"t","version":1,"magic":1}`, `{"subject":"t","version":1,"id":12,"schema":"{}","deleted":false}`},
		{`{"keytype":"DELETE_SUBJECT","subject":"t","magic":0}`, `{"subject":"t","version":1}`},
		{`{"keytype":"CLEAR_SUBJECT","subject":"t","magic":0}`, `{"subject":"t"}`},
	} {
		e := registry.Event{Key: []byte(record[0])}
		if record[1] != "" {
			e.Value = []byte(record[1])
		}
		events = append(events, e)
	}
	if _, err := log.Append(t.Context(), 0, events...); err != nil {
		t.Fatal(err)
	}
	r := open(t, log)
	if c, err := r.Config("", false); err != nil || c.CompatibilityLevel != registry.LevelFull {
		t.Errorf("global level: %v %v", c, err)
	}
	if names := r.Subjects("", registry.WithDeleted); len(names) != 1 || names[0] != "s" {
		t.Errorf("subjects %v, want s", names)
	}
	if ids, err := r.ReferencedBy("s", 1, false); err != nil || len(ids) != 1 || ids[0] != 9 {
		t.Errorf("referenced by %v, %v", ids, err)
	}
	if s, err := r.Register(t.Context(), "s", fake("+z"), false); err != nil || s.ID != 13 || s.Version != 4 {
		t.Errorf("the next schema gets id %d, version %d, %v; want 13, 4", s.ID, s.Version, err)
	}
}

// TestUnreadableRecord: a log that cannot be understood is refused, with the
// place, until a later record of the key says what was meant.
func TestUnreadableRecord(t *testing.T) {
	for _, bad := range [][2]string{
		{`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`, `not JSON`},
		{`{"keytype":"SCHEMA","subject":"s","version":0,"magic":1}`, `{"id":1}`},
		{`{"keytype":"SCHEMA","subject":"s","version":1,"magic":7}`, `{"id":1}`},
		{`{"keytype":"CONFIG","magic":0}`, `[]`},
	} {
		log := memory.New()
		_, err := log.Append(t.Context(), 0, registry.Event{Key: []byte(`{"keytype":"NOOP"}`)}, registry.Event{Key: []byte(bad[0]), Value: []byte(bad[1])})
		if err != nil {
			t.Fatal(err)
		}
		_, err = registry.New(t.Context(), log, nil, fakeChecker{}, registry.Options{})
		if err == nil || !strings.Contains(err.Error(), "position 2") {
			t.Errorf("%s: got %v, want an error with the position", bad[0], err)
		}
	}
}

func TestUnreadableRecordMended(t *testing.T) {
	key := []byte(`{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}`)
	log := memory.New()
	if _, err := log.Append(t.Context(), 0,
		registry.Event{Key: []byte(`no record`), Value: []byte(`{}`)},
		registry.Event{Key: []byte(`{"of":"another"}`), Value: []byte(`{}`)},
		registry.Event{Key: key, Value: []byte(`not JSON`)},
		registry.Event{Key: key, Value: []byte(`{"subject":"s","version":1,"id":3,"schema":"{}"}`)},
	); err != nil {
		t.Fatal(err)
	}
	if s, err := open(t, log).Version("s", 1, false); err != nil || s.ID != 3 {
		t.Errorf("got id %d, %v; want 3", s.ID, err)
	}
}

// TestRedpanda: of two nodes that wrote at a time, the second has lost, and its
// record counts for nothing; a deletion names the offset of what it deletes.
func TestRedpanda(t *testing.T) {
	key := func(version, seq, node int) []byte {
		return fmt.Appendf(nil, `{"keytype":"SCHEMA","subject":"s","version":%d,"magic":1,"seq":%d,"node":%d}`, version, seq, node)
	}
	value := func(version, id int) []byte {
		return fmt.Appendf(nil, `{"subject":"s","version":%d,"id":%d,"schema":"{}","deleted":false}`, version, id)
	}
	log := memory.New()
	if _, err := log.Append(t.Context(), 0,
		registry.Event{Key: key(1, 0, 1), Value: value(1, 1)},
		registry.Event{Key: key(2, 1, 1), Value: value(2, 2)},
		registry.Event{Key: key(2, 1, 2), Value: value(2, 7)},
		registry.Event{Key: key(3, 3, 2), Value: value(3, 3)},
		registry.Event{Key: key(1, 0, 1)},
	); err != nil {
		t.Fatal(err)
	}
	r := open(t, log)
	if versions, err := r.Versions("s", registry.WithDeleted); err != nil || !slices.Equal(versions, []int{2, 3}) {
		t.Errorf("versions %v, %v; want 2 and 3", versions, err)
	}
	if s, err := r.Version("s", 2, false); err != nil || s.ID != 2 {
		t.Errorf("version 2 has id %d, %v; want that of who came first", s.ID, err)
	}
}

// TestSpellings: what was written under other bytes than ours, and taken away by
// us, stays away when Kafka has compacted the topic and forgotten the tombstones.
func TestSpellings(t *testing.T) {
	schema := []byte(`{"subject":"größe","version":1,"id":3,"schema":"{}","deleted":true}`)
	log := memory.New()
	if _, err := log.Append(t.Context(), 0,
		registry.Event{Key: []byte(`{"keytype":"SCHEMA","subject":"größe","version":1,"magic":1}`), Value: schema},
		registry.Event{Key: []byte(`{"keytype":"SCHEMA","subject":"gr\u00f6\u00dfe","version":1,"magic":1}`), Value: schema},
		registry.Event{Key: []byte(`{"subject":"größe","version":1,"magic":1,"keytype":"SCHEMA"}`), Value: schema},
		registry.Event{Key: []byte(`{"subject":"other","version":1,"magic":1,"keytype":"SCHEMA"}`), Value: schema},
		registry.Event{Key: []byte(`{"subject":"other","version":1,"magic":1,"keytype":"SCHEMA"}`), Value: []byte(``)},
		registry.Event{Key: []byte(`{"subject":"größe","magic":0,"keytype":"CONFIG"}`), Value: []byte(`{"compatibilityLevel":"FULL"}`)},
		registry.Event{Key: []byte(`{"subject":null,"magic":0,"keytype":"CONFIG"}`), Value: []byte(`{"compatibilityLevel":"NONE"}`)},
	); err != nil {
		t.Fatal(err)
	}
	r := open(t, log)
	if names := r.Subjects("", registry.WithDeleted); len(names) != 1 {
		t.Errorf("subjects %v, want one: Karapace's tombstones have a value of no bytes", names)
	}
	if _, err := r.DeleteVersion(t.Context(), "größe", 1, true); err != nil {
		t.Fatal(err)
	}
	if _, err := r.DeleteConfig(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	last := map[string]registry.Event{}
	if err := log.Replay(t.Context(), 0, func(e registry.Event) error {
		last[string(e.Key)] = e
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for key, e := range last {
		if len(e.Value) > 0 {
			t.Errorf("the log still holds %s with %s", key, e.Value)
		}
	}
}

// TestEnds: a caller whose context ends goes on, and after Close writes are
// refused and reads are not.
func TestEnds(t *testing.T) {
	log := newGatedLog()
	r, err := registry.New(t.Context(), log, []schemas.Format{fakeFormat{schemas.Avro}}, fakeChecker{}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	registering := make(chan error)
	go func() {
		_, err := r.Register(ctx, "s", fake("+a"), false)
		registering <- err
	}()
	<-log.arrived
	cancel()
	if err := <-registering; codeOf(err) != registry.CodeTimeout || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want CodeTimeout and the context's error", err)
	}
	closed := make(chan struct{})
	go func() { r.Close(); close(closed) }()
	log.gate <- nil // Close waits for the append
	<-closed
	if names := r.Subjects("", registry.WithoutDeleted); len(names) != 1 {
		t.Errorf("subjects %v, want the one whose append Close waited for", names)
	}
	if _, err := r.Register(t.Context(), "s", fake("+b"), false); codeOf(err) != registry.CodeStore {
		t.Errorf("a write after Close: %v, want CodeStore", err)
	}
	h := httptest.NewRecorder()
	registry.Handler(r, registry.HandlerOptions{}).ServeHTTP(h, httptest.NewRequestWithContext(t.Context(), "GET", "/readyz", nil))
	if h.Code != 503 {
		t.Errorf("/readyz after Close: %d, want 503", h.Code)
	}
}

// slowLog never answers in time.
type slowLog struct{ *memory.Log }

func (slowLog) Append(ctx context.Context, _ uint64, _ ...registry.Event) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := registry.New(t.Context(), slowLog{memory.New()}, nil, fakeChecker{}, registry.Options{WriteTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := r.SetMode(t.Context(), "", registry.ReadOnly, false); codeOf(err) != registry.CodeTimeout {
			t.Errorf("got %v, want CodeTimeout", err)
		}
	})
}

// TestGivesUpWhileDeciding: a caller whose context ends while its write is being
// decided comes back when that is over, since the decision fills in its result.
func TestGivesUpWhileDeciding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var deleting, back bool
		now := func() time.Time {
			if deleting {
				cancel()
				time.Sleep(time.Second) // until nobody has anything to do
				if back {
					t.Error("the caller is back while its write is being decided")
				}
			}
			return clock
		}
		r, err := registry.New(t.Context(), memory.New(), []schemas.Format{fakeFormat{schemas.Avro}}, fakeChecker{}, registry.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Register(t.Context(), "s", fake("+a"), false); err != nil {
			t.Fatal(err)
		}
		deleting = true
		_, err = r.DeleteSubject(ctx, "s", false)
		back = true
		if err != nil && codeOf(err) != registry.CodeTimeout {
			t.Errorf("got %v, want CodeTimeout or none", err)
		}
	})
}

// TestReferences: what a schema refers to is resolved, limited, and one name
// means one thing.
func TestReferences(t *testing.T) {
	r := fresh(t)
	must := func(subject, words string, refs ...registry.Reference) {
		t.Helper()
		if _, err := r.Register(t.Context(), subject, fake(words, refs...), false); err != nil {
			t.Fatal(err)
		}
	}
	ref := func(name, subject string, version int) registry.Reference {
		return registry.Reference{Name: name, Subject: subject, Version: version}
	}
	must("base", "+a")
	must("base", "+b")
	must("left", "@x", ref("x", "base", 1))
	must("right", "@x", ref("x", "base", 2))
	_, err := r.Register(t.Context(), "both", fake("@l @r", ref("l", "left", 1), ref("r", "right", 1)), false)
	if codeOf(err) != registry.CodeInvalidSchema || !strings.Contains(err.Error(), `"x" refers both`) {
		t.Errorf("one name for two things: %v", err)
	}
	must("same", "@l @x", ref("l", "left", 1), ref("x", "base", 1))
	for _, bad := range []registry.Reference{{Subject: "base", Version: 1}, {Name: "x", Version: 1}} {
		if _, err := r.Register(t.Context(), "bad", fake("+a", bad), false); codeOf(err) != registry.CodeInvalidSchema {
			t.Errorf("reference %+v: %v", bad, err)
		}
	}
	// In a context, a name that says no context is of that context.
	must(":.c:base", "+c")
	must(":.c:user", "@x", ref("x", "base", 1))
	if ids, err := r.ReferencedBy(":.c:base", 1, false); err != nil || len(ids) != 1 {
		t.Errorf("referenced by %v, %v", ids, err)
	}
	var many []registry.Reference
	for i := range 1000 {
		many = append(many, ref(fmt.Sprint("n", i), "base", 1))
	}
	must("many", "+a", many...)
	_, err = r.Register(t.Context(), "more", fake("@m @y", ref("m", "many", 1), ref("y", "base", 2)), false)
	if codeOf(err) != registry.CodeInvalidSchema || !strings.Contains(err.Error(), "more than 1000") {
		t.Errorf("1002 references over two steps: %v", err)
	}
}

func TestLevels(t *testing.T) {
	versions := []string{"+a", "+b", "-x +b"} // ascending
	for level, want := range map[registry.Level]string{
		registry.LevelNone:               "",
		registry.LevelBackward:           "3B",
		registry.LevelBackwardTransitive: "3B 2B 1B",
		registry.LevelForward:            "3F",
		registry.LevelForwardTransitive:  "3F",
		registry.LevelFull:               "3F 3B",
		registry.LevelFullTransitive:     "3F 3B 2B 1B",
	} {
		var old []registry.Registered
		for i, words := range versions {
			old = append(old, registry.Registered{Version: i + 1, Schema: parsed(t, words)})
		}
		found, err := registry.CheckLevel(fakeChecker{}, level, registry.PolicyStrict, parsed(t, "-c"), old)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found {
			got = append(got, fmt.Sprint(f.Version, string(f.Direction[:1])))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: got %q, want %q", level, s, want)
		}
		if l, err := registry.ParseLevel(strings.ToLower(string(level))); l != level || err != nil {
			t.Errorf("parse %s: %s %v", level, l, err)
		}
	}
	if !registry.Compatible([]registry.Finding{{Severity: registry.SeverityWarning}, {Severity: registry.SeverityInfo}}) {
		t.Error("warnings make schemas incompatible")
	}
}

func parsed(t *testing.T, words string) schemas.Schema {
	t.Helper()
	s, err := fakeFormat{schemas.Avro}.Parse(text(words), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestErrors: errors of one code are the same, and those for what is not there
// are schemas.ErrNoSchema.
func TestErrors(t *testing.T) {
	for code, none := range map[registry.Code]bool{
		registry.CodeSubjectNotFound: true, registry.CodeVersionNotFound: true, registry.CodeSchemaNotFound: true,
		registry.CodeConfigNotFound: false, registry.CodeIncompatible: false, registry.CodeStore: false,
	} {
		err := fmt.Errorf("wrapped: %w", &registry.Error{Code: code, Message: "x"})
		if !errors.Is(err, &registry.Error{Code: code}) || errors.Is(err, &registry.Error{Code: code + 1}) {
			t.Errorf("%d does not match its code alone", code)
		}
		if errors.Is(err, schemas.ErrNoSchema) != none {
			t.Errorf("%d is ErrNoSchema: %v", code, !none)
		}
	}
	for code, status := range map[registry.Code]int{40401: 404, 40901: 409, 42201: 422, 50001: 500, 405: 405} {
		if got := code.Status(); got != status {
			t.Errorf("status of %d is %d, want %d", code, got, status)
		}
	}
}

// TestClockJumps: a registry whose clock jumps, by years and back, knows the same
// as one whose clock is steady, before and after its log is compacted and read
// again. Times are for people; what came last is what the log has last.
func TestClockJumps(t *testing.T) {
	known := func(r *registry.Registry) (all []string) {
		t.Helper()
		for _, name := range r.Subjects("", registry.WithDeleted) {
			numbers, err := r.Versions(name, registry.WithDeleted)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range numbers {
				s, err := r.Version(name, n, true)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, fmt.Sprintf("%s/%d: id %d %s", name, n, s.ID, s.Schema))
			}
			live, err := r.Versions(name, registry.WithoutDeleted)
			all = append(all, fmt.Sprintf("%s: live %v %v", name, live, err))
			c, err := r.Config(name, false)
			all = append(all, fmt.Sprintf("%s: %s %v", name, c.CompatibilityLevel, err))
		}
		return append(all, fmt.Sprint("highest id ", r.MaxID(".")))
	}
	run := func(now func() time.Time) (before, after []string) {
		t.Helper()
		dir := t.TempDir()
		log, err := file.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		start := func() *registry.Registry {
			r, err := registry.New(t.Context(), log, []schemas.Format{fakeFormat{schemas.Avro}}, fakeChecker{}, registry.Options{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		r := start()
		for i := range 12 {
			name := fmt.Sprint("s", i%3)
			if _, err := r.Register(t.Context(), name, fake(fmt.Sprint("+f", i)), false); err != nil {
				t.Fatal(err)
			}
			if err := r.SetConfig(t.Context(), name, registry.Config{CompatibilityLevel: []registry.Level{registry.LevelNone, registry.LevelFull}[i/3%2]}); err != nil {
				t.Fatal(err)
			}
			if i%4 == 3 {
				for _, permanent := range []bool{false, true} {
					if _, err := r.DeleteSubject(t.Context(), name, permanent); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if _, err := r.DeleteSubject(t.Context(), "s1", false); err != nil {
			t.Fatal(err)
		}
		before = known(r)
		r.Close()
		if err := errors.Join(log.Compact(t.Context()), log.Close()); err != nil {
			t.Fatal(err)
		}
		if log, err = file.Open(dir); err != nil {
			t.Fatal(err)
		}
		r = start()
		after = known(r)
		r.Close()
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		return before, after
	}
	steady, read := run(func() time.Time { return clock })
	if diff := cmp.Diff(steady, read); diff != "" {
		t.Errorf("read again it knows something else (-before +after):\n%s", diff)
	}
	jumps := 0
	before, after := run(func() time.Time {
		jumps++
		return clock.AddDate([]int{0, 10, -30, 5}[jumps%4], 0, -jumps)
	})
	if diff := cmp.Diff(steady, before); diff != "" {
		t.Errorf("with jumps it knows something else (-steady +jumps):\n%s", diff)
	}
	if diff := cmp.Diff(steady, after); diff != "" {
		t.Errorf("with jumps and read again it knows something else (-steady +jumps):\n%s", diff)
	}
}
