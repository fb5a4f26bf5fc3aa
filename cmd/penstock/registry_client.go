package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/stream/nats"
)

// registryFlag is embedded by the commands that talk to a registry.
type registryFlag struct {
	Registry      string `env:"PENSTOCK_REGISTRY" placeholder:"URL,…" help:"Schema registry, or several URLs of one. Default: the one 'penstock up' serves beside an embedded broker, else ${registry}."`
	RegistryUser  string `env:"PENSTOCK_REGISTRY_USER" group:"Registry" placeholder:"NAME:PASSWORD|@FILE" help:"Who asks. A file and the variable are seen by fewer than a flag."`
	RegistryToken string `env:"PENSTOCK_REGISTRY_TOKEN" group:"Registry" placeholder:"TOKEN|@FILE" help:"Bearer token, instead."`
	RegistryCA    string `name:"registry-ca" env:"PENSTOCK_REGISTRY_CA" group:"Registry" placeholder:"FILE" help:"Authorities that the registry's certificate may be of, in PEM. Default: the system's."`
	RegistryCert  string `env:"PENSTOCK_REGISTRY_CERT" group:"Registry" placeholder:"FILE" help:"Certificate to show to the registry, in PEM; read again for each connection."`
	RegistryKey   string `env:"PENSTOCK_REGISTRY_KEY" group:"Registry" placeholder:"FILE" help:"Its key, in PEM."`
}

// openRegistry is a client of the registry that the flag names, else of the one
// announced beside an embedded broker, else of the default one.
func (f registryFlag) openRegistry(broker string) (*client.Client, error) {
	address := f.Registry
	if dir, ok := embeddedDir(broker); ok && address == "" {
		info, err := nats.ReadServerFile(dir)
		switch {
		case err == nil:
			address = info.Registry
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	o, err := f.options()
	if err != nil {
		return nil, err
	}
	c, err := client.New(cmp.Or(address, defaultRegistry), formats(), o)
	if err != nil {
		return nil, usagef("--registry: %w", err)
	}
	return c, nil
}

// options are how the registry is asked.
func (f registryFlag) options() (o client.Options, err error) {
	user, err := secretOf("--registry-user", f.RegistryUser)
	if err != nil {
		return o, err
	}
	named := false
	if o.Username, o.Password, named = strings.Cut(user, ":"); user != "" && !named {
		return o, usagef("--registry-user has no password: write NAME:PASSWORD, or @FILE with that in it")
	}
	if o.Token, err = secretOf("--registry-token", f.RegistryToken); err != nil {
		return o, err
	}
	if user != "" && o.Token != "" {
		return o, usagef("--registry-user and --registry-token exclude each other")
	}
	if (f.RegistryCert == "") != (f.RegistryKey == "") {
		return o, usagef("--registry-cert and --registry-key go together")
	}
	if f.RegistryCA == "" && f.RegistryCert == "" {
		return o, nil
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if f.RegistryCA != "" {
		text, err := readSmall("--registry-ca", f.RegistryCA)
		if err != nil {
			return o, err
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(text) {
			return o, usagef("--registry-ca %s holds no certificate in PEM", f.RegistryCA)
		}
	}
	if f.RegistryCert != "" {
		o.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(f.RegistryCert, f.RegistryKey)
			return &pair, err
		}
		if _, err := o.TLS.GetClientCertificate(nil); err != nil {
			return o, usagef("--registry-cert, --registry-key: %w", err)
		}
	}
	return o, nil
}

// advised is what a command on a registry ends with: what is not there is an
// answer of no, and a registry that did not answer comes with what to try.
func advised(err error) error {
	var (
		answer    *registry.Error
		authority x509.UnknownAuthorityError
		usage     usageError
	)
	switch answered := errors.As(err, &answer); {
	case errors.As(err, &usage):
		return err
	case errors.Is(err, client.ErrNotFound):
		return noError{err}
	case answered && (answer.Code == http.StatusUnauthorized || answer.Code/100 == http.StatusUnauthorized):
		return withHint(err, "say who you are with --registry-user or --registry-token")
	case errors.As(err, &authority):
		return withHint(err, "name its authority with --registry-ca")
	case errors.Is(err, client.ErrUnreachable) && !answered:
		return withHint(err, "start one with 'penstock registry', or name another with --registry")
	}
	return err
}

// secretOf is the value of a flag, or what the first line of a file says where
// that is @FILE.
func secretOf(flag, value string) (string, error) {
	name, ok := strings.CutPrefix(value, "@")
	if !ok {
		return value, nil
	}
	text, err := readSmall(flag, name)
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if line = bytes.TrimSpace(line); err == nil && len(line) == 0 {
		err = usagef("%s: the first line of %s is empty", flag, name)
	}
	return string(line), err
}

// readSmall reads a file that a flag names.
func readSmall(flag, name string) ([]byte, error) {
	const limit = 1 << 20
	file, err := os.Open(name)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	return text, nil
}
