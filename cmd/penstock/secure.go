package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"

	"golang.org/x/term"

	"penstock/access"
	"penstock/registry"
	"penstock/registry/linking"
	"penstock/telemetry"
)

// secureFlags say who may use what this process serves, and what it shows of
// itself. Commands that serve embed them.
type secureFlags struct {
	TLSCert     string   `name:"tls-cert" group:"Who may" placeholder:"FILE" help:"Certificate of the server, in PEM; serves https. Like every file here it is read again when it changes."`
	TLSKey      string   `name:"tls-key" group:"Who may" placeholder:"FILE" help:"Key of the certificate, in PEM."`
	TLSClientCA string   `name:"tls-client-ca" group:"Who may" placeholder:"FILE" help:"Authorities whose client certificates count as credentials, in PEM."`
	Peers       []string `name:"peers" group:"Who may" placeholder:"NAME" help:"Certificates' names of the other nodes of this registry, whose word for who a write is from counts. This node shows them its own certificate."`
	Users       string   `group:"Who may" placeholder:"FILE" help:"Users and the hashes of their passwords, in YAML; see 'penstock registry passwd'."`
	JWKS        string   `name:"jwks" group:"Who may" placeholder:"FILE|URL" help:"Keys of the bearer tokens that count: a JSON Web Key Set, in a file or at an https URL."`
	JWTIssuer   string   `name:"jwt-issuer" group:"Who may" placeholder:"TEXT" help:"Issuer that a token must name."`
	JWTAudience string   `name:"jwt-audience" group:"Who may" placeholder:"TEXT" help:"Audience that a token must name."`
	JWTName     string   `name:"jwt-name" group:"Who may" default:"sub" placeholder:"CLAIM" help:"Claim of a token that names who it is of (default ${default})."`
	JWTGroups   string   `name:"jwt-groups" group:"Who may" default:"groups" placeholder:"CLAIM" help:"Claim of a token that lists their groups (default ${default})."`
	Permissions string   `group:"Who may" placeholder:"FILE" help:"Who may do what to which subjects, in YAML. Without it whoever has credentials may do everything."`
	RateLimit   float64  `group:"Who may" placeholder:"N" help:"Requests a second that one user, or one address without a user, may send. Default: no limit."`

	AuditLog   string  `group:"What is shown" placeholder:"FILE" help:"Append a line of JSON for each change and each refusal; - is standard error."`
	AccessLog  int     `group:"What is shown" placeholder:"N" help:"Log each Nth request that ends well, and all others, to standard error. Default: none."`
	Metrics    bool    `group:"What is shown" help:"Serve /metrics for Prometheus."`
	Pprof      bool    `group:"What is shown" help:"Serve Go's profiles below /debug/pprof/."`
	Admin      string  `group:"What is shown" placeholder:"ADDR" help:"Serve those two, /livez and /readyz on an address of their own."`
	Traces     string  `group:"What is shown" placeholder:"URL" help:"Send traces to this OpenTelemetry collector (OTLP over HTTP)."`
	TraceRatio float64 `group:"What is shown" default:"1" placeholder:"R" help:"Part of the requests that are traced (default ${default})."`
}

// The operations of permissions besides the registry's.
const (
	opPublish = "publish" // to a topic, through the gateway
	opMetrics = "metrics" // read them
)

// front is what stands before the servers of this process.
type front struct {
	flags     secureFlags
	guard     *access.Guard
	telemetry *telemetry.Telemetry
	log       *slog.Logger
}

// open reads the files that the flags name. gauges are shown among the metrics,
// out gets the logs. Whoever calls it calls close.
func (c secureFlags) open(gauges []telemetry.Gauge, out io.Writer, log *slog.Logger) (*front, error) {
	if c.AccessLog < 0 {
		return nil, usagef("--access-log must be a number from 1, found %d", c.AccessLog)
	}
	t, err := telemetry.New(telemetry.Config{
		Version:    version,
		Gauges:     gauges,
		AccessLog:  c.accessLog(out),
		LogEvery:   c.AccessLog,
		Traces:     c.Traces,
		TraceRatio: c.TraceRatio,
		Logger:     log,
	})
	if err != nil {
		return nil, usageError{err}
	}
	config := access.Config{
		CertFile: c.TLSCert, KeyFile: c.TLSKey, ClientCAFile: c.TLSClientCA, Peers: c.Peers,
		UsersFile: c.Users,
		Tokens: access.Tokens{
			Keys: c.JWKS, Issuer: c.JWTIssuer, Audience: c.JWTAudience,
			NameClaim: c.JWTName, GroupsClaim: c.JWTGroups,
		},
		PermissionsFile: c.Permissions,
		Operations: []string{
			string(registry.OpRead), string(registry.OpWrite), string(registry.OpDelete),
			string(registry.OpCheck), string(registry.OpAdmin), opPublish, opMetrics,
		},
		Reads:      []string{string(registry.OpRead), string(registry.OpCheck), opPublish, opMetrics},
		Rate:       c.RateLimit,
		AuditFile:  c.AuditLog,
		Public:     []string{"/livez", "/readyz"},
		Logger:     log,
		Identified: func(ctx context.Context, p access.Principal) { telemetry.Note(ctx, "principal", p.Name) },
	}
	if c.AuditLog == "-" {
		config.AuditFile, config.Audit = "", out
	}
	g, err := access.New(config)
	if err != nil {
		return nil, errors.Join(usageError{err}, t.Close(context.Background()))
	}
	return &front{c, g, t, log}, nil
}

func (c secureFlags) accessLog(out io.Writer) *slog.Logger {
	if c.AccessLog == 0 {
		return nil
	}
	return slog.New(slog.NewJSONHandler(out, nil))
}

// close flushes what is to be shown. The servers have stopped.
func (f *front) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	return errors.Join(f.guard.Close(), f.telemetry.Close(ctx))
}

// authorize is how the registry asks for permission.
func (f *front) authorize(ctx context.Context, op registry.Operation, subject string) error {
	err := f.guard.Authorize(ctx, string(op), subject)
	if denied := (*access.DeniedError)(nil); errors.As(err, &denied) {
		return &registry.Error{Code: registry.Code(denied.Status()*100 + 1), Message: "User is denied: " + denied.Error()}
	}
	return err
}

// serveRegistry serves a registry and, if asked for, what is shown of it.
// Whoever calls it calls the functions returned, the last first.
func (f *front) serveRegistry(addr string, reg *store, dialect registry.Dialect) (*server, []func() error, error) {
	exporters, err := reg.exporters(f.log)
	if err != nil {
		return nil, nil, err
	}
	h := reg.handler(registry.HandlerOptions{Dialect: dialect, Authorize: f.authorize, Peers: f.guard.Relay(), Routes: linking.Routes(exporters.Manager)})
	shown := http.NewServeMux()
	if f.flags.Metrics {
		shown.Handle("GET /metrics", f.only(opMetrics, f.telemetry.Metrics()))
	}
	if f.flags.Pprof {
		shown.Handle("GET /debug/pprof/", f.only(string(registry.OpAdmin), telemetry.Profiles()))
	}
	main := h
	if f.flags.Admin == "" && (f.flags.Metrics || f.flags.Pprof) {
		main = firstOf(shown, h)
	}
	s, err := f.serve("registry", addr, main)
	if err != nil {
		return nil, nil, errors.Join(err, exporters.close())
	}
	ends := []func() error{exporters.close, s.stop}
	if f.flags.Admin != "" {
		shown.Handle("GET /livez", h)
		shown.Handle("GET /readyz", h)
		admin, err := f.serve("admin", f.flags.Admin, shown)
		if err != nil {
			return nil, nil, errors.Join(err, s.stop(), exporters.close())
		}
		ends = append(ends, admin.stop)
	}
	return s, ends, nil
}

// firstOf serves what the mux knows, and all else by h.
func firstOf(mux *http.ServeMux, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// only asks for permission before h.
func (f *front) only(op string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := f.guard.Authorize(r.Context(), op, ""); err != nil {
			access.Refuse(w, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// serve serves a handler behind the guard, and warns if others than this
// machine reach what they should not.
func (f *front) serve(name, addr string, h http.Handler) (*server, error) {
	h = f.guard.Wrap(h)
	if c := f.flags; c.Metrics || c.AccessLog > 0 || c.Traces != "" {
		h = f.telemetry.Wrap(name, h)
	}
	s, err := serve(name, addr, h, f.guard.TLSConfig(), f.log)
	if err != nil {
		return nil, err
	}
	if tcp, ok := s.addr.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		switch {
		case !f.guard.Authenticates():
			f.log.Warn("WHOEVER REACHES THIS ADDRESS MAY DO EVERYTHING; set --users, --jwks or --tls-client-ca", "server", name, "address", tcp.String())
		case f.guard.TLSConfig() == nil:
			f.log.Warn("PASSWORDS AND TOKENS TRAVEL IN THE CLEAR; set --tls-cert and --tls-key, or end TLS before this address", "server", name, "address", tcp.String())
		}
	}
	return s, nil
}

// gauges are the numbers of a registry.
func (s *store) gauges() []telemetry.Gauge {
	return []telemetry.Gauge{
		{Name: "penstock_registry_subjects", Help: "Subjects that are not deleted, in all contexts.", Value: func() float64 {
			return float64(len(s.registry.Subjects("", registry.WithoutDeleted)))
		}},
		{Name: "penstock_registry_contexts", Help: "Contexts.", Value: func() float64 {
			return float64(len(s.registry.Contexts()))
		}},
	}
}

// registryPasswdCmd prints the hash of a password.
type registryPasswdCmd struct{}

// Help shows examples.
func (registryPasswdCmd) Help() string {
	return `Reads a password from the terminal, or a line from standard input, and prints
what a users file holds of it:
  users:
    alice:
      hash: $2a$11$…
      groups: [platform]`
}

// Run asks and prints.
func (registryPasswdCmd) Run(t *terminal) error {
	var line []byte
	var err error
	if f, ok := t.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.notef("Password: ")
		line, err = term.ReadPassword(int(f.Fd()))
		t.notef("\n")
	} else {
		line, err = io.ReadAll(io.LimitReader(t.in, 4096))
	}
	if err != nil {
		return fmt.Errorf("read password: %w", err)
	}
	hash, err := access.Hash(strings.TrimRight(string(line), "\r\n"))
	if err != nil {
		return usageError{err}
	}
	t.printf("%s\n", hash)
	return nil
}
