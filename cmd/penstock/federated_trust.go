package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"penstock/consumers/federated"
	"penstock/consumers/federated/trust"
	"penstock/producers"
	"penstock/registry"
	"penstock/schemas"
)

// signingFlags turn signatures on.
type signingFlags struct {
	Keys string `placeholder:"FOLDER" help:"Updates are signed, with the keys in this folder, as federated keys makes them."`
}

func (f trainingFlags) roster() string { return f.Training + ".roster" }

// rosterLog reads the roster of the training, whose entries authority signs.
func (t training) rosterLog(to *terminal, authority trust.PublicKey) federated.RosterLog {
	return federated.RosterLog{
		Topic: t.roster(), Authority: authority, Broker: t.broker, Registry: t.reg, Group: t.roster() + ".reader",
		Note: func(text string) { to.notef("%s\n", text) },
	}
}

// rosterOf is the roster of a training whose updates are signed, as aggregator.pub in a
// folder has it. Without a folder they are not, and it is nil.
func (t training) rosterOf(ctx context.Context, to *terminal, keys string) (*federated.RosterLog, error) {
	if keys == "" {
		return nil, nil
	}
	authority, err := verifyingKey(keys, aggregatorName)
	if err != nil {
		return nil, err
	}
	if err := t.prepareRoster(ctx); err != nil {
		return nil, err
	}
	log := t.rosterLog(to, authority)
	return &log, nil
}

func (t training) prepareRoster(ctx context.Context) error {
	return t.prepareTopic(ctx, t.roster(), federated.RosterSchema(), 1)
}

// prepareTopic registers the schema of a topic's values, and makes it.
func (t training) prepareTopic(ctx context.Context, topic, schema string, partitions int) error {
	if _, err := t.reg.Register(ctx, topicSubject(topic), registry.Schema{Schema: schema, SchemaType: schemas.Avro}); err != nil {
		return err
	}
	return t.broker.Create(ctx, topic, partitions)
}

// signingKey reads NAME.key.
func signingKey(folder, name string) (trust.PrivateKey, error) {
	return readKey(filepath.Join(folder, name+privateSuffix), "an Ed25519 or ML-DSA-65 key in PKCS 8", trust.ParsePrivateKey)
}

// verifyingKey reads NAME.pub.
func verifyingKey(folder, name string) (trust.PublicKey, error) {
	return readKey(filepath.Join(folder, name+publicSuffix), "the public half of an Ed25519 or ML-DSA-65 key", trust.ParsePublicKey)
}

// rosterFlags are those of commands that write to the roster.
type rosterFlags struct {
	trainingFlags
	Names []string `required:"" placeholder:"NAME,…" help:"The clients."`
	Keys  string   `required:"" placeholder:"FOLDER" help:"Where aggregator.key is, with which entries of the roster are signed."`
}

// write appends the entries that make makes, one a name.
func (f rosterFlags) write(ctx context.Context, t *terminal, make func(name string) (trust.Entry, error)) error {
	key, err := signingKey(f.Keys, aggregatorName)
	if err != nil {
		return err
	}
	var entries []trust.Entry
	for _, name := range f.Names {
		e, err := make(name)
		if err != nil {
			return err
		}
		e.Client = name
		entries = append(entries, e)
	}
	return f.connect(ctx, t, func(tr training) error {
		if err := tr.prepareRoster(ctx); err != nil {
			return err
		}
		to := eventPublisher{producers.New(tr.broker, tr.reg, producers.Config{})}
		for _, e := range entries {
			if err := tr.rosterLog(t, key.Public()).Append(ctx, to, key, e); err != nil {
				return fmt.Errorf("%s %s: %w", e.Action, e.Client, err)
			}
			t.notef("%s %s\n", map[string]string{trust.Enrol: "enrolled", trust.Revoke: "revoked"}[e.Action], e.Client)
		}
		return nil
	})
}

// federatedEnrolCmd enrols clients.
type federatedEnrolCmd struct{ rosterFlags }

// Help shows examples.
func (federatedEnrolCmd) Help() string {
	return `Writes the public keys of clients, NAME.pub in the folder, to the roster of the
training, the topic NAME.roster, signed with aggregator.key. The clients take part from
the next round on. One that is enrolled again has another key from then on.

Example:
  penstock federated enrol lab --keys lab-keys --names ann,bob`
}

// Run enrols them.
func (c *federatedEnrolCmd) Run(ctx context.Context, t *terminal) error {
	return c.write(ctx, t, func(name string) (trust.Entry, error) {
		if !clientName.MatchString(name) {
			return trust.Entry{}, usagef("--names %q: expected letters, digits, dots, dashes and underscores", name)
		}
		key, err := verifyingKey(c.Keys, name)
		return trust.Entry{Action: trust.Enrol, Key: key.DER()}, err
	})
}

// federatedRevokeCmd revokes clients.
type federatedRevokeCmd struct {
	rosterFlags
	Reason string `placeholder:"TEXT" help:"Why, for people to read."`
}

// Help shows examples.
func (federatedRevokeCmd) Help() string {
	return `The clients do not take part any more. A round that is in progress begins anew
without them: what they sent in it is taken out.

Example:
  penstock federated revoke lab --keys lab-keys --names bob --reason "laptop lost"`
}

// Run revokes them.
func (c *federatedRevokeCmd) Run(ctx context.Context, t *terminal) error {
	return c.write(ctx, t, func(string) (trust.Entry, error) {
		return trust.Entry{Action: trust.Revoke, Reason: c.Reason}, nil
	})
}

// federatedClientsCmd shows the roster.
type federatedClientsCmd struct {
	trainingFlags
	signingFlags
}

// clientRow is a client in a line.
type clientRow struct {
	Client string `json:"client"`
	Key    string `json:"key,omitempty"` // algorithm and fingerprint
	Action string `json:"action"`        // enrol, revoke or quarantine
	Reason string `json:"reason,omitempty"`
	Entry  int64  `json:"entry"`
}

// Run shows it.
func (c *federatedClientsCmd) Run(ctx context.Context, t *terminal) error {
	authority, err := verifyingKey(c.Keys, aggregatorName)
	if err != nil {
		return err
	}
	return c.connect(ctx, t, func(tr training) error {
		roster, next, err := tr.rosterLog(t, authority).Read(ctx)
		if err != nil {
			return err
		}
		members := roster.At(next)
		for _, name := range slices.Sorted(maps.Keys(members)) {
			m := members[name]
			row := clientRow{Client: name, Action: m.Action, Reason: m.Reason, Entry: m.Number}
			text := map[string]string{trust.Revoke: "revoked  ", trust.Quarantine: "quarantine  "}[m.Action] + m.Reason
			if !m.Gone {
				row.Key = m.Key.String()
				text = "enrolled  " + row.Key
			}
			if c.json() {
				if err := t.object(row); err != nil {
					return err
				}
				continue
			}
			t.printf("%s  %s\n", name, text)
		}
		return nil
	})
}

// signatures checks those of the updates that models are made of.
type signatures struct {
	topic   string
	roster  *trust.Roster // nil where the training asks for none
	members trust.Members // of the model last begun
}

// signatures reads what is needed to check those of the models: the roster that they
// name, which has to be that of the authority in the folder, if there is one.
func (t training) signatures(ctx context.Context, to *terminal, models []federated.Model, folder string) (*signatures, error) {
	s := &signatures{topic: t.updates()}
	if models[0].Trust == nil {
		if folder != "" {
			return nil, noError{fmt.Errorf("training %q: its updates are not signed", t.Training)}
		}
		return s, nil
	}
	authority, err := trust.ParsePublicKey([]byte(models[0].Trust.Authority))
	if err != nil {
		return nil, noError{fmt.Errorf("training %q: %w", t.Training, err)}
	}
	if folder != "" {
		known, err := verifyingKey(folder, aggregatorName)
		if err != nil {
			return nil, err
		}
		if !known.Equal(authority) {
			return nil, noError{fmt.Errorf("training %q: expected clients enrolled by %v, found %v", t.Training, known, authority)}
		}
	}
	s.roster, _, err = t.rosterLog(to, authority).Read(ctx)
	return s, err
}

// begin checks whom the round of m believes.
func (s *signatures) begin(m federated.Model) error {
	if s.roster != nil && m.Trust == nil {
		return fmt.Errorf("model of round %d: its round asks for no signatures, and those before did", m.Round)
	}
	var err error
	s.members, err = m.Believed(s.roster)
	return err
}

func (s *signatures) check(u federated.Update) error {
	if s.roster == nil {
		return nil
	}
	return u.SignedBy(s.members, s.topic)
}

// say is what verification found out about signatures.
func (s *signatures) say() string {
	if s.roster == nil {
		return ""
	}
	return fmt.Sprintf(", each signed by a client that was enrolled by %v", s.roster.Authority())
}
