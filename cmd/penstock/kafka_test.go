package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/registry"
)

// Every client of Kafka in this program gets in where Kafka asks who it is, and
// none does with a wrong password or without a certificate.
func TestKafkaAsksWho(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, text []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	cert, key, err := newCertificate("both")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	certFile, keyFile := put("cert.pem", cert), put("key.pem", key)
	right, wrong := put("right", []byte("hunter2\n")), put("wrong", []byte("hunter3\n"))
	with := func(pairs ...string) url.Values {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	secure := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	mutual := secure.Clone()
	mutual.ClientCAs, mutual.ClientAuth = pool, tls.RequireAndVerifyClientCert
	user := func(mechanism string) []kfake.Opt {
		return []kfake.Opt{kfake.EnableSASL(), kfake.Superuser(mechanism, "alice", "hunter2")}
	}
	tests := []struct {
		name      string
		cluster   []kfake.Opt
		in, notIn url.Values
	}{
		{"plain", user("PLAIN"), with("sasl", "plain", "user", "alice", "password-file", right), with("sasl", "plain", "user", "alice", "password-file", wrong)},
		{"scram-sha-256", user("SCRAM-SHA-256"), with("sasl", "scram-sha-256", "user", "alice", "password-file", right), with("sasl", "scram-sha-256", "user", "alice", "password-file", wrong)},
		{
			"scram-sha-512 and TLS", append(user("SCRAM-SHA-512"), kfake.TLS(secure)),
			with("ca", certFile, "sasl", "scram-sha-512", "user", "alice", "password-file", right), with("tls", "true", "sasl", "scram-sha-512", "user", "alice", "password-file", right),
		},
		{"mutual TLS", []kfake.Opt{kfake.TLS(mutual)}, with("ca", certFile, "cert", certFile, "key", keyFile), with("ca", certFile)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cluster, err := kfake.NewCluster(append(tt.cluster, kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			at := "kafka://" + strings.Join(cluster.ListenAddrs(), ",")
			in := "?" + tt.in.Encode()
			log := newTerminal(nil, nil, t.Output(), false).log
			reg, err := openStore(t.Context(), at+"/schemas"+in, "http://127.0.0.1:8081", registry.Options{Logger: log})
			if err != nil {
				t.Fatal(err)
			}
			server, err := serve("registry", "127.0.0.1:0", reg.handler(registry.HandlerOptions{}), nil, log)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := stopAll([]func() error{reg.close, server.stop}); err != nil {
					t.Error(err)
				}
			})
			call(t, "produce", "flights", "--broker", at+in, "--registry", server.url, "--sample", "flights", "-n", "10")
			if out := call(t, "consume", "tail", "flights", "--broker", at+in, "--registry", server.url, "--until", "end", "-o", "json"); strings.Count(out, "\n") < 10 {
				t.Errorf("of 10 records it reads %s", out)
			}
			call(t, "doctor", "--broker", at+in, "--registry", server.url)
			b, err := openBroker(t.Context(), at+"?"+tt.notIn.Encode(), log)
			if err == nil {
				b.Close()
				t.Error("it gets in without being let in")
			} else if strings.Contains(err.Error(), "hunter") {
				t.Errorf("the error tells a password: %v", err)
			}
		})
	}
}

func TestParseKafka(t *testing.T) {
	t.Setenv(kafkaPasswordEnv, "hunter2")
	c, err := parseKafka("kafka://a:1,b/schemas?sasl=plain&user=alice&tls=true")
	if err != nil || strings.Join(c.seeds, ",") != "a:1,b:9092" || c.topic != "schemas" || c.tls == nil || c.sasl == nil || c.sasl.Name() != "PLAIN" {
		t.Errorf("got %+v, %v", c, err)
	}
	for query, want := range map[string]string{
		"password=hunter2":   `parameter "password", expected one of`,
		"sasl=plain":         "goes with user",
		"sasl=gssapi&user=a": "expected plain",
		"user=a":             "go with sasl",
		"tls=yes":            "expected true",
		"cert=a":             "cert needs key",
		"sasl=plain&user=a&password-file=/nowhere/p": "/nowhere/p",
		"ca=/nowhere/ca":    "/nowhere/ca",
		"tls=true&tls=true": "one value",
		"%":                 "NAME=VALUE",
	} {
		_, err := parseKafka("kafka://a?" + query)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error with %q", query, err, want)
		}
		if exitCode(err) != exitUsage {
			t.Errorf("%s: exit code %d", query, exitCode(err))
		}
	}
	t.Setenv(kafkaPasswordEnv, "")
	if _, err := parseKafka("kafka://a?sasl=plain&user=a"); err == nil || !strings.Contains(err.Error(), kafkaPasswordEnv) {
		t.Errorf("without a password: %v", err)
	}
}
