package access

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// parseTLS makes a server's configuration of a certificate, its key and, if
// there is one, the file of the authorities whose client certificates count.
// need says that no client may do without.
func parseTLS(contents [][]byte, need bool) (*serverTLS, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, err // it tells which of the two is wrong, and nothing of what they hold
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if len(contents) < 3 {
		return &serverTLS{config: c}, nil
	}
	authorities, err := parseCAs(contents[2])
	if err != nil {
		return nil, err
	}
	c.ClientCAs = x509.NewCertPool()
	for _, ca := range authorities {
		c.ClientCAs.AddCert(ca)
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	if need {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	// A session taken up again would not be held against authorities that have
	// changed since.
	c.SessionTicketsDisabled = true
	return &serverTLS{c, authorities}, nil
}

// serverTLS is what a server's files say.
type serverTLS struct {
	config      *tls.Config
	authorities []*x509.Certificate // of client certificates
}

func parseCAs(text []byte) (authorities []*x509.Certificate, err error) {
	n := 0
	for rest := bytes.TrimSpace(text); len(rest) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("client authorities: expected PEM blocks of type CERTIFICATE, found something else after %d of them", n)
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("client authorities: certificate %d: %w", n+1, err)
		}
		authorities = append(authorities, ca)
		rest = bytes.TrimSpace(rest)
	}
	if n == 0 {
		return nil, errors.New("client authorities: no certificate")
	}
	return authorities, nil
}

// certificateName is the principal that a verified client certificate stands
// for: the subject's common name, else the first name of another kind.
func certificateName(c *x509.Certificate) string {
	switch {
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.URIs) > 0:
		return c.URIs[0].String()
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case len(c.EmailAddresses) > 0:
		return c.EmailAddresses[0]
	}
	return ""
}
