package access

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"unicode"
)

// maxDecisions is how many decisions of one request are kept.
const maxDecisions = 1000

// decision is one answer of Authorize.
type decision struct {
	operation, subject string
	allowed            bool
}

// auditor writes one line of JSON for each decision that an audit asks about.
type auditor struct {
	log *slog.Logger
	out *auditFile // nil: a writer of somebody else's
}

func newAuditor(file string, w io.Writer) (*auditor, error) {
	a := &auditor{}
	if file != "" {
		a.out = &auditFile{name: file}
		if err := a.out.open(); err != nil {
			return nil, fmt.Errorf("open the audit log: %w", err)
		}
		w = a.out
	}
	a.log = slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
		if attr.Key == slog.LevelKey || attr.Key == slog.MessageKey {
			return slog.Attr{}
		}
		return attr
	}}))
	return a, nil
}

// write tells of a request that has been answered with status: each thing done
// or refused that changes something, and a refusal of any other kind.
func (a *auditor) write(s *session, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := status == 401 || status == 403 || status == 429
	told := false
	for _, d := range s.decisions {
		told = told || !d.allowed
		a.line(s, status, d)
	}
	switch {
	case told || !refused:
	case s.refused != nil:
		a.line(s, status, *s.refused)
	default:
		a.line(s, status, decision{})
	}
	if s.more > 0 {
		a.line(s, status, decision{operation: fmt.Sprintf("%d more", s.more), allowed: true})
	}
}

func (a *auditor) line(s *session, status int, d decision) {
	outcome := "refused"
	if d.allowed {
		outcome = "allowed"
	}
	name, method := "", "anonymous"
	if s.principal != nil {
		name, method = s.principal.Name, s.principal.Method
	}
	if s.claimed != "" {
		name, method = s.claimed, "wrong password"
	}
	a.log.LogAttrs(context.Background(), slog.LevelInfo, "",
		slog.String("request", s.id),
		slog.String("principal", name),
		slog.String("by", method),
		slog.String("from", s.remote),
		slog.String("operation", d.operation),
		slog.String("subject", d.subject),
		slog.String("outcome", outcome),
		slog.Int("status", status),
		slog.String("http", s.method+" "+s.path),
	)
}

// auditFile appends to a file, which may be moved away and is then made anew.
type auditFile struct {
	name string

	mu     sync.Mutex
	f      *os.File
	failed error // of the last write, until somebody asks
}

func (a *auditFile) open() error {
	f, err := os.OpenFile(a.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if a.f != nil {
		err = a.f.Close()
	}
	a.f = f
	return err
}

func (a *auditFile) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := a.f.Write(p)
	if err != nil {
		a.failed = err
	}
	return n, err
}

// poll opens the file again if there is another, or none, under its name, and
// tells log what could not be written.
func (a *auditFile) poll(log *slog.Logger) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.failed
	a.failed = nil
	now, statErr := os.Stat(a.name)
	if is, isErr := a.f.Stat(); statErr != nil || isErr != nil || !os.SameFile(now, is) {
		if openErr := a.open(); openErr != nil {
			err = openErr
		}
	}
	if err != nil {
		log.Error("the audit log misses lines", "error", err)
	}
}

func (a *auditFile) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.f.Close()
}

func printable(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return false
		}
	}
	return true
}
