package registrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"penstock/registry"
)

// History is what clients of a registry, of one node or several, have asked and
// heard. Check says whether there is an order of it that a single registry could
// have followed, in which each answer lies between its question and itself: so
// nothing acknowledged is lost, nothing is done twice, and no read is stale. The
// registry has to speak Avro and begin empty.
type History struct {
	nodes []string
	http  *http.Client
	began time.Time

	mu         sync.Mutex
	operations map[string][]porcupine.Operation // by subject
	unknown    map[string]int                   // how many of them are of unknown outcome
	successors [maxSubjects]int                 // which successor of a subject is in use
	contents   map[int]string                   // what an id was said to stand for
	kept       []int                            // ids of the subject that is never deleted for good
	faults     []string
	acked      int           // writes
	progress   chan struct{} // closed, and made anew, at each of them
	counts     map[string]int
}

// NewHistory returns the empty history of the registry whose nodes have these
// base URLs.
func NewHistory(nodes ...string) *History {
	return &History{
		nodes: nodes, began: time.Now(),
		http:       &http.Client{Timeout: 8 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}},
		operations: map[string][]porcupine.Operation{}, unknown: map[string]int{}, contents: map[int]string{},
		progress: make(chan struct{}), counts: map[string]int{},
	}
}

// kind is what an operation does.
type kind string

const (
	register   kind = "register"
	latest     kind = "latest"
	versions   kind = "versions"
	softDelete kind = "delete"
	hardDelete kind = "delete for good"
	setLevel   kind = "set level"
	getLevel   kind = "level"
)

// There are so few subjects and contents that clients meet. The first subject is
// never deleted for good, and has contents of its own.
//
// Each write of unknown outcome doubles what an order has to be looked for in, so
// a subject with maxUnknown of them is asked for no more during a run: another
// one takes its place.
const (
	maxSubjects = 8
	maxContents = 5
	maxUnknown  = 4
)

// input is a question about one subject.
type input struct {
	kind    kind
	subject string
	content string // a field's name, or a level
}

// output is what came of it.
type output struct {
	unknown bool // it may have been done, then or later, or not
	code    registry.Code
	id      int
	version int
	content string
	numbers []int
}

// Run lets clients ask until ctx ends. Each goes to any node, and half of the
// time sends along the position that it has heard last.
func (h *History) Run(ctx context.Context, clients int) {
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c := &historyClient{h: h, number: i}
			for ctx.Err() == nil {
				c.next(ctx)
			}
		})
	}
	wg.Wait()
}

// Await returns when so many more writes were acknowledged.
func (h *History) Await(ctx context.Context, writes int) error {
	h.mu.Lock()
	until := h.acked + writes
	for h.acked < until {
		progress := h.progress
		h.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d writes: %w", writes, ctx.Err())
		case <-progress:
		}
		h.mu.Lock()
	}
	h.mu.Unlock()
	return nil
}

// Check reports what Faults finds.
func (h *History) Check(t *testing.T) {
	t.Helper()
	for _, f := range h.Faults() {
		t.Error(f)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.Logf("%d writes acknowledged; counts: %v", h.acked, h.counts)
}

// Faults asks every node for everything, once more, and then judges the history:
// it returns what is wrong with it. All nodes have to be up, and no Run at work.
func (h *History) Faults() []string {
	h.mu.Lock()
	subjects := slices.Sorted(maps.Keys(h.operations))
	h.mu.Unlock()
	for range 2 { // the second round sees what the first may have made others see
		for node := range h.nodes {
			c := &historyClient{h: h, number: 1000 + node}
			for _, subject := range subjects {
				for _, k := range []kind{latest, versions, getLevel} {
					c.ask(context.Background(), node, input{kind: k, subject: subject}, false)
				}
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	faults := slices.Clone(h.faults)
	if h.acked == 0 {
		faults = append(faults, "no write was acknowledged")
	}
	for subject, operations := range h.operations {
		unknown := h.unknown[subject]
		switch porcupine.CheckOperationsTimeout(subjectModel(), operations, 2*time.Minute) {
		case porcupine.Illegal:
			faults = append(faults, fmt.Sprintf("subject %s: no order explains these %d answers (%d of them unknown):\n%s", subject, len(operations), unknown, describe(operations)))
		case porcupine.Unknown:
			faults = append(faults, fmt.Sprintf("subject %s: %d operations, %d of them of unknown outcome, are too many to judge", subject, len(operations), unknown))
		}
	}
	return faults
}

func describe(operations []porcupine.Operation) string {
	var b bytes.Buffer
	for _, o := range operations {
		in, out := o.Input.(input), o.Output.(output)
		ended := "never"
		if o.Return != math.MaxInt64 {
			ended = time.Duration(o.Return).Round(time.Millisecond).String()
		}
		fmt.Fprintf(&b, "  client %d, %s to %s: %s %s: %+v\n", o.ClientId, time.Duration(o.Call).Round(time.Millisecond), ended, in.kind, in.content, out)
	}
	return b.String()
}

type historyClient struct {
	h      *History
	number int
	token  string // the position heard last
	since  int64  // when the request was made whose answer had it
}

// subjectName returns the name of a subject in use.
func (h *History) subjectName(n int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("s%d.%d", n, h.successors[n])
}

func subjectNumber(name string) (n int) {
	if _, err := fmt.Sscanf(name, "s%d.", &n); err != nil {
		panic(fmt.Sprintf("subject %q is none of subjectName: %v", name, err))
	}
	return n
}

// next asks something at random.
func (c *historyClient) next(ctx context.Context) {
	subject := rand.IntN(maxSubjects)
	in := input{subject: c.h.subjectName(subject)}
	switch n := rand.IntN(20); {
	case n < 7:
		in.kind, in.content = register, fmt.Sprint("f", rand.IntN(maxContents))
		if subject == 0 {
			in.content = "kept_" + in.content
		}
	case n < 11:
		in.kind = latest
	case n < 14:
		in.kind = versions
	case n < 15:
		in.kind = softDelete
	case n < 16 && subject > 0:
		in.kind = hardDelete
	case n < 17:
		c.byID(ctx)
		return
	case n < 18:
		in.kind, in.content = setLevel, []string{"NONE", "FULL", "FORWARD"}[rand.IntN(3)]
	default:
		in.kind = getLevel
	}
	node := rand.IntN(len(c.h.nodes))
	if wait := c.ask(ctx, node, in, c.token != "" && rand.IntN(2) == 0); wait > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// byID asks for an id that was registered: wherever it is asked for, it is there,
// and stands for what it stood for.
func (c *historyClient) byID(ctx context.Context) {
	c.h.mu.Lock()
	if len(c.h.kept) == 0 {
		c.h.mu.Unlock()
		return
	}
	id := c.h.kept[rand.IntN(len(c.h.kept))]
	want := c.h.contents[id]
	c.h.counts["by id"]++
	c.h.mu.Unlock()
	url := fmt.Sprintf("%s/schemas/ids/%d", c.h.nodes[rand.IntN(len(c.h.nodes))], id)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(fmt.Sprintf("make a request for %s: %v", url, err)) // the paths are our own
	}
	resp, err := c.h.http.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get(registry.StaleHeader) != "" || resp.StatusCode == http.StatusServiceUnavailable {
		return
	}
	if out, err := answerOf(input{}, raw); err != nil || out.content != want {
		c.h.fault("id %d stands for %s, and %s: %s", id, want, resp.Status, raw)
	}
}

// ask asks a node and notes the answer. It returns how long to wait then.
func (c *historyClient) ask(ctx context.Context, node int, in input, withToken bool) (wait time.Duration) {
	subject := "/subjects/" + in.subject
	var method, path, body string
	switch in.kind {
	case register:
		method, path = http.MethodPost, subject+"/versions"
		body = string(mustJSON(map[string]string{"schema": contentText(in.content)}))
	case latest:
		method, path = http.MethodGet, subject+"/versions/latest"
	case versions:
		method, path = http.MethodGet, subject+"/versions"
	case softDelete:
		method, path = http.MethodDelete, subject
	case hardDelete:
		method, path = http.MethodDelete, subject+"?permanent=true"
	case setLevel:
		method, path = http.MethodPut, "/config/"+in.subject
		body = string(mustJSON(map[string]string{"compatibility": in.content}))
	case getLevel:
		method, path = http.MethodGet, "/config/"+in.subject
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), method, c.h.nodes[node]+path, bytes.NewReader([]byte(body)))
	if err != nil {
		panic(fmt.Sprintf("make a request for %s: %v", path, err)) // the paths are our own
	}
	if withToken {
		req.Header.Set(registry.AtLeastHeader, c.token)
	}
	call := c.h.now()
	resp, err := c.h.http.Do(req)
	var raw []byte
	if err == nil {
		raw, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	returned := c.h.now()
	writes := method != http.MethodGet
	if err != nil {
		if writes {
			c.h.note(c.number, in, output{unknown: true}, call, math.MaxInt64)
		}
		return 100 * time.Millisecond
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		var e registry.Error
		_ = json.Unmarshal(raw, &e) // what is no error of ours has code 0
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			c.h.fault("%s %s: 503 without Retry-After: %s", method, path, raw)
		}
		if resp.StatusCode != http.StatusServiceUnavailable {
			c.h.fault("%s %s: %s: %s", method, path, resp.Status, raw)
		}
		c.h.count(fmt.Sprint(e.Code))
		if writes && e.Code != registry.CodeNoWriter {
			c.h.note(c.number, in, output{unknown: true}, call, math.MaxInt64)
		}
		return time.Second // as Retry-After says
	}
	out, err := answerOf(in, raw)
	if err != nil {
		c.h.fault("%s %s: %s: %s: %v", method, path, resp.Status, raw, err)
		return 0
	}
	position := resp.Header.Get(registry.PositionHeader)
	if withToken && number(position) < number(c.token) {
		c.h.fault("%s %s: the answer is of position %s, and at least %s was asked for", method, path, position, c.token)
	}
	if resp.Header.Get(registry.StaleHeader) != "" {
		c.h.count("stale")
		if !withToken {
			return 0 // it says that it promises nothing
		}
		call = c.since
	} else if position != "" {
		c.token, c.since = position, call
	}
	c.h.note(c.number, in, out, call, returned)
	if writes {
		c.h.ack()
	}
	return 0
}

func number(position string) uint64 {
	n, _ := strconv.ParseUint(position, 10, 64) // 0 where there is none
	return n
}

func contentText(field string) string {
	return `{"type":"record","name":"r","fields":[{"name":"` + field + `","type":"int","default":0}]}`
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // strings always have a JSON
	}
	return b
}

// answerOf reads an answer below 500.
func answerOf(in input, raw []byte) (out output, err error) {
	var list []int
	if json.Unmarshal(raw, &list) == nil {
		out.numbers = list
		return out, nil
	}
	var reply struct {
		Code    registry.Code `json:"error_code"`
		ID      int           `json:"id"`
		Version int           `json:"version"`
		Schema  string        `json:"schema"`
		Level   string        `json:"compatibilityLevel"`
		Set     string        `json:"compatibility"`
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		return out, err
	}
	out.code, out.id, out.version = reply.Code, reply.ID, reply.Version
	if in.kind == getLevel {
		out.content = reply.Level
	}
	if reply.Schema != "" {
		var schema struct{ Fields []struct{ Name string } }
		if err := json.Unmarshal([]byte(reply.Schema), &schema); err != nil || len(schema.Fields) != 1 {
			return out, fmt.Errorf("schema %s is none that was registered", reply.Schema)
		}
		out.content = schema.Fields[0].Name
	}
	return out, nil
}

func (h *History) now() int64 { return int64(time.Since(h.began)) }

func (h *History) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.faults) < 20 {
		h.faults = append(h.faults, fmt.Sprintf(format, args...))
	}
}

func (h *History) count(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[what]++
}

func (h *History) ack() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked++
	close(h.progress)
	h.progress = make(chan struct{})
}

// note adds to the history, and checks at once that one id stands for one thing,
// for ever.
func (h *History) note(client int, in input, out output, call, returned int64) {
	if out.id != 0 && in.kind == register {
		out.content = in.content
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[string(in.kind)]++
	h.operations[in.subject] = append(h.operations[in.subject], porcupine.Operation{
		ClientId: client, Input: in, Output: out, Call: call, Return: returned,
	})
	if out.unknown {
		if h.unknown[in.subject]++; h.unknown[in.subject] == maxUnknown {
			h.successors[subjectNumber(in.subject)]++
		}
	}
	if out.id == 0 {
		return
	}
	if before, ok := h.contents[out.id]; ok && before != out.content {
		h.faults = append(h.faults, fmt.Sprintf("id %d stood for %s, and stands for %s", out.id, before, out.content))
	}
	if h.contents[out.id] = out.content; subjectNumber(in.subject) == 0 && !slices.Contains(h.kept, out.id) {
		h.kept = append(h.kept, out.id)
	}
}

// subjectState is what a registry knows of one subject. It is never changed.
type subjectState struct {
	versions []modelVersion // by number
	level    string
}

type modelVersion struct {
	number  int
	id      int // 0 while nobody has heard it
	content string
	deleted bool
}

func (s subjectState) live() (live []modelVersion) {
	for _, v := range s.versions {
		if !v.deleted {
			live = append(live, v)
		}
	}
	return live
}

// subjectModel is a subject as a single registry keeps it. Which id a content
// has is no business of one subject; History looks after that.
func subjectModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{subjectState{}} },
		Step: func(state, in, out any) []any {
			s, i, o := state.(subjectState), in.(input), out.(output)
			if o.unknown {
				next, _ := s.step(i, output{})
				return []any{s, next}
			}
			next, want := s.step(i, o)
			if !reflect.DeepEqual(want, o) {
				return nil
			}
			return []any{next}
		},
		Equal: func(a, b any) bool { return reflect.DeepEqual(a, b) },
	}
	return m.ToModel()
}

// step returns the state after a request, and its answer. The answer that was
// heard, if any, supplies ids that nobody has heard before.
func (s subjectState) step(in input, heard output) (subjectState, output) {
	live := s.live()
	next := subjectState{slices.Clone(s.versions), s.level}
	switch in.kind {
	case register:
		for _, v := range slices.Backward(live) {
			if v.content == in.content {
				return next.identified(v.number, heard.id), output{id: identity(v.id, heard.id), version: v.number, content: v.content}
			}
		}
		made := modelVersion{number: 1, id: heard.id, content: in.content}
		if n := len(s.versions); n > 0 {
			made.number = s.versions[n-1].number + 1
		}
		next.versions = slices.DeleteFunc(next.versions, func(v modelVersion) bool { return v.content == in.content })
		next.versions = append(next.versions, made)
		return next, output{id: heard.id, version: made.number, content: in.content}
	case latest:
		if len(live) == 0 {
			return s, output{code: s.missing(registry.CodeVersionNotFound, heard)}
		}
		v := live[len(live)-1]
		return next.identified(v.number, heard.id), output{id: identity(v.id, heard.id), version: v.number, content: v.content}
	case versions:
		if len(live) == 0 {
			return s, output{code: registry.CodeSubjectNotFound}
		}
		return s, output{numbers: numbersOf(live)}
	case softDelete:
		switch {
		case len(s.versions) == 0:
			return s, output{code: registry.CodeSubjectNotFound}
		case len(live) == 0:
			return s, output{code: registry.CodeSubjectDeleted}
		}
		for i := range next.versions {
			next.versions[i].deleted = true
		}
		return next, output{numbers: numbersOf(live)}
	case hardDelete:
		switch {
		case len(s.versions) == 0:
			return s, output{code: registry.CodeSubjectNotFound}
		case len(live) > 0:
			return s, output{code: registry.CodeSubjectNotDeleted}
		}
		return subjectState{}, output{numbers: numbersOf(s.versions)}
	case setLevel:
		next.level = in.content
		return next, output{}
	case getLevel:
		if s.level == "" {
			return s, output{code: registry.CodeConfigNotFound}
		}
		return s, output{content: s.level}
	}
	return s, output{}
}

// missing allows either of the two codes for a version of a subject that has none.
func (subjectState) missing(other registry.Code, heard output) registry.Code {
	if heard.code == other {
		return other
	}
	return registry.CodeSubjectNotFound
}

// identified notes the id that was heard of a version.
func (s subjectState) identified(number, id int) subjectState {
	for i := range s.versions {
		if v := &s.versions[i]; v.number == number && v.id == 0 {
			v.id = id
		}
	}
	return s
}

func identity(known, heard int) int {
	if known == 0 {
		return heard
	}
	return known
}

func numbersOf(list []modelVersion) []int {
	numbers := make([]int, len(list))
	for i, v := range list {
		numbers[i] = v.number
	}
	return numbers
}
