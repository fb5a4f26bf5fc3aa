package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// pollEvery is how often the files are read again.
const pollEvery = 2 * time.Second

// How many wrong passwords an address may send a second, and at once. Beyond
// that it waits, right or wrong, unless the password is one known to be right.
const (
	failuresPerSecond = 5
	failuresAtOnce    = 50
)

// Config says what a Guard guards with. The zero value lets everybody do
// everything.
type Config struct {
	// CertFile and KeyFile are the server's certificate, with the chain that
	// leads to it, and its key, in PEM. Empty means no TLS.
	CertFile, KeyFile string
	// ClientCAFile holds the authorities whose client certificates stand for a
	// principal: their common name, or the first other name where they have
	// none. Where neither users nor tokens count, every client must have one.
	ClientCAFile string
	// Peers are the names of certificates of servers that carry requests on to
	// this one, as Relay does, and whose word for who they are from counts.
	Peers []string
	// UsersFile lists users and the hashes of their passwords, bcrypt or
	// argon2id.
	UsersFile string
	// Tokens are the bearer tokens that count.
	Tokens Tokens
	// PermissionsFile says who may do what. Without it everybody who has shown
	// who they are may do everything.
	PermissionsFile string
	// Operations are those that a permissions file may name.
	Operations []string
	// Rate is how many requests a second one principal, or one address without
	// a principal, may send. 0 means that there is no limit. Burst is how many
	// at once; 0 is two seconds' worth.
	Rate  float64
	Burst int
	// AuditFile gets a line of JSON for each write, deletion and change of
	// settings, done or refused, and for every other refusal. Audit, if it is
	// not nil, gets them where there is no file.
	AuditFile string
	Audit     io.Writer
	// Reads are the operations that change nothing, of which the audit log
	// holds refusals alone.
	Reads []string
	// Public are paths that everybody may ask for, without limit.
	Public []string
	// Identified, if not nil, is told who a request is from.
	Identified func(context.Context, Principal)
	// Logger gets what the operator must know. nil logs nothing.
	Logger *slog.Logger
	// HTTP fetches the keys of tokens. nil is a client of its own.
	HTTP *http.Client
}

// authenticates reports whether there is a way to show who one is.
func (c *Config) authenticates() bool {
	return c.UsersFile != "" || c.Tokens.Keys != "" || c.ClientCAFile != ""
}

// Principal is somebody who has shown who they are.
type Principal struct {
	Name   string
	Groups []string
	Method string // basic, token or certificate
}

// Guard decides who may do what. Its methods may be called concurrently.
type Guard struct {
	config      Config
	tls         *watched[serverTLS]
	users       *watched[users]
	permissions *watched[permissions]
	tokens      *tokens
	rate        *limiter
	failures    *limiter
	hashing     chan struct{} // holds one for each hash being computed
	audit       *auditor

	polls []func(context.Context)
	stop  context.CancelFunc
	done  chan struct{}
}

// New reads the files, all of which must be good, and begins to watch them. An
// issuer of tokens that cannot be reached is no error: its tokens are refused
// until it can. Whoever calls New calls Close.
func New(c Config) (*Guard, error) {
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	g := &Guard{
		config:   c,
		failures: newLimiter(failuresPerSecond, failuresAtOnce),
		hashing:  make(chan struct{}, runtime.GOMAXPROCS(0)),
		done:     make(chan struct{}),
	}
	for _, open := range []func() error{g.openTLS, g.openPeers, g.openUsers, g.openTokens, g.openPermissions, g.openRate, g.openAudit} {
		if err := open(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	go g.watch(ctx)
	return g, nil
}

func (g *Guard) openTLS() error {
	c := &g.config
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("a certificate needs its key, and a key its certificate")
	}
	if c.CertFile == "" {
		if c.ClientCAFile != "" {
			return errors.New("client certificates need TLS: a certificate and a key of the server")
		}
		return nil
	}
	files := []string{c.CertFile, c.KeyFile}
	if c.ClientCAFile != "" {
		files = append(files, c.ClientCAFile)
	}
	need := c.UsersFile == "" && c.Tokens.Keys == ""
	var err error
	g.tls, err = watch("the TLS certificate", func(contents [][]byte) (*serverTLS, error) {
		return parseTLS(contents, need)
	}, files...)
	g.polls = append(g.polls, func(context.Context) { g.tls.poll(c.Logger) })
	return err
}

func (g *Guard) openUsers() (err error) {
	if g.config.UsersFile == "" {
		return nil
	}
	g.users, err = watch("users", parseUsers, g.config.UsersFile)
	g.polls = append(g.polls, func(context.Context) { g.users.poll(g.config.Logger) })
	return err
}

func (g *Guard) openTokens() error {
	t := g.config.Tokens
	if t.Keys == "" {
		if t.Issuer != "" || t.Audience != "" {
			return errors.New("the issuer and audience of tokens need the keys that they are signed with")
		}
		return nil
	}
	if t.Issuer == "" || t.Audience == "" {
		return errors.New("tokens need an issuer and an audience, else those made for other services would count")
	}
	var source keySource
	if isURL(t.Keys) {
		r, err := newRemoteKeys(t.Keys, g.config.HTTP, g.config.Logger)
		if err != nil {
			return err
		}
		source = r
		g.polls = append(g.polls, r.poll)
	} else {
		w, err := watch("the keys of tokens", func(contents [][]byte) (*[]tokenKey, error) {
			keys, err := parseKeys(contents[0])
			return &keys, err
		}, t.Keys)
		if err != nil {
			return err
		}
		source = fileKeys{w}
		g.polls = append(g.polls, func(context.Context) { w.poll(g.config.Logger) })
	}
	g.tokens = newTokens(t, source)
	return nil
}

func (g *Guard) openPermissions() (err error) {
	if g.config.PermissionsFile == "" {
		return nil
	}
	g.permissions, err = watch("permissions", func(contents [][]byte) (*permissions, error) {
		return parsePermissions(contents, g.config.Operations)
	}, g.config.PermissionsFile)
	g.polls = append(g.polls, func(context.Context) { g.permissions.poll(g.config.Logger) })
	return err
}

func (g *Guard) openRate() error {
	rate := g.config.Rate
	switch {
	case rate == 0:
		return nil
	case rate < 0.001 || rate > 1e6 || math.IsNaN(rate) || g.config.Burst < 0 || g.config.Burst > 1e6:
		return fmt.Errorf("a rate limit must be from 0.001 to 1000000 requests a second, and a burst at most 1000000, found %g and %d", rate, g.config.Burst)
	}
	g.rate = newLimiter(rate, cmp.Or(g.config.Burst, max(1, int(2*rate))))
	return nil
}

func (g *Guard) openAudit() (err error) {
	if g.config.AuditFile == "" && g.config.Audit == nil {
		return nil
	}
	g.audit, err = newAuditor(g.config.AuditFile, g.config.Audit)
	if err == nil && g.audit.out != nil {
		g.polls = append(g.polls, func(context.Context) { g.audit.out.poll(g.config.Logger) })
	}
	return err
}

// watch polls until ctx ends.
func (g *Guard) watch(ctx context.Context) {
	defer close(g.done)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		g.poll(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *Guard) poll(ctx context.Context) {
	for _, p := range g.polls {
		p(ctx)
	}
}

// Close stops watching the files and closes the audit log. The guard's handlers
// must have returned.
func (g *Guard) Close() error {
	g.stop()
	<-g.done
	if g.audit != nil && g.audit.out != nil {
		if err := g.audit.out.Close(); err != nil {
			return fmt.Errorf("close the audit log: %w", err)
		}
	}
	return nil
}

// TLSConfig is for a server. It is nil where there is no certificate.
func (g *Guard) TLSConfig() *tls.Config {
	if g.tls == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return g.tls.get().config, nil
		},
	}
}

// Authenticates reports whether requests show who they are from.
func (g *Guard) Authenticates() bool { return g.config.authenticates() }

// session is one request on its way through.
type session struct {
	id, remote, method, path string
	principal                *Principal
	claimed                  string // the user whose password was wrong
	public                   bool
	rules                    []rule // nil: nothing, or everything if there are no permissions

	mu        sync.Mutex
	decisions []decision // on what changes something
	more      int        // decisions beyond maxDecisions
	refused   *decision  // the last refusal to read
}

type sessionKey struct{}

// PrincipalOf returns who a request is from that came through Wrap. It is false
// for somebody who has not shown that.
func PrincipalOf(ctx context.Context) (Principal, bool) {
	s, _ := ctx.Value(sessionKey{}).(*session)
	if s == nil || s.principal == nil {
		return Principal{}, false
	}
	return *s.principal, true
}

// Why a request is refused. Answers show no more than this.
var (
	errWrong  = errors.New("these credentials are not valid")
	errNobody = errors.New("credentials are needed")
)

type tooManyError struct{ wait time.Duration }

func (*tooManyError) Error() string { return "too many requests; try again later" }

type unavailableError struct{}

func (*unavailableError) Error() string {
	return "tokens cannot be checked at present; try again later"
}

// DeniedError is a decision of Authorize against an operation.
type DeniedError struct {
	// Anonymous is set where somebody who shows who they are may be allowed.
	Anonymous          bool
	Operation, Subject string
}

// Error says what was denied.
func (e *DeniedError) Error() string {
	on := ""
	if e.Subject != "" {
		on = fmt.Sprintf(" on %q", e.Subject)
	}
	if e.Anonymous {
		return fmt.Sprintf("%q%s needs credentials", e.Operation, on)
	}
	return fmt.Sprintf("not permitted: %q%s; ask whoever keeps the permissions file", e.Operation, on)
}

// Status is the HTTP status to answer with.
func (e *DeniedError) Status() int {
	if e.Anonymous {
		return http.StatusUnauthorized
	}
	return http.StatusForbidden
}

// Authorize returns a *DeniedError if whom ctx is of may not do operation to
// subject: a name, ":.context:name", ":.context:" for a context, or "" for what
// belongs to no subject. A ctx that has not come through Wrap may do all: it is
// this process's own.
func (g *Guard) Authorize(ctx context.Context, operation, subject string) error {
	s, _ := ctx.Value(sessionKey{}).(*session)
	if s == nil {
		return nil
	}
	ok := s.public || g.permissions == nil || allowed(s.rules, operation, subject)
	if g.audit != nil {
		s.note(decision{operation, subject, ok}, slices.Contains(g.config.Reads, operation))
	}
	if !ok {
		return &DeniedError{s.principal == nil && g.Authenticates(), operation, subject}
	}
	return nil
}

func (s *session) note(d decision, reads bool) {
	if reads && d.allowed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case reads:
		s.refused = &d
	case len(s.decisions) < maxDecisions:
		s.decisions = append(s.decisions, d)
	default:
		s.more++
	}
}

// Wrap puts a handler behind the guard. Answers have an X-Request-Id: the
// request's own if that is of at most 64 letters, digits, dots, dashes and
// underscores. A guard that lets everybody do everything and writes nothing down
// returns next as it is.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	if !g.Authenticates() && g.permissions == nil && g.rate == nil && g.audit == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &session{id: requestID(r), remote: r.RemoteAddr, method: r.Method, path: r.URL.Path}
		w.Header().Set("X-Request-Id", s.id)
		rw := &response{ResponseWriter: w, challenge: g.challenge()}
		if g.audit != nil {
			defer func() { g.audit.write(s, cmp.Or(rw.status, http.StatusOK)) }()
		}
		if err := g.admit(r, s); err != nil {
			Refuse(rw, err)
			return
		}
		inner := r.WithContext(context.WithValue(r.Context(), sessionKey{}, s))
		next.ServeHTTP(rw, inner)
		r.Pattern = inner.Pattern // for whoever wraps this
	})
}

// admit says who a request is from and whether it may come now.
func (g *Guard) admit(r *http.Request, s *session) error {
	if s.public = slices.Contains(g.config.Public, r.URL.Path); s.public {
		return nil
	}
	var err error
	s.principal, err = g.identify(r, s)
	key := "address " + hostOf(r.RemoteAddr)
	if s.principal != nil {
		key = "principal " + s.principal.Name
		if g.config.Identified != nil {
			g.config.Identified(r.Context(), *s.principal)
		}
	}
	if g.rate != nil { // also for those who are refused
		if wait := g.rate.take(key, time.Now()); wait > 0 {
			return &tooManyError{wait}
		}
	}
	if err != nil {
		return err
	}
	p := (*permissions)(nil)
	if g.permissions != nil {
		p = g.permissions.get()
		s.rules = p.of(s.principal)
	}
	if s.principal == nil && g.Authenticates() && (p == nil || !p.forAnonymous()) {
		return errNobody
	}
	return nil
}

// identify returns who a request is from, nil if it does not say. What it says
// must be right: somebody who sends a wrong password is not anonymous.
func (g *Guard) identify(r *http.Request, s *session) (*Principal, error) {
	if !g.Authenticates() {
		return nil, nil
	}
	certified, certificate := g.config.ClientCAFile != "" && r.TLS != nil && len(r.TLS.VerifiedChains) > 0, ""
	if certified {
		certificate = certificateName(r.TLS.PeerCertificates[0])
	}
	if p, ok, err := g.behalf(r, certificate); ok {
		return p, err
	}
	headers := r.Header.Values("Authorization")
	if len(headers) > 1 {
		return nil, errWrong
	}
	if len(headers) == 1 {
		scheme, token, _ := strings.Cut(headers[0], " ")
		switch {
		case strings.EqualFold(scheme, "Basic") && g.users != nil:
			name, password, ok := r.BasicAuth()
			if !ok {
				return nil, errWrong
			}
			p, err := g.basic(r.Context(), hostOf(r.RemoteAddr), name, password)
			if _, known := g.users.get().byName[name]; known && err != nil {
				s.claimed = name
			}
			return p, err
		case strings.EqualFold(scheme, "Bearer") && g.tokens != nil:
			return g.tokens.check(r.Context(), strings.TrimSpace(token))
		default:
			return nil, errWrong
		}
	}
	if certified {
		if checkName(certificate) != nil {
			return nil, errWrong
		}
		return &Principal{Name: certificate, Method: "certificate"}, nil
	}
	return nil, nil
}

// challenge is what a 401 asks for.
func (g *Guard) challenge() []string {
	var c []string
	if g.users != nil {
		c = append(c, `Basic realm="penstock", charset="UTF-8"`)
	}
	if g.tokens != nil {
		c = append(c, `Bearer realm="penstock"`)
	}
	return c
}

// Refuse answers a request with an error of Authorize.
func Refuse(w http.ResponseWriter, err error) {
	var (
		many   *tooManyError
		away   *unavailableError
		denied *DeniedError
	)
	status := http.StatusUnauthorized
	switch {
	case errors.Is(err, errWrong), errors.Is(err, errNobody):
	case errors.As(err, &denied):
		status = denied.Status()
	case errors.As(err, &many):
		status = http.StatusTooManyRequests
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(many.wait.Seconds()))))
	case errors.As(err, &away):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", strconv.Itoa(int(refetchAtMost.Seconds())))
	default:
		status, err = http.StatusServiceUnavailable, errors.New("the request was given up")
	}
	body, _ := json.Marshal(struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}{status, err.Error()}) // an int and a string do not fail
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone is no one to tell
}

// response notes the status, and adds to a 401 what is asked for.
type response struct {
	http.ResponseWriter
	challenge []string
	status    int
}

func (r *response) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
		if status == http.StatusUnauthorized && len(r.challenge) > 0 {
			r.Header()["Www-Authenticate"] = r.challenge
		}
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	other := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
	}
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, other) {
		return rand.Text()
	}
	return id
}
