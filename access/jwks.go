package access

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxKeysBytes  = 1 << 20
	maxTokenKeys  = 100
	fetchTimeout  = 5 * time.Second
	refetchAfter  = 5 * time.Minute  // of keys that serve well
	refetchAtMost = 30 * time.Second // between two attempts, whatever tokens come
)

// tokenKey is a public key that tokens may be signed with.
type tokenKey struct {
	id         string
	algorithms []string
	key        crypto.PublicKey
}

// parseKeys reads a JSON Web Key Set. Keys for other ends or of a kind that is
// not known are passed over; symmetric ones are of that kind.
func parseKeys(text []byte) ([]tokenKey, error) {
	var set struct {
		Keys []struct {
			ID   string `json:"kid"`
			Type string `json:"kty"`
			Use  string `json:"use"`
			Alg  string `json:"alg"`
			Crv  string `json:"crv"`
			N    string `json:"n"`
			E    string `json:"e"`
			X    string `json:"x"`
			Y    string `json:"y"`
		} `json:"keys"`
	}
	if len(text) > maxKeysBytes {
		return nil, fmt.Errorf("a key set has at most %d bytes", maxKeysBytes)
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("expected a JSON Web Key Set, {\"keys\": […]}")
	}
	if len(set.Keys) > maxTokenKeys {
		return nil, fmt.Errorf("a key set has at most %d keys, found %d", maxTokenKeys, len(set.Keys))
	}
	var keys []tokenKey
	for i, k := range set.Keys {
		if k.Use != "" && k.Use != "sig" {
			continue
		}
		made := tokenKey{id: k.ID}
		var err error
		switch k.Type {
		case "RSA":
			made.algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
			made.key, err = rsaKey(k.N, k.E)
		case "EC":
			made.algorithms, made.key, err = ecKey(k.Crv, k.X, k.Y)
		case "OKP":
			made.algorithms = []string{"EdDSA"}
			made.key, err = edKey(k.Crv, k.X)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if k.Alg != "" {
			narrowed := made.algorithms[:0:0]
			for _, a := range made.algorithms {
				if a == k.Alg {
					narrowed = append(narrowed, a)
				}
			}
			made.algorithms = narrowed
		}
		if len(made.algorithms) > 0 {
			keys = append(keys, made)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in the set is for signatures of RSA, EC or Ed25519")
	}
	return keys, nil
}

func rsaKey(n, e string) (crypto.PublicKey, error) {
	modulus, errN := base64.RawURLEncoding.DecodeString(n)
	exponent, errE := base64.RawURLEncoding.DecodeString(e)
	if errN != nil || errE != nil || len(modulus) > 1024 || len(exponent) == 0 || len(exponent) > 4 {
		return nil, errors.New("n or e is not that of an RSA key")
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(new(big.Int).SetBytes(exponent).Int64())}
	if key.N.BitLen() < 2048 || key.E < 3 || key.E%2 == 0 {
		return nil, errors.New("expected an RSA key of at least 2048 bits with an odd exponent")
	}
	return key, nil
}

func ecKey(curve, x, y string) ([]string, crypto.PublicKey, error) {
	var (
		c         elliptic.Curve
		algorithm string
	)
	switch curve {
	case "P-256":
		c, algorithm = elliptic.P256(), "ES256"
	case "P-384":
		c, algorithm = elliptic.P384(), "ES384"
	case "P-521":
		c, algorithm = elliptic.P521(), "ES512"
	default:
		return nil, nil, nil // no algorithm: passed over
	}
	size := (c.Params().BitSize + 7) / 8
	rawX, errX := base64.RawURLEncoding.DecodeString(x)
	rawY, errY := base64.RawURLEncoding.DecodeString(y)
	if errX != nil || errY != nil || len(rawX) != size || len(rawY) != size {
		return nil, nil, fmt.Errorf("x or y is not that of a point on %s", curve)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(c, bytes.Join([][]byte{{4}, rawX, rawY}, nil))
	if err != nil {
		return nil, nil, fmt.Errorf("not a point on %s", curve)
	}
	return []string{algorithm}, key, nil
}

func edKey(curve, x string) (crypto.PublicKey, error) {
	raw, err := base64.RawURLEncoding.DecodeString(x)
	if err != nil || curve != "Ed25519" || len(raw) != ed25519.PublicKeySize {
		return nil, errors.New("expected a key of the curve Ed25519")
	}
	return ed25519.PublicKey(raw), nil
}

// keySource is where the keys come from: a file, or a server.
type keySource interface {
	// keys returns what is known now.
	keys() []tokenKey
	// refresh asks again, if that may help and is not too soon.
	refresh(ctx context.Context)
}

// fileKeys are keys of a file, which Guard polls.
type fileKeys struct{ *watched[[]tokenKey] }

func (f fileKeys) keys() []tokenKey        { return *f.get() }
func (f fileKeys) refresh(context.Context) {}

// remoteKeys are keys of a server. The last good set stays while it is away.
type remoteKeys struct {
	url  string
	http *http.Client
	log  *slog.Logger
	set  atomic.Pointer[[]tokenKey]

	mu    sync.Mutex // held while a request is under way
	tried time.Time
	good  time.Time
}

func newRemoteKeys(address string, client *http.Client, log *slog.Logger) (*remoteKeys, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the keys of tokens must be a file or an https URL") // the text may hold a password
	}
	c := http.Client{}
	if client != nil {
		c = *client
	}
	c.Timeout = fetchTimeout
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("it redirects elsewhere") }
	return &remoteKeys{url: address, http: &c, log: log}, nil
}

func (r *remoteKeys) keys() []tokenKey {
	if set := r.set.Load(); set != nil {
		return *set
	}
	return nil
}

func (r *remoteKeys) refresh(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.tried) < refetchAtMost {
		return
	}
	// Whoever asks shall not end, by going away, what others wait for.
	set, err := r.fetch(context.WithoutCancel(ctx))
	r.tried = time.Now()
	if err != nil {
		r.log.Error("the last good state stays", "of", "keys of tokens", "error", err)
		return
	}
	r.good = r.tried
	r.set.Store(&set)
}

// poll refreshes keys that have grown old.
func (r *remoteKeys) poll(ctx context.Context) {
	r.mu.Lock()
	old := time.Since(r.good) >= refetchAfter
	r.mu.Unlock()
	if old {
		r.refresh(ctx)
	}
}

func (r *remoteKeys) fetch(ctx context.Context) ([]tokenKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, errors.New("fetch keys of tokens: the URL cannot be used")
	}
	resp, err := r.http.Do(req)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // without the URL, which may hold a secret
		}
		return nil, fmt.Errorf("fetch keys of tokens from %s: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch keys of tokens from %s: status %d", req.URL.Host, resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxKeysBytes+1))
	if err != nil {
		return nil, fmt.Errorf("fetch keys of tokens from %s: %w", req.URL.Host, err)
	}
	set, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("fetch keys of tokens from %s: %w", req.URL.Host, err)
	}
	return set, nil
}

func isURL(s string) bool { return strings.Contains(s, "://") }
