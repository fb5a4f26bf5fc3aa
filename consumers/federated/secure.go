package federated

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"

	"penstock/consumers"
	"penstock/consumers/federated/secagg"
	"penstock/schemas"
	"penstock/stream"
)

//go:embed secure.avsc
var secureSchema string

// SecureSchema is the Avro schema of the values of all topics of secure
// aggregation but that of the models.
func SecureSchema() string { return secureSchema }

// secureStages are the stages whose messages have a topic of their own.
var secureStages = []secagg.Stage{secagg.Keys, secagg.Shares, secagg.Masked, secagg.Confirm, secagg.Unmask}

// secureTopic is where the messages of a stage lie. Records of the server lie in
// one topic, which clients read; of clients they read the shares.
func secureTopic(training string, stage secagg.Stage) string {
	if stage%2 == 0 {
		return training + ".control"
	}
	return training + "." + stage.String()
}

// SecureTopics are the topics of a training with secure aggregation, beside that
// of the models. Each is to have one partition.
func SecureTopics(training string) []string {
	topics := []string{secureTopic(training, secagg.Open)}
	for _, stage := range secureStages {
		topics = append(topics, secureTopic(training, stage))
	}
	return topics
}

// secureValue is m as its schema has it.
func secureValue(m secagg.Message) map[string]any {
	return map[string]any{
		"stage": m.Stage.String(), "training": m.Training, "round": m.Round, "attempt": m.Attempt, "base": m.Base[:],
		"sender": m.Sender, "after": m.After[:], "payload": m.Payload, "signature": m.Signature,
	}
}

// readSecure reads the decoded value of a record. What the message says is for
// its receiver to judge.
func readSecure(v any) (m secagg.Message, err error) {
	f, _ := v.(map[string]any)
	stage, _ := f["stage"].(string)
	var ok [9]bool
	m.Stage, ok[0] = secagg.ParseStage(stage)
	m.Training, ok[1] = f["training"].(string)
	m.Round, ok[2] = f["round"].(int64)
	m.Attempt, ok[3] = f["attempt"].(int32)
	base, ok4 := readHash(f["base"])
	m.Sender, ok[5] = f["sender"].(string)
	after, ok6 := readHash(f["after"])
	m.Payload, ok[7] = f["payload"].([]byte)
	m.Signature, ok[8] = f["signature"].([]byte)
	m.Base, ok[4], m.After, ok[6] = secagg.Hash(base), ok4, secagg.Hash(after), ok6
	for i, name := range []string{"stage", "training", "round", "attempt", "base", "sender", "after", "payload", "signature"} {
		if !ok[i] {
			return m, fmt.Errorf("read message of secure aggregation: at /%s: expected what penstock.federated.SecureMessage has, found %s", name, schemas.Describe(f[name]))
		}
	}
	return m, nil
}

// SecureLog is where the topics of a secure training lie, and what is needed to
// read and write them.
type SecureLog struct {
	Training  string
	Models    string // the topic of the models
	Broker    Broker
	Registry  consumers.Registry
	Publisher Publisher
	// Group begins the names of the groups that read. Each run has its own, as it
	// shares no partition and keeps no position in the broker: it need not wait
	// until the broker gives up one that was killed.
	Group string
	// Note is called with each message that is passed over, and why, and at each
	// step. nil is nobody.
	Note func(text string)
}

// check says what is missing, and makes the groups those of this run.
func (l *SecureLog) check() error {
	if l.Training == "" || l.Models == "" || l.Group == "" || l.Broker == nil || l.Registry == nil || l.Publisher == nil {
		return errors.New("the training, the topic of the models, the group, the broker, the registry and the publisher are needed")
	}
	l.Group += "." + rand.Text()
	return nil
}

func (l *SecureLog) notef(format string, args ...any) {
	if l.Note != nil {
		l.Note(fmt.Sprintf(format, args...))
	}
}

func (l *SecureLog) publish(ctx context.Context, m secagg.Message) error {
	key := fmt.Appendf(nil, "%d/%d/%s", m.Round, m.Attempt, m.Sender)
	if err := l.Publisher.Publish(ctx, secureTopic(l.Training, m.Stage), key, secureValue(m)); err != nil {
		return publishing(fmt.Sprintf("%v of round %d", m.Stage, m.Round), err)
	}
	return nil
}

// lastModel reads the last model; found is false if there is none.
func (l *SecureLog) lastModel(ctx context.Context) (m Model, found bool, err error) {
	a := Aggregator{config: Config{Models: l.Models, Group: l.Group, Broker: l.Broker, Registry: l.Registry}}
	return a.last(ctx)
}

// placed is a message and where it lies.
type placed struct {
	secagg.Message
	offset int64
}

// tail reads a topic of one partition, on and on.
type tail struct {
	log     *SecureLog
	topic   string
	from    Position // where it starts; without a topic, at the oldest record
	src     stream.SourceCloser
	decoder *consumers.Decoder
	id      stream.Partition // known once it is open
	next    int64
	queue   []placed
}

func (l *SecureLog) tail(topic string, positions []Position) *tail {
	t := &tail{log: l, topic: topic, decoder: consumers.NewDecoder(l.Registry, schemas.Limits{})}
	for _, p := range positions {
		if p.Topic == topic {
			t.from = p
		}
	}
	return t
}

// Assigned implements stream.Owner.
func (t *tail) Assigned(_ context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	if len(partitions) == 0 {
		return nil, nil
	}
	id, p := partitions[0], t.from
	if p.Topic != "" && id != (stream.Partition{Cluster: p.Cluster, Topic: p.Topic, Incarnation: p.Incarnation, Number: p.Partition}) {
		return nil, fmt.Errorf("the training goes on in topic %q of %q: %w", p.Topic, p.Cluster, stream.ErrTopicChanged)
	}
	t.id = id
	return map[stream.Partition]int64{id: t.next}, nil
}

// Lost implements stream.Owner.
func (t *tail) Lost(context.Context, []stream.Partition) error { return nil }

func (t *tail) close() error {
	if t.src == nil {
		return nil
	}
	src := t.src
	t.src = nil
	return src.Close()
}

// pop returns the next message, and waits for it.
func (t *tail) pop(ctx context.Context) (placed, error) {
	for len(t.queue) == 0 {
		if err := t.fetch(ctx); err != nil {
			return placed{}, err
		}
	}
	m := t.queue[0]
	t.queue = t.queue[1:]
	return m, nil
}

// catchUp reads on to where the topic ends now.
func (t *tail) catchUp(ctx context.Context) error {
	ranges, err := t.log.Broker.Ranges(ctx, t.topic)
	if err != nil {
		return err
	}
	if len(ranges) != 1 {
		return fmt.Errorf("topic %q has %d partitions, and secure aggregation needs 1", t.topic, len(ranges))
	}
	for end := ranges[0].End; max(t.next, t.from.Next, ranges[0].Start) < end; {
		if err := t.fetch(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fetch waits for records and queues the messages among them.
func (t *tail) fetch(ctx context.Context) error {
	if t.src == nil {
		t.next = max(t.next, t.from.Next)
		src, err := t.log.Broker.Open(ctx, stream.Subscription{Topic: t.topic, Group: t.log.Group + "." + t.topic, Owner: t})
		if err != nil {
			return fmt.Errorf("read topic %q: %w", t.topic, err)
		}
		t.src = src
	}
	records, ack, err := t.src.Fetch(ctx, 100)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Offset < t.next {
			continue
		}
		message, err := t.decoder.Decode(ctx, r)
		var why *consumers.Reason
		if err != nil && !errors.As(err, &why) {
			return err // the registry's
		}
		var m secagg.Message
		if err == nil {
			m, err = readSecure(message.Data)
		}
		if t.next = r.Offset + 1; err != nil {
			t.log.notef("passed over record %d of %q: %v", r.Offset, t.topic, err)
			continue
		}
		t.queue = append(t.queue, placed{m, r.Offset})
	}
	return ack(ctx, nil)
}
