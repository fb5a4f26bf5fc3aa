package linking

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"penstock/registry"
)

// Exporter is what an exporter is told, as Confluent's API writes it.
type Exporter struct {
	Name string `json:"name"`
	// Subjects are patterns of what is exported; none, or "*", is all, of all
	// contexts, as is ":*:".
	Subjects []string `json:"subjects,omitempty"`
	// SubjectRenameFormat gives the subject's name in the target, with
	// ${subject} for its name here. Empty keeps it.
	SubjectRenameFormat string `json:"subjectRenameFormat,omitempty"`
	// ContextType says which context of the target takes the schemas: CUSTOM is
	// that of Context, NONE or DEFAULT keeps the one they have here. AUTO, or
	// empty, is a context named after the cluster here.
	ContextType string `json:"contextType,omitempty"`
	Context     string `json:"context,omitempty"`
	// Config says how the target is reached: schema.registry.url, and for basic
	// authentication basic.auth.user.info as user:password, or bearer.auth.token.
	Config map[string]string `json:"config,omitempty"`
}

// The members of an exporter's configuration.
const (
	configURL    = "schema.registry.url"
	configBasic  = "basic.auth.user.info"
	configBearer = "bearer.auth.token"
)

// secret stands for a secret in answers; in a request it keeps what was there.
const secret = "[hidden]"

// hidden is e without its secrets.
func (e Exporter) hidden() Exporter {
	e.Config = maps.Clone(e.Config)
	for _, name := range []string{configBasic, configBearer} {
		if e.Config[name] != "" {
			e.Config[name] = secret
		}
	}
	return e
}

// state is what an exporter does.
type state string

const (
	starting state = "STARTING"
	running  state = "RUNNING"
	paused   state = "PAUSED"
	failing  state = "ERROR"
)

// document is an exporter as the registry's log keeps it.
type document struct {
	Exporter
	Paused bool `json:"paused,omitempty"`
	// Generation changes when the exporter is to begin anew.
	Generation int `json:"generation,omitempty"`
}

// Status is how an exporter fares.
type Status struct {
	Name  string `json:"name"`
	State state  `json:"state"`
	// Offset is the position of this registry's log up to which the target is
	// as this registry is, -1 before the first time.
	Offset int64 `json:"offset"`
	// Timestamp is when that was, in milliseconds since 1970.
	Timestamp int64 `json:"ts"`
	// Trace says what went wrong last, in ERROR.
	Trace string `json:"trace,omitempty"`
	// Copied and Deleted count versions since the exporter was started here.
	Copied  int `json:"copied"`
	Deleted int `json:"deleted"`
}

// Registry is what exporters ask of the registry that they export; a
// *registry.Registry is one.
type Registry interface {
	Exporters() map[string]json.RawMessage
	PutExporter(ctx context.Context, name string, text json.RawMessage, check func(old json.RawMessage) error) error
	// Position tells that something was written: it rises.
	Position() uint64
}

// Target is a connection to another registry.
type Target interface {
	Writer
	Close()
}

// Config says what a Manager works with.
type Config struct {
	Registry Registry
	// From reads the registry. Its client is in this process.
	From Reader
	// Connect makes a connection to the registry at url; user and password, or
	// token, may be empty.
	Connect func(url, user, password, token string) (Target, error)
	// Cluster names this registry where an exporter names no context.
	Cluster string
	Logger  *slog.Logger
	// Every is how often an exporter looks whether there is something new, and
	// how long it waits after a failure. Zero is a second.
	Every time.Duration
	// Runs reports whether this node is to export now, where several share a
	// log. nil is always. Where two do so for a moment they do work twice, no
	// harm.
	Runs func() bool
}

// Manager runs the exporters that the registry's log names. Its methods may be
// called concurrently.
type Manager struct {
	c    Config
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	runs map[string]*run
}

// run is an exporter at work. The manager's mutex guards status.
type run struct {
	document document
	status   Status
	target   Target
	link     *Link
}

// NewManager starts to run exporters. Whoever calls it calls Close.
func NewManager(c Config) *Manager {
	c.Every = cmp.Or(c.Every, time.Second)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Runs == nil {
		c.Runs = func() bool { return true }
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Manager{c: c, stop: stop, done: make(chan struct{}), runs: map[string]*run{}}
	go m.run(ctx)
	return m
}

// Close ends what exporters are doing, and returns.
func (m *Manager) Close() {
	m.stop()
	<-m.done
}

func (m *Manager) run(ctx context.Context) {
	defer close(m.done)
	tick := time.NewTicker(m.c.Every)
	defer tick.Stop()
	for {
		m.round(ctx)
		select {
		case <-ctx.Done():
			for _, r := range m.runs {
				r.end()
			}
			return
		case <-tick.C:
		}
	}
}

// round lets every exporter do what there is to do, one after the other.
func (m *Manager) round(ctx context.Context) {
	documents := m.c.Registry.Exporters()
	runs := len(documents) > 0 && m.c.Runs()
	m.mu.Lock()
	for name, r := range m.runs {
		// Another node, if it runs them, changes what a target holds.
		if documents[name] == nil || !runs {
			r.end()
			delete(m.runs, name)
		}
	}
	m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		if ctx.Err() != nil || !runs || !m.c.Runs() {
			return
		}
		r, err := m.current(name, documents[name])
		if err == nil && r.document.Paused {
			continue
		}
		if err == nil {
			err = m.export(ctx, r)
		}
		if err != nil && ctx.Err() == nil {
			m.note(r, func(s *Status) { s.State, s.Trace = failing, err.Error() })
			m.c.Logger.Warn("exporter failed, and will try again", "exporter", name, "error", err)
		}
	}
}

// current is the run of an exporter as the log has it now.
func (m *Manager) current(name string, text json.RawMessage) (*run, error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return &run{status: Status{Name: name}}, fmt.Errorf("read exporter %q: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.runs[name]
	if r == nil {
		r = &run{document: d, status: Status{Name: name, State: starting, Offset: -1}}
		m.runs[name] = r
	}
	if !same(r.document, d) {
		r.end()
		r.link, r.target = nil, nil
		if r.document.Generation != d.Generation {
			r.status.Offset = -1
		}
	}
	if r.document.Paused && !d.Paused {
		r.status.State = starting
	}
	if d.Paused {
		r.status.State, r.status.Trace = paused, ""
	}
	r.document = d
	return r, nil
}

// same reports whether two documents ask for the same copies.
func same(a, b document) bool {
	a.Paused, b.Paused = false, false
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// export brings the target of an exporter up to date.
func (m *Manager) export(ctx context.Context, r *run) error {
	position := m.c.Registry.Position()
	if r.link != nil && r.status.State == running && r.status.Offset == int64(position) {
		return nil
	}
	if r.link == nil {
		user, password, _ := strings.Cut(r.document.Config[configBasic], ":")
		target, err := m.c.Connect(r.document.Config[configURL], user, password, r.document.Config[configBearer])
		if err != nil {
			return err
		}
		subjects := r.document.Subjects
		if slices.Contains(subjects, "*") || slices.Contains(subjects, ":*:") {
			subjects = nil
		}
		r.target = target
		r.link = New(m.c.From, target, Options{Subjects: subjects, Rename: m.rename(r.document.Exporter), Prune: true})
	}
	counts, err := r.link.Copy(ctx)
	m.note(r, func(s *Status) {
		s.Copied += counts.Copied
		s.Deleted += counts.Deleted
		if err == nil {
			s.State, s.Offset, s.Timestamp, s.Trace = running, int64(position), time.Now().UnixMilli(), ""
		}
	})
	if err != nil {
		r.end() // what the target holds is asked for again
		r.link, r.target = nil, nil
	}
	return err
}

func (m *Manager) note(r *run, change func(*Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&r.status)
}

func (r *run) end() {
	if r.target != nil {
		r.target.Close()
	}
}

// rename is where an exporter's subjects go.
func (m *Manager) rename(e Exporter) func(string) string {
	return func(subject string) string {
		scope := registry.ScopeOf(subject)
		name := strings.TrimPrefix(subject, scope)
		if e.SubjectRenameFormat != "" {
			name = strings.ReplaceAll(e.SubjectRenameFormat, "${subject}", name)
		}
		switch e.ContextType {
		case "NONE", "DEFAULT":
		case "CUSTOM":
			scope = within(e.Context)
		default:
			scope = within(m.c.Cluster)
		}
		return scope + name
	}
}

// within is the scope of a context of that name.
func within(context string) string {
	context = strings.Trim(context, ":")
	if context == "" || context == registry.DefaultContext {
		return ""
	}
	return ":." + strings.TrimPrefix(context, ".") + ":"
}

// Names lists the exporters in order.
func (m *Manager) Names() []string {
	return append([]string{}, slices.Sorted(maps.Keys(m.c.Registry.Exporters()))...)
}

// Get returns an exporter without its secrets, or CodeExporterNotFound.
func (m *Manager) Get(name string) (Exporter, error) {
	d, err := read(name, m.c.Registry.Exporters()[name])
	return d.hidden(), err
}

// Status returns how an exporter fares on this node, or CodeExporterNotFound.
// Where another node runs it, it says so.
func (m *Manager) Status(name string) (Status, error) {
	d, err := read(name, m.c.Registry.Exporters()[name])
	if err != nil {
		return Status{}, err
	}
	s := Status{Name: name, State: starting, Offset: -1}
	if !m.c.Runs() {
		s.Trace = "another node of this registry runs the exporters; ask it for their status"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.runs[name]; r != nil {
		s = r.status
	}
	if d.Paused {
		s.State, s.Trace = paused, ""
	}
	return s, nil
}

func read(name string, text json.RawMessage) (d document, err error) {
	if text == nil {
		return d, &registry.Error{Code: registry.CodeExporterNotFound, Message: fmt.Sprintf("Exporter '%s' not found", name)}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return d, fmt.Errorf("read exporter %q: %w", name, err)
	}
	return d, nil
}

// Create adds an exporter, which starts, or returns CodeExporterExists.
func (m *Manager) Create(ctx context.Context, e Exporter) error {
	if e.Name == "" || len(e.Name) > 256 {
		return invalid("an exporter has a name, of at most 256 bytes")
	}
	if err := e.check(); err != nil {
		return err
	}
	return m.put(ctx, e.Name, document{Exporter: e}, func(old json.RawMessage) error {
		if old != nil {
			return &registry.Error{Code: registry.CodeExporterExists, Message: fmt.Sprintf("Exporter '%s' already exists", e.Name)}
		}
		return nil
	})
}

// change lets f change an exporter, or returns CodeExporterNotFound.
func (m *Manager) change(ctx context.Context, name string, f func(*document) error) error {
	for {
		old := m.c.Registry.Exporters()[name]
		d, err := read(name, old)
		if err != nil {
			return err
		}
		if err := f(&d); err != nil {
			return err
		}
		err = m.put(ctx, name, d, func(now json.RawMessage) error {
			if string(now) != string(old) {
				return errMoved
			}
			return nil
		})
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

var errMoved = errors.New("the exporter has been changed meanwhile")

func (m *Manager) put(ctx context.Context, name string, d document, check func(json.RawMessage) error) error {
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("write exporter %q: %w", name, err)
	}
	return m.c.Registry.PutExporter(ctx, name, text, check)
}

// Update replaces what an exporter is told; a member that is not given stays.
func (m *Manager) Update(ctx context.Context, name string, e Exporter) error {
	return m.change(ctx, name, func(d *document) error {
		if e.Subjects != nil {
			d.Subjects = e.Subjects
		}
		d.SubjectRenameFormat = cmp.Or(e.SubjectRenameFormat, d.SubjectRenameFormat)
		d.ContextType = cmp.Or(e.ContextType, d.ContextType)
		d.Context = cmp.Or(e.Context, d.Context)
		if e.Config != nil {
			d.Config = keep(e.Config, d.Config)
		}
		return d.check()
	})
}

// keep is the new configuration, with the old secrets where it hides them.
func keep(now, old map[string]string) map[string]string {
	now = maps.Clone(now)
	for name, value := range now {
		if value == secret {
			now[name] = old[name]
		}
	}
	return now
}

// Pause stops an exporter until it is resumed.
func (m *Manager) Pause(ctx context.Context, name string, pause bool) error {
	return m.change(ctx, name, func(d *document) error {
		d.Paused = pause
		return nil
	})
}

// Reset lets an exporter ask its target anew what is there, and copy what it
// lacks.
func (m *Manager) Reset(ctx context.Context, name string) error {
	return m.change(ctx, name, func(d *document) error {
		d.Generation++
		return nil
	})
}

// Delete takes an exporter away. What it copied stays where it is.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.c.Registry.PutExporter(ctx, name, nil, func(old json.RawMessage) error {
		_, err := read(name, old)
		return err
	})
}

// check refuses what cannot work.
func (e Exporter) check() error {
	url := e.Config[configURL]
	switch {
	case !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://"):
		return invalid("config has %q, the http or https URL of the target", configURL)
	case strings.Contains(url, "@"):
		return invalid("the URL of the target holds no password: it goes into %q", configBasic)
	case !slices.Contains([]string{"", "AUTO", "CUSTOM", "NONE", "DEFAULT"}, e.ContextType):
		return invalid("contextType is AUTO, CUSTOM, NONE or DEFAULT, and not %q", e.ContextType)
	case e.ContextType == "CUSTOM" && e.Context == "":
		return invalid("contextType CUSTOM goes with a context")
	case e.SubjectRenameFormat != "" && !strings.Contains(e.SubjectRenameFormat, "${subject}"):
		return invalid("subjectRenameFormat contains ${subject}, so that subjects stay apart")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &registry.Error{Code: 422, Message: "Invalid exporter: " + fmt.Sprintf(format, args...)}
}
