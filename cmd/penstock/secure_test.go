package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// certificate makes a certificate for this machine and its key: certificate
// CERT KEY.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate CERT KEY")
	}
	cert, key, err := newCertificate("localhost")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), cert, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), key, 0o600))
}

// newCertificate makes a certificate that vouches for itself, for this machine,
// and its key, in PEM.
func newCertificate(name string) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// fetch makes one request, of a server that the certificate in a file is of.
func fetch(ts *testscript.TestScript, address, ca string) (int, error) {
	text, err := os.ReadFile(ts.MkAbs(ca))
	ts.Check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get(address)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

// ready waits until an address answers with 200: ready URL CERT.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ready URL CERT")
	}
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); ; {
		code, err := fetch(ts, args[0], args[1])
		if code == http.StatusOK {
			return
		}
		select {
		case <-tick:
		case <-deadline:
			ts.Fatalf("%s is not ready: status %d, %v", args[0], code, err)
		}
	}
}

// status wants the status of an answer: status CODE URL CERT.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: status CODE URL CERT")
	}
	code, err := fetch(ts, args[1], args[2])
	ts.Check(err)
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("status %d, want %s", code, args[0])
	}
}

// answers wants the body of an answer to fit a pattern: answers METHOD URL FILE
// PATTERN [TYPE [KEY]]. The file is the body of the request, in JSON unless a type
// is given; KEY is its Idempotency-Key.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 || len(args) > 6 {
		ts.Fatalf("usage: answers METHOD URL FILE PATTERN [TYPE [KEY]]")
	}
	body, err := os.Open(ts.MkAbs(args[2]))
	ts.Check(err)
	defer body.Close()
	req, err := http.NewRequest(args[0], args[1], body)
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	if len(args) >= 5 {
		req.Header.Set("Content-Type", args[4])
	}
	if len(args) == 6 {
		req.Header.Set("Idempotency-Key", args[5])
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if !regexp.MustCompile(args[3]).Match(text) {
		ts.Fatalf("%s %s: %s, want %s", args[0], args[1], text, args[3])
	}
}

// Whoever listens beyond this machine without credentials is warned.
func TestExposedIsWarned(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1:0": "", "0.0.0.0:0": "WHOEVER REACHES THIS ADDRESS"} {
		var out bytes.Buffer
		term := newTerminal(nil, nil, &out, false)
		f, err := secureFlags{}.open(nil, &out, term.log)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.serve("registry", addr, http.NotFoundHandler())
		if err != nil {
			t.Fatal(err)
		}
		if err := stopAll([]func() error{f.close, s.stop}); err != nil {
			t.Error(err)
		}
		if got := out.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}

func TestWithoutSecrets(t *testing.T) {
	for where, want := range map[string]string{
		"nats://u:hush@a:1,v:hush@b:2/s?replicas=3": "nats://a:1,b:2/s?replicas=3",
		"file:/data": "file:/data",
	} {
		if got := withoutSecrets(where); got != want {
			t.Errorf("%s is shown as %s", where, got)
		}
	}
}
