package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"penstock/consumers/federated"
	"penstock/consumers/federated/secagg"
	"penstock/consumers/federated/trust"
	"penstock/producers"
)

// secureSumFlags turn secure aggregation on.
type secureSumFlags struct {
	Secure string `placeholder:"FOLDER" help:"Take part in secure aggregation with the keys in this folder, as federated keys makes them."`
}

// secureAggregateFlags are its settings.
type secureAggregateFlags struct {
	secureSumFlags
	Threshold int           `placeholder:"N" help:"With --secure: how many clients it takes to finish a round. Default: the least that is safe, more than two thirds."`
	Clip      float64       `default:"8" placeholder:"X" help:"With --secure: how far a parameter may move in a round (default ${default})."`
	MaxWeight uint32        `default:"1000" placeholder:"N" help:"With --secure: the most examples that a client counts with; 1, as --clip-norm has it, has all count the same (default ${default})."`
	Colluders int           `placeholder:"N" help:"With --secure and --noise: how many clients may tell others their noise; the rest add more (default 0)."`
	Patience  time.Duration `default:"30s" placeholder:"TIME" help:"With --secure: how long a stage waits for clients (default ${default})."`
}

// securely aggregates sums that it cannot take apart.
func (c *federatedAggregateCmd) securely(ctx context.Context, t *terminal, initial []federated.Tensor, private *federated.Privacy) error {
	if private != nil {
		c.MaxWeight = 1
	} else if c.Colluders != 0 {
		return usagef("--colluders goes with --clip-norm and --noise")
	}
	if c.MaxNorm != 0 {
		return usagef("--max-norm with --secure: nobody but the client sees an update; --clip bounds how far a parameter moves")
	}
	key, err := readPrivateKey(c.Secure, aggregatorName)
	if err != nil {
		return err
	}
	var clients []secagg.Participant
	for _, name := range c.Clients {
		public, err := readPublicKey(c.Secure, name)
		if err != nil {
			return err
		}
		clients = append(clients, secagg.Participant{Name: name, Key: public})
	}
	return c.connect(ctx, t, func(tr training) error {
		if err := tr.prepare(ctx); err != nil {
			return err
		}
		m, err := federated.AggregateSecurely(ctx, federated.SecureConfig{
			SecureLog: tr.secureLog(t, "aggregator"), Key: key, Clients: clients, Threshold: c.Threshold, Rounds: c.Rounds,
			Initial: initial, Strategy: c.Strategy, Clip: c.Clip, MaxWeight: c.MaxWeight, Patience: c.Patience,
			Privacy: private, Colluders: c.Colluders,
			OnModel: func(m federated.Model) {
				if m.Final() && m.Round < c.Rounds {
					t.notef("the training ends with round %d: %s\n", m.Round, m.Aborted)
					return
				}
				t.notef("model of round %d of %d: the sum of %d updates\n", m.Round, m.Rounds, len(m.Contributions))
			},
		})
		if err != nil {
			return err
		}
		return c.show(t, m)
	})
}

// prepare registers the schemas and makes the topics.
func (t training) prepare(ctx context.Context) error {
	texts := map[string]string{t.models(): federated.ModelSchema()}
	for _, topic := range federated.SecureTopics(t.Training) {
		texts[topic] = federated.SecureSchema()
	}
	for topic, schema := range texts {
		if err := t.prepareTopic(ctx, topic, schema, 1); err != nil {
			return err
		}
	}
	return nil
}

func (t training) secureLog(to *terminal, name string) federated.SecureLog {
	return federated.SecureLog{
		Training: t.Training, Models: t.models(), Broker: t.broker, Registry: t.reg, Group: t.Training + ".secure." + name,
		Publisher: eventPublisher{producers.New(t.broker, t.reg, producers.Config{})},
		Note:      func(text string) { to.notef("%s\n", text) },
	}
}

// securely takes part with an update that nobody sees.
func (c *federatedJoinCmd) securely(ctx context.Context, t *terminal, train func(context.Context, federated.Model) (federated.Trained, error)) error {
	key, err := readPrivateKey(c.Secure, c.Name)
	if err != nil {
		return err
	}
	server, err := readPublicKey(c.Secure, aggregatorName)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(c.Secure, "*"+publicSuffix))
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	var trusted []secagg.Participant
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), publicSuffix)
		public, err := readPublicKey(c.Secure, name)
		if err != nil {
			return err
		}
		trusted = append(trusted, secagg.Participant{Name: name, Key: public})
	}
	return c.connect(ctx, t, func(tr training) error {
		// Whoever comes first makes the topics.
		if err := tr.prepare(ctx); err != nil {
			return err
		}
		return federated.JoinSecurely(ctx, federated.SecureClientConfig{
			SecureLog: tr.secureLog(t, c.Name), Name: c.Name, Key: key, Server: server, Trusted: trusted,
			Folder: filepath.Join(c.Secure, "state"), Train: train,
		})
	})
}

// The files of keys: NAME.key is PKCS 8, NAME.pub its public half, both in PEM.
const (
	aggregatorName = "aggregator"
	privateSuffix  = ".key"
	publicSuffix   = ".pub"
)

// federatedKeysCmd makes keys.
type federatedKeysCmd struct {
	Folder    string   `arg:"" help:"Where the keys are written; what is there already stays."`
	Names     []string `required:"" placeholder:"NAME,…" help:"The clients. The aggregator gets a key as well."`
	Algorithm string   `default:"ed25519" enum:"ed25519,ml-dsa-65" placeholder:"ed25519|ml-dsa-65" help:"What the keys sign with; --secure needs ed25519 (default ${default})."`
}

// Help says who needs which.
func (federatedKeysCmd) Help() string {
	return `Writes a key for each client and one for the aggregator: NAME.key is secret and
belongs to NAME alone, NAME.pub is for everybody. On several machines each has its
own .key, and with --secure all .pub: a client adds up with clients only whose key it
has. aggregator.key enrols and revokes clients; the aggregator needs its .pub alone,
but with --secure.

Example:
  penstock federated keys lab-keys --names ann,bob,cyd`
}

var clientName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// Run makes them.
func (c *federatedKeysCmd) Run(_ context.Context, t *terminal) error {
	for _, name := range c.Names {
		if !clientName.MatchString(name) || name == aggregatorName {
			return usagef("--names %q: expected letters, digits, dots, dashes and underscores, and no client named %s", name, aggregatorName)
		}
	}
	if err := os.MkdirAll(c.Folder, 0o700); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	for _, name := range append(c.Names, aggregatorName) {
		made, err := makeKey(c.Folder, name, c.Algorithm)
		if err != nil {
			return fmt.Errorf("write key of %s: %w", name, err)
		}
		if made {
			t.printf("%s\n", filepath.Join(c.Folder, name+privateSuffix))
		}
	}
	return nil
}

// makeKey writes both halves of a key, unless there is one.
func makeKey(folder, name, algorithm string) (made bool, err error) {
	private := filepath.Join(folder, name+privateSuffix)
	if _, err := os.Stat(private); err == nil {
		return false, nil
	}
	key, err := trust.GenerateKey(algorithm)
	if err != nil {
		return false, err
	}
	der, err := key.DER()
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(filepath.Join(folder, name+publicSuffix), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key.Public().DER()}), 0o644); err != nil {
		return false, err
	}
	return true, os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// readKey reads the key in the only block of a PEM file; what says what it is to be.
func readKey[K any](file, what string, parse func(der []byte) (K, error)) (key K, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return key, fmt.Errorf("read key: %w; penstock federated keys makes one", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return key, fmt.Errorf("read key: %s: expected PEM", file)
	}
	if key, err = parse(block.Bytes); err != nil {
		return key, fmt.Errorf("read key: %s: expected %s: %w", file, what, err)
	}
	return key, nil
}

// oneOf is parse, for keys of one kind.
func oneOf[K any](parse func(der []byte) (any, error)) func([]byte) (K, error) {
	return func(der []byte) (K, error) {
		parsed, err := parse(der)
		key, ok := parsed.(K)
		if err == nil && !ok {
			err = fmt.Errorf("found %T", parsed)
		}
		return key, err
	}
}

func readPrivateKey(folder, name string) (ed25519.PrivateKey, error) {
	return readKey(filepath.Join(folder, name+privateSuffix), "an Ed25519 key in PKCS 8", oneOf[ed25519.PrivateKey](x509.ParsePKCS8PrivateKey))
}

func readPublicKey(folder, name string) (ed25519.PublicKey, error) {
	return readKey(filepath.Join(folder, name+publicSuffix), "the public half of an Ed25519 key", oneOf[ed25519.PublicKey](x509.ParsePKIXPublicKey))
}
