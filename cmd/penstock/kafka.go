package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"penstock/stream/kafka"
)

// kafkaPasswordEnv holds the password for Kafka where its URL names no file.
const kafkaPasswordEnv = "PENSTOCK_KAFKA_PASSWORD"

// kafkaCluster is what the URL of a cluster says. All clients of Kafka in this
// program get in by it.
type kafkaCluster struct {
	seeds []string
	topic string // empty if the URL has none
	tls   *tls.Config
	sasl  sasl.Mechanism
	// Of consumers; see kafka.Config.
	member         string
	serverBalances bool
}

// kafkaParameters are those of kafkaHelp.
var kafkaParameters = []string{"tls", "ca", "cert", "key", "sasl", "user", "password-file", "member", "protocol"}

// kafkaHelp tells of the URLs of clusters that ask who one is.
const kafkaHelp = `
A Kafka that asks who one is gets it in the URL's parameters, which hold no secret:
  kafka://HOST:9093?ca=ca.pem&sasl=scram-sha-512&user=penstock&password-file=FILE
tls=true is TLS with the system's authorities, ca=FILE with those, cert=FILE&key=FILE
shows a certificate. sasl is plain, scram-sha-256 or scram-sha-512. Without
password-file the password is that of ` + kafkaPasswordEnv + `.
member=NAME makes consumers static members of their groups: one that restarts soon
keeps its partitions. protocol=consumer has the cluster deal out partitions
(KIP-848, Kafka 4.3).`

// parseKafka reads kafka://HOST:PORT,…[/TOPIC][?PARAMETER=VALUE&…]. The files it
// names are read here, and those of secrets again for each connection.
func parseKafka(s string) (kafkaCluster, error) {
	c, err := readKafka(s)
	if err != nil {
		return c, usageError{err}
	}
	return c, nil
}

func readKafka(s string) (c kafkaCluster, err error) {
	address, query, _ := strings.Cut(s, "?")
	hosts, topic, _ := strings.Cut(strings.TrimPrefix(address, "kafka://"), "/")
	c.topic = topic
	if c.seeds, err = kafka.ParseURL("kafka://" + hosts); err != nil {
		return c, err
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return c, errors.New("read the URL of Kafka: its parameters are not NAME=VALUE&NAME=VALUE, with & and % as %26 and %25")
	}
	for name, v := range values {
		if !slices.Contains(kafkaParameters, name) { // its value is not shown: it may be a password
			return c, fmt.Errorf("read the URL of Kafka: it has the parameter %q, expected one of %s", name, strings.Join(kafkaParameters, ", "))
		}
		if len(v) > 1 || v[0] == "" {
			return c, fmt.Errorf("read the URL of Kafka: expected one value of the parameter %q", name)
		}
	}
	if c.tls, err = kafkaTLS(values); err != nil {
		return c, fmt.Errorf("read the URL of Kafka: %w", err)
	}
	if c.sasl, err = kafkaSASL(values); err != nil {
		return c, fmt.Errorf("read the URL of Kafka: %w", err)
	}
	c.member = values.Get("member")
	switch protocol := values.Get("protocol"); protocol {
	case "", "classic":
	case "consumer":
		c.serverBalances = true
	default:
		return c, fmt.Errorf("read the URL of Kafka: protocol is %q, expected classic or consumer", protocol)
	}
	return c, nil
}

func kafkaTLS(values url.Values) (*tls.Config, error) {
	ca, cert, key := values.Get("ca"), values.Get("cert"), values.Get("key")
	switch on := values.Get("tls"); {
	case on != "" && on != "true":
		return nil, fmt.Errorf("tls is %q, expected true, or no such parameter", on)
	case (cert == "") != (key == ""):
		return nil, errors.New("cert needs key, and key cert")
	case on == "" && ca == "" && cert == "":
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", ca)
		}
	}
	if cert != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return c, nil
}

func kafkaSASL(values url.Values) (sasl.Mechanism, error) {
	mechanism, user, file := values.Get("sasl"), values.Get("user"), values.Get("password-file")
	if mechanism == "" {
		if user != "" || file != "" {
			return nil, errors.New("user and password-file go with sasl=plain, scram-sha-256 or scram-sha-512")
		}
		return nil, nil
	}
	if user == "" {
		return nil, errors.New("sasl goes with user")
	}
	password := func() (string, error) {
		if file == "" {
			if p := os.Getenv(kafkaPasswordEnv); p != "" {
				return p, nil
			}
			return "", fmt.Errorf("sasl goes with a password, in the file that password-file names or in %s", kafkaPasswordEnv)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		return strings.TrimRight(string(text), "\r\n"), nil
	}
	if _, err := password(); err != nil {
		return nil, err
	}
	inScram := func(context.Context) (scram.Auth, error) {
		p, err := password()
		return scram.Auth{User: user, Pass: p}, err
	}
	switch mechanism {
	case "plain":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := password()
			return plain.Auth{User: user, Pass: p}, err
		}), nil
	case "scram-sha-256":
		return scram.Sha256(inScram), nil
	case "scram-sha-512":
		return scram.Sha512(inScram), nil
	}
	return nil, fmt.Errorf("sasl is %q, expected plain, scram-sha-256 or scram-sha-512", mechanism)
}

// client makes a client of franz-go, for what ours does not do.
func (c kafkaCluster) client(opts ...kgo.Opt) (*kgo.Client, error) {
	opts = append(opts, kgo.SeedBrokers(c.seeds...))
	if c.tls != nil {
		opts = append(opts, kgo.DialTLSConfig(c.tls))
	}
	if c.sasl != nil {
		opts = append(opts, kgo.SASL(c.sasl))
	}
	return kgo.NewClient(opts...)
}
