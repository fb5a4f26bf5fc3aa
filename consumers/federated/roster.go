package federated

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"penstock/consumers"
	"penstock/consumers/federated/trust"
	"penstock/schemas"
	"penstock/stream"
)

//go:embed roster.avsc
var rosterSchema string

// RosterSchema is the Avro schema of the values of a roster's topic.
func RosterSchema() string { return rosterSchema }

// ErrReread ends the run of an Aggregator that has to read the updates of its round again:
// the round has begun anew with other clients, or other keys of theirs, or another aggregator
// has taken over. Run it again.
var ErrReread = fmt.Errorf("the round's updates are to be read again: %w", consumers.ErrStop)

// Trust says which clients a round believes: those whom Roster.At(Next) has enrolled.
type Trust struct {
	Authority string // key of the roster, as trust.PublicKey.DER has it
	Next      int64  // offset in the roster's topic: entries from there on came too late for the round
}

func (t *Trust) value() any {
	if t == nil {
		return nil
	}
	return map[string]any{"authority": []byte(t.Authority), "next": t.Next}
}

func readTrust(v any) (*Trust, error) {
	f, _ := v.(map[string]any)
	if f == nil {
		return nil, nil
	}
	authority, ok1 := f["authority"].([]byte)
	next, ok2 := f["next"].(int64)
	if !ok1 || !ok2 || next < 0 {
		return nil, errors.New("at /trust: expected a key and an offset")
	}
	return &Trust{string(authority), next}, nil
}

// RosterLog is where the roster of a training lies. Its topic is to have one
// partition, and to keep all records.
type RosterLog struct {
	Topic     string
	Authority trust.PublicKey // who signs entries
	Broker    Broker
	Registry  consumers.Registry
	// Group begins the name of the group that reads; each reader has its own.
	Group string
	// Note is called with each record that does not count, and why; nil is nobody.
	Note func(text string)
}

// Read reads all entries that there are now. The offset is that after the last record.
func (l RosterLog) Read(ctx context.Context) (*trust.Roster, int64, error) {
	r, err := l.follow(ctx)
	if err != nil {
		return nil, 0, err
	}
	return r.Roster, r.next, nil
}

// Append signs an entry with the authority's key, publishes it, and returns when it
// counts. Of the entry it needs action, client, key and reason. Where someone else's
// entry comes first, it takes the next number.
func (l RosterLog) Append(ctx context.Context, to Publisher, key trust.PrivateKey, e trust.Entry) error {
	r, err := l.follow(ctx)
	if err != nil {
		return err
	}
	for {
		e.Number = r.Next()
		if e.Signature, err = key.Sign(e.Text(l.Topic)); err != nil {
			return err
		}
		if err := r.Check(e); err != nil {
			return err
		}
		value := map[string]any{"number": e.Number, "action": e.Action, "client": e.Client, "key": e.Key, "reason": e.Reason, "signature": e.Signature}
		if err := to.Publish(ctx, l.Topic, []byte(e.Client), value); err != nil {
			return publishing("entry of the roster", err)
		}
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		if last := r.Entry(e.Number); string(last.Signature) == string(e.Signature) {
			return nil
		}
	}
}

// rosterReader is a roster, and how far it has been read.
type rosterReader struct {
	*trust.Roster
	log     RosterLog
	next    int64
	decoder *consumers.Decoder
}

func (l RosterLog) follow(ctx context.Context) (*rosterReader, error) {
	l.Group += "." + rand.Text()
	r := &rosterReader{trust.NewRoster(l.Topic, l.Authority), l, 0, consumers.NewDecoder(l.Registry, schemas.Limits{})}
	return r, r.catchUp(ctx)
}

// catchUp reads on to where the topic ends now.
func (r *rosterReader) catchUp(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read roster %q: %w", r.log.Topic, err)
		}
	}()
	ranges, err := r.log.Broker.Ranges(ctx, r.log.Topic)
	if err != nil {
		return err
	}
	if len(ranges) != 1 {
		return fmt.Errorf("the topic has %d partitions, and a roster needs 1", len(ranges))
	}
	if at := ranges[0]; r.next > 0 && (at.Start > r.next || at.End < r.next) {
		return fmt.Errorf("expected to go on at offset %d, found records from %d to %d: %w", r.next, at.Start, at.End, stream.ErrTopicChanged)
	}
	if r.next = max(r.next, ranges[0].Start); r.next == ranges[0].End {
		return nil // on some brokers the first offset is not 0
	}
	src, err := r.log.Broker.Open(ctx, stream.Subscription{Topic: r.log.Topic, Group: r.log.Group, Owner: startAt(r.next)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	for r.next < ranges[0].End {
		records, _, err := src.Fetch(ctx, 1000)
		if err != nil {
			return err
		}
		for _, record := range records {
			if err := r.add(ctx, record); err != nil {
				return err
			}
		}
	}
	return nil
}

// add takes a record that is an entry, and passes over what is none.
func (r *rosterReader) add(ctx context.Context, record stream.Record) error {
	message, err := r.decoder.Decode(ctx, record)
	var why *consumers.Reason
	if err != nil && !errors.As(err, &why) {
		return err // the registry's
	}
	if err == nil {
		var e trust.Entry
		if e, err = readEntry(message.Data); err == nil {
			err = r.Add(record.Offset, e)
		}
	}
	if err != nil && r.log.Note != nil {
		r.log.Note(fmt.Sprintf("passed over record %d of roster %q: %v", record.Offset, r.log.Topic, err))
	}
	r.next = record.Offset + 1
	return nil
}

func readEntry(v any) (e trust.Entry, err error) {
	f, _ := v.(map[string]any)
	var ok [6]bool
	e.Number, ok[0] = f["number"].(int64)
	e.Action, ok[1] = f["action"].(string)
	e.Client, ok[2] = f["client"].(string)
	e.Key, ok[3] = f["key"].([]byte)
	e.Reason, ok[4] = f["reason"].(string)
	e.Signature, ok[5] = f["signature"].([]byte)
	if slices.Contains(ok[:], false) {
		return e, fmt.Errorf("expected number, action, client, key, reason and signature, found %.60s", schemas.Describe(v))
	}
	return e, nil
}

// signed is what the signature of u covers, on its way to a topic: the tensors as they
// are sent.
func (u Update) signed(topic string) trust.Update {
	return trust.Update{
		Topic: topic, Client: u.Client, Round: u.Round, Base: u.Base, Samples: u.Samples,
		Loss: u.Loss, Steps: u.Steps, Parameters: hashOf(u.Parameters), Partial: u.Partial.text(),
	}
}

// Believed are the clients whom the round that starts from m believes, nil where it
// asks for no signatures. The error says why they do not follow from the roster.
func (m Model) Believed(roster *trust.Roster) (trust.Members, error) {
	switch {
	case m.Trust == nil:
		return nil, nil
	case roster == nil || m.Trust.Authority != string(roster.Authority().DER()):
		return nil, fmt.Errorf("model of round %d: its clients were enrolled by another key than the roster's", m.Round)
	}
	members := roster.At(m.Trust.Next)
	if names := members.Names(); !slices.Equal(m.Clients, names) {
		return nil, fmt.Errorf("model of round %d: it asks %q, and the roster has %q", m.Round, m.Clients, names)
	}
	return members, nil
}

// SignedBy says why u, as it lies on a topic, is not one of the members'.
func (u Update) SignedBy(members trust.Members, topic string) error {
	return members.Check(u.signed(topic), u.Signature)
}

// distrust says why an update is not one of a client whom the round believes.
func distrust(err error) Reason {
	switch {
	case errors.Is(err, trust.ErrRevoked):
		return Revoked
	case errors.Is(err, trust.ErrQuarantined):
		return Quarantined
	case errors.Is(err, trust.ErrUnsigned):
		return Unsigned
	case errors.Is(err, trust.ErrSignature):
		return BadSignature
	}
	return UnknownClient
}

// enrolled sets who may take part from here on in the round that m opens: who is on
// the roster as far as it has been read.
func (a *Aggregator) enrolled(m Model) (Model, error) {
	if a.roster == nil {
		return m, nil
	}
	m.Clients = a.roster.At(a.roster.next).Names()
	m.Trust = &Trust{string(a.config.Roster.Authority.DER()), a.roster.next}
	config := a.config
	config.Clients = m.Clients
	err := config.enough(a.strategy)
	if len(m.Clients) == 0 {
		err = errors.New("expected one at least")
	}
	if err != nil {
		return m, fmt.Errorf("open round %d with the %d clients that are enrolled: %w: %w", m.Round, len(m.Clients), consumers.ErrStop, err)
	}
	return m, nil
}

// changes reads the roster on, and names the clients of the round who are revoked since
// it was opened, or have other keys.
func (a *Aggregator) changes(ctx context.Context) ([]string, error) {
	if a.roster == nil {
		return nil, nil
	}
	if err := a.roster.catchUp(ctx); err != nil {
		return nil, err
	}
	return a.members.Changed(a.roster.At(a.roster.next), a.model.Clients), nil
}

// without is the model of the round in progress, for another attempt at it in which
// the roster holds that names changed in.
func (a *Aggregator) without(names []string) (Model, error) {
	m := a.model
	m.Attempt++
	m.Sample = nil
	m.Aborted = "revoked, or with another key: " + strings.Join(names, ", ")
	return a.opened(m)
}

// Follow begins the round in progress anew if a client of it was revoked, or has
// another key: the error is then ErrReread. Watch calls it.
func (a *Aggregator) Follow(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.model.Final() {
		return nil
	}
	if a.pending == nil {
		names, err := a.changes(ctx)
		if err != nil || len(names) == 0 {
			return err
		}
		m, err := a.without(names)
		if err != nil {
			return err
		}
		a.pending = &m
	}
	return a.endRound(ctx, false)
}
