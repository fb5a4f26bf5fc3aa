package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/argon2"
)

// argonOf completes a hash of which prefix ends with the salt.
func argonOf(t testing.TB, password, prefix string) string {
	t.Helper()
	parts := strings.Split(prefix, "$")
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		t.Fatal(err)
	}
	return prefix + base64.RawStdEncoding.EncodeToString(argon2.IDKey([]byte(password), salt, 1, 64, 1, 32))
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jwk is the public half of a key as a key set has it.
func jwk(t testing.TB, id string, key crypto.PublicKey) map[string]string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := (len(point) - 1) / 2
		return map[string]string{"kid": id, "kty": "EC", "crv": k.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
	case *rsa.PublicKey:
		return map[string]string{"kid": id, "kty": "RSA", "use": "sig", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case ed25519.PublicKey:
		return map[string]string{"kid": id, "kty": "OKP", "crv": "Ed25519", "x": b64(k)}
	}
	t.Fatalf("no form for %T", key)
	return nil
}

func keySet(t testing.TB, keys ...map[string]string) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sign makes a token that is good but for what change does to its claims.
func sign(t testing.TB, key *ecdsa.PrivateKey, id string, change func(jwt.MapClaims)) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": "https://issuer", "aud": []string{"penstock"}, "sub": "alice", "groups": []string{"team"},
		"exp": time.Now().Add(time.Hour).Unix(),
	}
	if change != nil {
		change(claims)
	}
	return signAs(t, jwt.SigningMethodES256, key, id, claims)
}

func signAs(t testing.TB, method jwt.SigningMethod, key any, id string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if id != "" {
		token.Header["kid"] = id
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func bearer(token string) func(*http.Request) { return header("Authorization", "Bearer "+token) }

func TestTokens(t *testing.T) {
	dir := t.TempDir()
	ec, other := newECKey(t), newECKey(t)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pinned := jwk(t, "pinned", &rs.PublicKey)
	pinned["alg"] = "PS256"
	set := keySet(t, jwk(t, "ec", &ec.PublicKey), jwk(t, "rsa", &rs.PublicKey), jwk(t, "ed", edPublic), pinned,
		map[string]string{"kid": "oct", "kty": "oct", "k": "c2VjcmV0"},
		map[string]string{"kid": "enc", "kty": "EC", "use": "enc"})
	g := open(t, Config{Tokens: Tokens{Keys: put(t, dir, "jwks.json", set), Issuer: "https://issuer", Audience: "penstock"}})
	h := g.Wrap(asks(g))
	good := func() jwt.MapClaims {
		return jwt.MapClaims{"iss": "https://issuer", "aud": "penstock", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	}
	f := func(token string, status int, body string) {
		t.Helper()
		want(t, send(h, "/", bearer(token)), status, body)
	}
	f(sign(t, ec, "ec", nil), 200, "alice [team]")
	f(sign(t, ec, "", nil), 200, "alice [team]") // the only key for ES256
	f(signAs(t, jwt.SigningMethodRS256, rs, "rsa", good()), 200, "alice")
	f(signAs(t, jwt.SigningMethodPS384, rs, "rsa", good()), 200, "alice")
	f(signAs(t, jwt.SigningMethodEdDSA, ed, "ed", good()), 200, "alice")
	f(signAs(t, jwt.SigningMethodPS256, rs, "pinned", good()), 200, "alice")

	f(signAs(t, jwt.SigningMethodRS256, rs, "pinned", good()), 401, "not valid") // another algorithm
	f(signAs(t, jwt.SigningMethodPS256, rs, "", good()), 401, "not valid")       // two keys it could be
	f(signAs(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "ec", good()), 401, "not valid")
	f(signAs(t, jwt.SigningMethodHS256, []byte("secret"), "oct", good()), 401, "not valid")
	f(signAs(t, jwt.SigningMethodHS256, elliptic.MarshalCompressed(elliptic.P256(), ec.X, ec.Y), "ec", good()), 401, "not valid")
	f(sign(t, other, "ec", nil), 401, "not valid")
	f(sign(t, ec, "unknown", nil), 401, "not valid")
	f(sign(t, ec, "rsa", nil), 401, "not valid")
	f("", 401, "not valid")
	f(strings.Repeat("x", maxToken+1), 401, "not valid")
	for name, change := range map[string]func(jwt.MapClaims){
		"expired":     func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-leeway - time.Second).Unix() },
		"no expiry":   func(c jwt.MapClaims) { delete(c, "exp") },
		"not yet":     func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(time.Hour).Unix() },
		"issuer":      func(c jwt.MapClaims) { c["iss"] = "https://other" },
		"no issuer":   func(c jwt.MapClaims) { delete(c, "iss") },
		"audience":    func(c jwt.MapClaims) { c["aud"] = "other" },
		"no audience": func(c jwt.MapClaims) { delete(c, "aud") },
		"no name":     func(c jwt.MapClaims) { delete(c, "sub") },
		"odd name":    func(c jwt.MapClaims) { c["sub"] = "a\nb" },
		"number":      func(c jwt.MapClaims) { c["sub"] = 7 },
	} {
		if w := send(h, "/", bearer(sign(t, ec, "ec", change))); w.Code != 401 {
			t.Errorf("%s: got %d %s, want 401", name, w.Code, w.Body)
		}
	}
	critical := jwt.NewWithClaims(jwt.SigningMethodES256, good())
	critical.Header["kid"], critical.Header["crit"] = "ec", []string{"b64"}
	text, err := critical.SignedString(ec)
	if err != nil {
		t.Fatal(err)
	}
	f(text, 401, "not valid")

	put(t, dir, "jwks.json", keySet(t, jwk(t, "ec", &other.PublicKey)))
	g.poll(t.Context())
	f(sign(t, ec, "ec", nil), 401, "not valid")
	f(sign(t, other, "ec", nil), 200, "alice")
}

func TestClaims(t *testing.T) {
	dir := t.TempDir()
	key := newECKey(t)
	g := open(t, Config{Tokens: Tokens{
		Keys: put(t, dir, "jwks.json", keySet(t, jwk(t, "k", &key.PublicKey))), Issuer: "https://issuer", Audience: "penstock",
		NameClaim: "email", GroupsClaim: "roles",
	}})
	token := sign(t, key, "k", func(c jwt.MapClaims) { c["email"], c["roles"] = "a@b", []any{"x", 1, "y"} })
	want(t, send(g.Wrap(asks(g)), "/", bearer(token)), 200, "a@b [x y]")
}

func TestParseKeysRefuses(t *testing.T) {
	weak := map[string]string{"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(make([]byte, 128)), "e": "AQAB"}
	many := make([]map[string]string, maxTokenKeys+1)
	for _, text := range []string{
		"", "{}", "[]", `{"keys":[{"kty":"oct","k":"AA"}]}`, keySet(t, weak), keySet(t, many...),
		`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`, `{"keys":[{"kty":"RSA","n":"","e":""}]}`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}]}`,
		`{"keys":[{"kty":"OKP","crv":"X25519","x":"AA"}]}`,
	} {
		if keys, err := parseKeys([]byte(text)); err == nil {
			t.Errorf("%.60q gives %d keys", text, len(keys))
		}
	}
}

// issuer is a server of keys without a network, so that the clock of synctest
// holds for it.
type issuer struct {
	asked atomic.Int32
	set   atomic.Pointer[string] // nil: away
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.asked.Add(1)
	w := httptest.NewRecorder()
	if set := i.set.Load(); set != nil {
		fmt.Fprint(w, *set)
	} else {
		w.WriteHeader(http.StatusBadGateway)
	}
	return w.Result(), nil
}

// A server of keys may come late, change its keys and go away; and whoever
// sends tokens cannot make us ask it often.
func TestRemoteKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newECKey(t), newECKey(t)
		i := &issuer{}
		g := open(t, Config{
			Tokens: Tokens{Keys: "https://issuer/keys", Issuer: "https://issuer", Audience: "penstock"},
			HTTP:   &http.Client{Transport: i},
		})
		h := g.Wrap(asks(g))
		synctest.Wait()
		w := send(h, "/", bearer(sign(t, first, "1", nil)))
		want(t, w, 503, "cannot be checked at present")
		if w.Header().Get("Retry-After") != "30" {
			t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
		}
		serve := func(keys ...map[string]string) {
			set := keySet(t, keys...)
			i.set.Store(&set)
		}
		serve(jwk(t, "1", &first.PublicKey))
		time.Sleep(refetchAtMost + pollEvery)
		synctest.Wait()
		want(t, send(h, "/", bearer(sign(t, first, "1", nil))), 200, "alice")

		// Another key, at once when a token needs it.
		time.Sleep(refetchAtMost)
		serve(jwk(t, "1", &first.PublicKey), jwk(t, "2", &second.PublicKey))
		want(t, send(h, "/", bearer(sign(t, second, "2", nil))), 200, "alice")
		before := i.asked.Load()
		for range 100 {
			want(t, send(h, "/", bearer(sign(t, second, "unknown", nil))), 401, "not valid")
		}
		if n := i.asked.Load(); n != before {
			t.Errorf("it was asked %d times for keys that are not there", n-before)
		}
		// A key withdrawn is gone within minutes; a server gone changes nothing.
		serve(jwk(t, "2", &second.PublicKey))
		time.Sleep(refetchAfter + pollEvery)
		synctest.Wait()
		want(t, send(h, "/", bearer(sign(t, first, "1", nil))), 401, "not valid")
		i.set.Store(nil)
		time.Sleep(2 * refetchAfter)
		synctest.Wait()
		want(t, send(h, "/", bearer(sign(t, second, "2", nil))), 200, "alice")
	})
}

// The server of keys is asked with TLS that is checked, and sends us nowhere.
func TestRemoteKeysTransport(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it followed") }))
	defer elsewhere.Close()
	s := httptest.NewTLSServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer s.Close()
	r, err := newRemoteKeys(s.URL, s.Client(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "redirects") {
		t.Errorf("got %v", err)
	}
	r.http = &http.Client{}
	if _, err := r.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
	large := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat(" ", maxKeysBytes+1))
	}))
	defer large.Close()
	r, err = newRemoteKeys(large.URL, large.Client(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v", err)
	}
}

func FuzzAuthorization(f *testing.F) {
	key := newECKey(f)
	dir := f.TempDir()
	g := open(f, Config{
		UsersFile: put(f, dir, "users.yaml", fmt.Sprintf("users: {alice: {hash: %q}}", cheap(f, "password"))),
		Tokens:    Tokens{Keys: put(f, dir, "jwks.json", keySet(f, jwk(f, "k", &key.PublicKey))), Issuer: "https://issuer", Audience: "penstock"},
	})
	good := []string{
		"Basic " + base64.StdEncoding.EncodeToString([]byte("alice:password")),
		"Bearer " + sign(f, key, "k", nil),
	}
	for _, s := range append(good, "", "Basic", "Bearer a.b.c", "basic YTpi", "Bearer eyJhbGciOiJub25lIn0.e30.", "Basic Og==") {
		f.Add(s)
	}
	h := g.Wrap(asks(g))
	f.Fuzz(func(t *testing.T, value string) {
		w := send(h, "/", func(r *http.Request) { r.Header["Authorization"] = []string{value} })
		switch {
		case w.Code == 401 || w.Code == 429:
		case w.Code == 200 && slices.ContainsFunc(good, func(s string) bool { return sameCredentials(s, value) }):
		default:
			t.Errorf("%q is answered with %d %s", value, w.Code, w.Body)
		}
	})
}

// sameCredentials compares headers as they are read: the scheme in any case,
// spaces around a token, line breaks and loose bits in base64.
func sameCredentials(a, b string) bool {
	schemeA, restA, _ := strings.Cut(a, " ")
	schemeB, restB, _ := strings.Cut(b, " ")
	if !strings.EqualFold(schemeA, schemeB) {
		return false
	}
	if strings.EqualFold(schemeA, "Basic") {
		rawA, _ := base64.StdEncoding.DecodeString(restA)
		rawB, _ := base64.StdEncoding.DecodeString(restB)
		return string(rawA) == string(rawB)
	}
	partsA, partsB := strings.Split(restA, "."), strings.Split(strings.TrimSpace(restB), ".")
	return slices.EqualFunc(partsA, partsB, func(a, b string) bool {
		rawA, _ := base64.RawURLEncoding.DecodeString(a)
		rawB, _ := base64.RawURLEncoding.DecodeString(b)
		return string(rawA) == string(rawB)
	})
}
