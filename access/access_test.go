package access

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

var operations = []string{"read", "write", "delete", "compatibility", "admin"}

// put writes a file of a test's folder and returns its name.
func put(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// cheap is a hash that costs a test nothing.
func cheap(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func open(t testing.TB, c Config) *Guard {
	t.Helper()
	c.Operations = operations
	c.Reads = []string{"read", "compatibility"}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// asks is a handler that asks for permission as its query says, and answers
// with who asks.
func asks(g *Guard) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, op := range r.URL.Query()["op"] {
			if err := g.Authorize(r.Context(), op, r.URL.Query().Get("on")); err != nil {
				Refuse(w, err)
				return
			}
		}
		p, ok := PrincipalOf(r.Context())
		if !ok {
			p.Name = "nobody"
		}
		fmt.Fprintf(w, "%s %s", p.Name, p.Groups)
	})
}

// send makes a request; with, if not nil, adds to it.
func send(h http.Handler, target string, with func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", target, nil)
	if with != nil {
		with(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func as(name, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(name, password) }
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

func want(t *testing.T, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), body) {
		t.Errorf("got %d %s, want %d and %q", w.Code, w.Body, status, body)
	}
}

func TestBasic(t *testing.T) {
	dir := t.TempDir()
	const argon = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$"
	sum := argonOf(t, "letmein-bob", argon)
	file := put(t, dir, "users.yaml", fmt.Sprintf("users:\n  alice: {hash: %q, groups: [platform]}\n  bob: {hash: %q}\n", cheap(t, "letmein-alice"), sum))
	g := open(t, Config{UsersFile: file})
	h := g.Wrap(asks(g))

	want(t, send(h, "/", as("alice", "letmein-alice")), 200, "alice [platform]")
	want(t, send(h, "/", as("alice", "letmein-alice")), 200, "alice [platform]") // remembered
	want(t, send(h, "/", as("bob", "letmein-bob")), 200, "bob []")
	want(t, send(h, "/", as("bob", "letmein-alice")), 401, "these credentials are not valid")
	want(t, send(h, "/", as("alice", "letmein-alice ")), 401, "not valid")
	want(t, send(h, "/", as("carol", "letmein-alice")), 401, "not valid")
	want(t, send(h, "/", as("", "")), 401, "not valid")
	want(t, send(h, "/", as("alice", strings.Repeat("x", maxPassword+1))), 401, "not valid")
	want(t, send(h, "/", nil), 401, "credentials are needed")
	for _, value := range []string{"", "Basic", "Basic !", "basic YWxpY2U=", "Bearer x", "Digest username=alice", "\x00"} {
		want(t, send(h, "/", header("Authorization", value)), 401, "not valid")
	}
	twice := send(h, "/", func(r *http.Request) {
		as("alice", "letmein-alice")(r)
		r.Header.Add("Authorization", "Basic x")
	})
	want(t, twice, 401, "not valid")
	if got := twice.Header().Values("WWW-Authenticate"); !slices.Equal(got, []string{`Basic realm="penstock", charset="UTF-8"`}) {
		t.Errorf("a 401 asks for %q", got)
	}
	// A name that is there and one that is not are refused in the same words.
	known, unknown := send(h, "/", as("alice", "wrong-wrong")), send(h, "/", as("nobody", "wrong-wrong"))
	if known.Body.String() != unknown.Body.String() || known.Code != unknown.Code {
		t.Errorf("got %s and %s", known.Body, unknown.Body)
	}
}

// A name that does not exist costs the hash of a user, and always the same one.
func TestUnknownNameCostsAHash(t *testing.T) {
	calls := map[string]int{}
	count := func(name string) verifier {
		return func(string) bool { calls[name]++; return true }
	}
	u := &users{
		byName: map[string]user{"a": {verify: count("a")}, "b": {verify: count("b")}},
		names:  []string{"a", "b"}, key: secret(),
		right: &recent[[32]byte, *Principal]{max: 10},
	}
	for range 3 {
		p, err := u.check("c", "password", func() error { return nil })
		if p != nil || err != nil {
			t.Fatalf("got %v, %v", p, err)
		}
	}
	if calls["a"] != 3 && calls["b"] != 3 {
		t.Errorf("hashes computed: %v, want 3 of one", calls)
	}
}

// A right password is remembered until the file changes, and no longer.
func TestUsersReload(t *testing.T) {
	dir := t.TempDir()
	file := put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}}", cheap(t, "old-password")))
	var logged bytes.Buffer
	g := open(t, Config{UsersFile: file})
	log := slog.New(slog.NewTextHandler(&logged, nil))
	h := g.Wrap(asks(g))
	want(t, send(h, "/", as("alice", "old-password")), 200, "alice")

	put(t, dir, "users.yaml", "users: {alice: {hash: hunter2-in-plain}}")
	g.users.poll(log)
	g.users.poll(log)
	want(t, send(h, "/", as("alice", "old-password")), 200, "alice")
	if n := strings.Count(logged.String(), "level=ERROR"); n != 1 || strings.Contains(logged.String(), "hunter2") {
		t.Errorf("logged %d errors, want 1 without the secret: %s", n, &logged)
	}
	put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}}", cheap(t, "new-password")))
	g.users.poll(log)
	want(t, send(h, "/", as("alice", "old-password")), 401, "not valid")
	want(t, send(h, "/", as("alice", "new-password")), 200, "alice")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.users.poll(log)
	want(t, send(h, "/", as("alice", "new-password")), 200, "alice")
}

func TestWatchRereads(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		file := put(t, dir, "permissions.yaml", `rules: [{allow: [read], to: [anonymous], on: ["*"]}]`)
		g := open(t, Config{PermissionsFile: file})
		h := g.Wrap(asks(g))
		want(t, send(h, "/?op=read&on=a", nil), 200, "nobody")
		put(t, dir, "permissions.yaml", `rules: [{deny: [read], to: [anonymous], on: ["*"]}]`)
		time.Sleep(pollEvery + time.Millisecond)
		synctest.Wait()
		want(t, send(h, "/?op=read&on=a", nil), 403, "not permitted")
	})
}

func TestPermissionsOfRequests(t *testing.T) {
	dir := t.TempDir()
	c := Config{
		UsersFile: put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q, groups: [team]}, bob: {hash: %q}}", cheap(t, "pw"), cheap(t, "pw"))),
		PermissionsFile: put(t, dir, "permissions.yaml", `
rules:
  - {allow: [write], to: [group:team], on: ["orders-*"]}
  - {allow: [read], to: [anonymous, "*"], on: ["public-*"]}
`),
		Public: []string{"/livez"},
	}
	g := open(t, c)
	h := g.Wrap(asks(g))
	want(t, send(h, "/?op=write&on=orders-value", as("alice", "pw")), 200, "alice")
	want(t, send(h, "/?op=write&on=orders-value", as("bob", "pw")), 403, `not permitted: \"write\" on \"orders-value\"`)
	want(t, send(h, "/?op=read&on=public-a", nil), 200, "nobody")
	w := send(h, "/?op=write&on=orders-value", nil)
	want(t, w, 401, "needs credentials")
	if w.Header().Get("WWW-Authenticate") == "" {
		t.Error("a 401 of the handler asks for nothing")
	}
	want(t, send(h, "/?op=read&on=public-a", as("alice", "wrong")), 401, "not valid")
	want(t, send(h, "/livez", as("alice", "wrong")), 200, "nobody")
	if err := g.Authorize(t.Context(), "admin", ""); err != nil {
		t.Errorf("this process itself: %v", err)
	}
	var denied *DeniedError
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, &session{}))
	if err := g.Authorize(r.Context(), "admin", ""); !errors.As(err, &denied) || !denied.Anonymous {
		t.Errorf("got %v", err)
	}
}

func TestRateLimit(t *testing.T) {
	dir := t.TempDir()
	hash := cheap(t, "pw")
	synctest.Test(t, func(t *testing.T) {
		g := open(t, Config{
			UsersFile:       put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}, bob: {hash: %q}}", hash, hash)),
			PermissionsFile: put(t, dir, "permissions.yaml", `rules: [{allow: [read], to: [anonymous], on: ["*"]}]`),
			Rate:            0.5, Burst: 3,
		})
		h := g.Wrap(asks(g))
		for range 3 {
			want(t, send(h, "/", as("alice", "pw")), 200, "alice")
		}
		w := send(h, "/", as("alice", "pw"))
		want(t, w, 429, "too many requests")
		if got := w.Header().Get("Retry-After"); got != "2" {
			t.Errorf("Retry-After is %q, want 2", got)
		}
		want(t, send(h, "/", as("bob", "pw")), 200, "bob")
		from := func(addr string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = addr } }
		for i := range 3 {
			want(t, send(h, "/", from(fmt.Sprintf("10.0.0.1:%d", i+1))), 200, "nobody")
		}
		want(t, send(h, "/", from("10.0.0.1:9")), 429, "too many")
		want(t, send(h, "/", from("10.0.0.2:9")), 200, "nobody")
		time.Sleep(2 * time.Second)
		want(t, send(h, "/", as("alice", "pw")), 200, "alice")
		want(t, send(h, "/", as("alice", "pw")), 429, "too many")
	})
}

// Guessing is rationed; a password known to be right is not.
func TestGuessing(t *testing.T) {
	dir := t.TempDir()
	hash := cheap(t, "right-password")
	synctest.Test(t, func(t *testing.T) {
		g := open(t, Config{UsersFile: put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}, bob: {hash: %q}}", hash, hash))})
		h := g.Wrap(asks(g))
		for range 2 * failuresAtOnce { // costs nothing once it was right
			want(t, send(h, "/", as("alice", "right-password")), 200, "alice")
		}
		for i := range failuresAtOnce {
			want(t, send(h, "/", as("bob", fmt.Sprint("guess", i))), 401, "not valid")
		}
		want(t, send(h, "/", as("bob", "right-password")), 429, "too many")
		want(t, send(h, "/", as("alice", "right-password")), 200, "alice")
		time.Sleep(time.Second / failuresPerSecond)
		want(t, send(h, "/", as("bob", "right-password")), 200, "bob")
	})
}

func TestTablesAreBounded(t *testing.T) {
	l := newLimiter(1, 1)
	now := time.Now()
	for i := range 5 * maxKeys {
		l.take(fmt.Sprint(i), now)
	}
	if n := len(l.ahead.new) + len(l.ahead.old); n > 2*maxKeys {
		t.Errorf("%d keys are kept, want at most %d", n, 2*maxKeys)
	}
	if l.take(fmt.Sprint(5*maxKeys-1), now) == 0 {
		t.Error("the last key was forgotten")
	}
}

func TestHostOf(t *testing.T) {
	for addr, want := range map[string]string{
		"10.1.2.3:80": "10.1.2.3", "[::ffff:10.1.2.3]:80": "10.1.2.3", "[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1": "fe80::/64", "pipe": "pipe",
	} {
		if got := hostOf(addr); got != want {
			t.Errorf("hostOf(%q) = %q, want %q", addr, got, want)
		}
	}
}

// lines reads an audit log.
func lines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

func TestAudit(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "audit.log")
	g := open(t, Config{
		UsersFile:       put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}}", cheap(t, "hunter2-alice"))),
		PermissionsFile: put(t, dir, "permissions.yaml", `rules: [{allow: [read, write], to: [alice], on: ["a-*"]}]`),
		AuditFile:       file,
	})
	h := g.Wrap(asks(g))
	id := func(id string, also func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("X-Request-Id", id)
			also(r)
		}
	}
	send(h, "/?op=read&on=a-1", id("1", as("alice", "hunter2-alice"))) // a read is not written down
	send(h, "/?op=write&on=a-1", id("2", as("alice", "hunter2-alice")))
	send(h, "/?op=delete&on=a-1", id("3", as("alice", "hunter2-alice")))
	send(h, "/?op=read&on=b-1", id("4", as("alice", "hunter2-alice")))
	send(h, "/x", id("5", as("alice", "hunter2-wrong")))
	send(h, "/x", id("6", as("hunter2-as-name", "hunter2-wrong")))
	lists := g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = g.Authorize(r.Context(), "read", "b-1") // left out of a list
		fmt.Fprint(w, "[]")
	}))
	send(lists, "/", id("7", as("alice", "hunter2-alice")))
	moved := filepath.Join(dir, "audit.old")
	if err := os.Rename(file, moved); err != nil {
		t.Fatal(err)
	}
	g.poll(t.Context())
	send(h, "/?op=write&on=a-2", id("bad id\n", as("alice", "hunter2-alice")))

	old, err := os.ReadFile(moved)
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range lines(t, string(old)+string(now)) {
		if len(m["request"].(string)) > 2 {
			m["request"] = "made"
		}
		got = append(got, fmt.Sprint(m["request"], m["principal"], m["by"], m["operation"], m["subject"], m["outcome"], m["status"]))
		if m["time"] == nil || m["from"] != "192.0.2.1:1234" {
			t.Errorf("got %v", m)
		}
	}
	wantLines := []string{
		fmt.Sprint("2", "alice", "basic", "write", "a-1", "allowed", 200),
		fmt.Sprint("3", "alice", "basic", "delete", "a-1", "refused", 403),
		fmt.Sprint("4", "alice", "basic", "read", "b-1", "refused", 403),
		fmt.Sprint("5", "alice", "wrong password", "", "", "refused", 401),
		fmt.Sprint("6", "", "anonymous", "", "", "refused", 401),
		fmt.Sprint("made", "alice", "basic", "write", "a-2", "allowed", 200),
	}
	if !slices.Equal(got, wantLines) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wantLines, "\n"))
	}
	if strings.Contains(string(old)+string(now), "hunter2") {
		t.Errorf("a secret is in the audit log:\n%s%s", old, now)
	}
}

// pki is an authority with a server's and a client's certificate.
type pki struct {
	t    testing.TB
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newPKI(t testing.TB, dir string) *pki {
	p := &pki{t: t, dir: dir}
	p.key = p.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &p.key.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pki) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

func (p *pki) ca() string { return pemOf("CERTIFICATE", p.cert.Raw) }

func (p *pki) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return pool
}

// issue returns a certificate and its key in PEM.
func (p *pki) issue(name string) (cert, key string) {
	k := p.newKey()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, p.cert, &k.PublicKey, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		p.t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", keyDER)
}

func (p *pki) pair(name string) tls.Certificate {
	cert, key := p.issue(name)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		p.t.Fatal(err)
	}
	return pair
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// get makes one request with TLS over a connection of its own. It returns the
// body and the name of the server's certificate.
func get(t *testing.T, s *httptest.Server, c *tls.Config) (body, server string, err error) {
	t.Helper()
	c.ServerName = "localhost"
	transport := &http.Transport{TLSClientConfig: c}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + s.Listener.Addr().String())
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), resp.TLS.PeerCertificates[0].Subject.CommonName, err
}

func startTLS(t *testing.T, g *Guard, h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.TLS = g.TLSConfig()
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	p, others := newPKI(t, dir), newPKI(t, dir)
	cert, key := p.issue("first")
	g := open(t, Config{
		CertFile: put(t, dir, "cert.pem", cert), KeyFile: put(t, dir, "key.pem", key), ClientCAFile: put(t, dir, "ca.pem", p.ca()),
	})
	s := startTLS(t, g, g.Wrap(asks(g)))
	alice := p.pair("alice")
	with := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: p.pool(), Certificates: certs}
	}
	f := func(c *tls.Config, wantBody, wantServer string) {
		t.Helper()
		body, server, err := get(t, s, c)
		if wantBody == "" {
			if err == nil {
				t.Errorf("got %q, want a handshake refused", body)
			}
			return
		}
		if err != nil || body != wantBody || server != wantServer {
			t.Errorf("got %q from %q, %v; want %q from %q", body, server, err, wantBody, wantServer)
		}
	}
	f(with(alice), "alice []", "first")
	f(with(), "", "")
	f(with(others.pair("alice")), "", "")
	old := with(alice)
	old.MaxVersion = tls.VersionTLS11
	f(old, "", "")

	// Half of a new pair is no pair: the old one stays.
	log := slog.New(slog.DiscardHandler)
	cert, key = p.issue("second")
	put(t, dir, "cert.pem", cert)
	g.tls.poll(log)
	f(with(alice), "alice []", "first")
	put(t, dir, "key.pem", key)
	g.tls.poll(log)
	f(with(alice), "alice []", "second")

	// An authority that is gone takes its clients with it.
	put(t, dir, "ca.pem", others.ca())
	g.tls.poll(log)
	f(with(alice), "", "")
	f(with(others.pair("bob")), "bob []", "second")
}

// Where passwords count too, a certificate is one way among others.
func TestCertificateOrPassword(t *testing.T) {
	dir := t.TempDir()
	p := newPKI(t, dir)
	cert, key := p.issue("server")
	g := open(t, Config{
		CertFile: put(t, dir, "cert.pem", cert), KeyFile: put(t, dir, "key.pem", key), ClientCAFile: put(t, dir, "ca.pem", p.ca()),
		UsersFile: put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}}", cheap(t, "pw"))),
	})
	s := startTLS(t, g, g.Wrap(asks(g)))
	body, _, err := get(t, s, &tls.Config{RootCAs: p.pool()})
	if err != nil || !strings.Contains(body, "credentials are needed") {
		t.Errorf("got %q, %v", body, err)
	}
	body, _, err = get(t, s, &tls.Config{RootCAs: p.pool(), Certificates: []tls.Certificate{p.pair("group:admin")}})
	if err != nil || body != "group:admin []" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	f := func(c Config, text string) {
		t.Helper()
		g, err := New(c)
		if err == nil {
			_ = g.Close()
		}
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
	users := func(text string) Config { return Config{UsersFile: put(t, dir, "users.yaml", text)} }
	f(Config{CertFile: "x"}, "needs its key")
	f(Config{ClientCAFile: "x"}, "need TLS")
	f(Config{UsersFile: filepath.Join(dir, "none")}, "read users: open")
	f(Config{Tokens: Tokens{Keys: "x"}}, "an issuer and an audience")
	f(Config{Tokens: Tokens{Issuer: "x"}}, "need the keys")
	f(Config{Tokens: Tokens{Keys: "http://x:hunter2@y", Issuer: "i", Audience: "a"}}, "an https URL")
	f(Config{Rate: -1}, "a rate limit must be")
	f(Config{AuditFile: filepath.Join(dir, "no", "audit.log")}, "open the audit log")
	f(users(""), "line 0")
	f(users("users: {}"), "from 1 to")
	f(users("users: {a: {hash: plain}}"), `"a": hash: expected a hash that begins with`)
	f(users("users: {a: {hsh: x}}"), "line 1")
	f(users("users:\n  a: {hash: [x]}"), "line 2")
	f(users(`users: {"a\nb": {hash: x}}`), "without control characters")
	f(users(`users: {a: {hash: "$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ"}}`), "the most are")
	f(users("users: {a: {hash: $2a$31$0123456789012345678901234567890123456789012345678901.}}"), "more than")
	f(users(strings.Repeat("#", maxFileBytes+1)), "more than")
}

// No secret reaches a log, an answer or an error, whatever goes wrong.
func TestNoSecretIsShown(t *testing.T) {
	dir := t.TempDir()
	const password, token = "hunter2-password", "hunter2-token"
	var out syncBuffer
	hash := cheap(t, password)
	idp := httptest.NewTLSServer(http.NotFoundHandler())
	defer idp.Close()
	g := open(t, Config{
		UsersFile: put(t, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}}", hash)),
		Tokens: Tokens{
			Keys:   strings.Replace(idp.URL, "https://", "https://user:hunter2-url@", 1) + "/?key=hunter2-query",
			Issuer: "i", Audience: "a",
		},
		HTTP: idp.Client(), Rate: 1000, Audit: &out, Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	h := g.Wrap(asks(g))
	show := func(w *httptest.ResponseRecorder) { fmt.Fprintln(&out, w.Code, w.Header(), w.Body) }
	show(send(h, "/?op=write&password=hunter2-in-query", as("alice", password)))
	show(send(h, "/?op=write", as("alice", password+"x")))
	show(send(h, "/?op=write", as(password, password)))
	show(send(h, "/?op=write", header("Authorization", "Bearer "+token)))
	show(send(h, "/?op=write", header("Authorization", "Token "+token)))
	show(send(h, "/?op=write", header("Authorization", "Bearer "+sign(t, newECKey(t), "k", nil))))
	put(t, dir, "users.yaml", "users: {alice: {hash: hunter2-in-file}}")
	g.poll(t.Context())
	put(t, dir, "users.yaml", "users: {alice: hunter2-in-file}")
	g.poll(t.Context())
	text := out.String()
	for _, must := range []string{"fetch keys of tokens from", "the last good state stays", `"outcome":"allowed"`, "503"} {
		if !strings.Contains(text, must) {
			t.Errorf("%q is missing, so this test sees too little", must)
		}
	}
	for _, s := range []string{"hunter2", hash, hash[10:]} {
		if strings.Contains(text, s) {
			t.Errorf("a secret, %q, is shown:\n%s", s, text)
		}
	}
}

// syncBuffer is a buffer that several may write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestHash(t *testing.T) {
	h, err := Hash("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	verify, err := parseHash(h)
	if err != nil || !verify("correct horse") || verify("correct horsf") {
		t.Errorf("%q does not verify: %v", h, err)
	}
	for _, p := range []string{"short", strings.Repeat("x", 73)} {
		if _, err := Hash(p); err == nil {
			t.Errorf("%d bytes are taken", len(p))
		}
	}
	// bcrypt looks at 72 bytes; what is longer is not the same password.
	long := strings.Repeat("x", 72)
	verify, err = parseHash(cheap(t, long))
	if err != nil || !verify(long) || verify(long+"y") {
		t.Errorf("a longer password passes: %v", err)
	}
}
