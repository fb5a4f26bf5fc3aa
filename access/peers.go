package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

// behalfHeader says for whom a peer asks: a Principal as JSON in base64, of which
// the name is empty for somebody who has not shown who they are. It counts in
// requests that come with a peer's certificate alone.
const behalfHeader = "Penstock-On-Behalf"

// openPeers sees that peers can be told by their certificates.
func (g *Guard) openPeers() error {
	if len(g.config.Peers) > 0 && g.config.ClientCAFile == "" {
		return errors.New("peers show who they are by certificates, and need the authorities of client certificates")
	}
	return nil
}

// behalf returns for whom a peer asks. ok is false where the request is not a
// peer's, or the peer's own.
func (g *Guard) behalf(r *http.Request, certificate string) (p *Principal, ok bool, err error) {
	sent := r.Header.Get(behalfHeader)
	if sent == "" || !slices.Contains(g.config.Peers, certificate) {
		return nil, false, nil
	}
	text, err := base64.StdEncoding.DecodeString(sent)
	if err != nil {
		return nil, true, errWrong
	}
	p = new(Principal)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, true, errWrong
	}
	if p.Name == "" {
		return nil, true, nil
	}
	return p, true, nil
}

// Relay carries a request that came through Wrap on to a peer, under this
// server's certificate, and says for whom. It trusts the authorities of client
// certificates and those of the system. It is nil where there are no peers.
func (g *Guard) Relay() http.RoundTripper {
	if len(g.config.Peers) == 0 {
		return nil
	}
	return relay{&http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := g.relayTLS()
			if err != nil {
				return nil, err
			}
			d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 3 * time.Second}, Config: c}
			ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
			defer cancel()
			return d.DialContext(ctx, network, address)
		},
		ResponseHeaderTimeout: 15 * time.Second,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   32,
	}}
}

func (g *Guard) relayTLS() (*tls.Config, error) {
	server := g.tls.get()
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's authorities: %w", err)
	}
	for _, ca := range server.authorities {
		roots.AddCert(ca)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: server.config.Certificates, RootCAs: roots}, nil
}

// relay says for whom it asks.
type relay struct{ next *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t relay) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("carry a request on to %s: only a peer at an https URL can tell whose word to take", r.URL.Host)
	}
	p, _ := PrincipalOf(r.Context())
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("say for whom a request is: %w", err)
	}
	r = r.Clone(r.Context())
	r.Header.Set(behalfHeader, base64.StdEncoding.EncodeToString(text))
	r.Header.Del("Authorization") // it was looked at here
	return t.next.RoundTrip(r)
}
