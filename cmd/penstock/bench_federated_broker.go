package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kmsg"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// benchLayers is how many tensors the model has.
const benchLayers = 8

// federatedSchemas is a registry with the two schemas of a training.
type federatedSchemas struct{ model, update schemas.Schema }

func (s federatedSchemas) Latest(_ context.Context, subject string) (schemas.ID, schemas.Schema, error) {
	if strings.Contains(subject, benchModels) {
		return 1, s.model, nil
	}
	return 2, s.update, nil
}

func (s federatedSchemas) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	switch id {
	case 1:
		return s.model, nil
	case 2:
		return s.update, nil
	}
	return nil, schemas.ErrNoSchema
}

// benchModels is part of the names of topics of models.
const benchModels = "-models-"

// benchTraining is a training of one round, whose updates lie on a topic already.
type benchTraining struct {
	*benchFederatedCmd
	*bench
	schemas federatedSchemas
	clients []string
	topics  []string // those it made
	memory  float64  // the most that a run took over its start, in models
}

// throughBroker measures folding updates as they come from a broker.
func (c *benchFederatedCmd) throughBroker(ctx context.Context, t *terminal) (err error) {
	if c.Updates < 1 || c.Parameters < benchLayers || c.Pairs < 1 || c.Partitions < 1 || c.Updates > 1<<36/c.Parameters {
		return usagef("expected at least one update, %d parameters, one run and one partition, and at most 256 GiB of updates", benchLayers)
	}
	tr := benchTraining{benchFederatedCmd: c}
	if tr.schemas.model, err = formats()[0].Parse(federated.ModelSchema(), nil); err != nil {
		return err
	}
	if tr.schemas.update, err = formats()[0].Parse(federated.UpdateSchema(), nil); err != nil {
		return err
	}
	for i := range c.Updates {
		tr.clients = append(tr.clients, fmt.Sprintf("c%05d", i))
	}
	if tr.bench, err = openBenchOf(ctx, t, c.Broker, c.Partitions); err != nil {
		return err
	}
	tr.raw.ahead = jetstream.PullMaxBytes(16 << 20) // ten thousand of them would not fit
	tr.topics = []string{tr.topic}
	defer func() {
		err = errors.Join(err, tr.remove(context.WithoutCancel(ctx)), tr.close())
	}()
	bar := t.progress("publish updates", int64(c.Updates))
	if err := tr.publish(ctx, func() { bar.add(1) }); err != nil {
		return err
	}
	bar.stop()
	ranges, err := tr.broker.Ranges(ctx, tr.topic)
	if err != nil {
		return err
	}
	records := 0
	for _, r := range ranges {
		records += int(r.End - r.Start)
	}
	flags := benchFlags{outputFlag: c.outputFlag, Pairs: c.Pairs, Records: 4 * c.Updates * c.Parameters, unit: "bytes/s"}
	flags.memory = func() float64 { return tr.memory }
	raw := tr.rawConsume(records, func([]byte) error { return nil })
	settings := fmt.Sprintf("fetches alone, of %d records in %d partitions, %d updates of %d float32", records, c.Partitions, c.Updates, c.Parameters)
	return flags.compare(ctx, t, "federated through broker", settings, tr.fold, raw)
}

// parameters are what the training starts from, and what a client answers: numbers that
// no compression makes smaller.
func (t *benchTraining) parameters(client int) []federated.Tensor {
	random := mathrand.New(mathrand.NewPCG(uint64(client), 0))
	tensors := make([]federated.Tensor, benchLayers)
	for i := range tensors {
		values := make([]float32, t.Parameters*(i+1)/benchLayers-t.Parameters*i/benchLayers)
		for k := range values {
			values[k] = random.Float32() - 0.5
		}
		tensors[i] = federated.Tensor{Name: fmt.Sprintf("layer%d", i), Shape: []int{len(values)}, Values: values}
	}
	return tensors
}

// open begins the training anew, with a topic of models of its own.
func (t *benchTraining) open(ctx context.Context, done func()) (a *federated.Aggregator, models string, err error) {
	models = t.topic + benchModels + strings.ToLower(rand.Text()[:6])
	if err := t.broker.Create(ctx, models, 1); err != nil {
		return nil, "", err
	}
	t.topics = append(t.topics, models)
	a, err = federated.Open(ctx, federated.Config{
		Models: models, Updates: t.topic, Group: models, Clients: t.clients, Rounds: 1, Initial: t.parameters(0),
		Broker: t.broker, Registry: t.schemas, Publisher: eventPublisher{producers.New(t.broker, t.schemas, producers.Config{})},
		OnModel: func(m federated.Model) {
			if m.Final() && len(m.Contributions) == t.Updates {
				done()
			}
		},
	})
	return a, models, err
}

// publish has each client answer the first model.
func (t *benchTraining) publish(ctx context.Context, each func()) error {
	_, models, err := t.open(ctx, func() {})
	if err != nil {
		return err
	}
	records, err := readTopic(ctx, t.broker, models, models+"-reader")
	if err != nil {
		return err
	}
	batch := consumers.Batch{Topic: models}
	decoder := consumers.NewDecoder(t.schemas, schemas.Limits{})
	for _, r := range records {
		m, err := decoder.Decode(ctx, r)
		if err != nil {
			return err
		}
		batch.Messages = append(batch.Messages, m)
	}
	for i, name := range t.clients {
		client, err := federated.NewClient(federated.ClientConfig{
			Name: name, Updates: t.topic, Publisher: eventPublisher{producers.New(t.broker, t.schemas, producers.Config{})},
			Train: func(context.Context, federated.Model) (federated.Trained, error) {
				return federated.Trained{Parameters: t.parameters(i + 1), Samples: int64(i + 1)}, nil
			},
		})
		if err == nil {
			err = client.Write(ctx, batch)
		}
		if err != nil {
			return err
		}
		each()
	}
	return nil
}

// timedBroker notes when the first batch of a topic came.
type timedBroker struct {
	stream.Broker
	source *timedSource
}

type timedCloser struct {
	*timedSource
	close func() error
}

func (c timedCloser) Close() error { return c.close() }

// Open implements stream.Broker.
func (b *timedBroker) Open(ctx context.Context, s stream.Subscription) (stream.SourceCloser, error) {
	opened, err := b.Broker.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	b.source.Source = opened
	return timedCloser{b.source, opened.Close}, nil
}

// fold is Penstock's side: the aggregator as the command runs it, from the first batch
// on until the model is durable.
func (t *benchTraining) fold(ctx context.Context) (time.Duration, error) {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // begins the peak anew, where the system has it
	before, unknown := statusBytes("VmRSS")
	timed := timedBroker{t.broker, &timedSource{}}
	defer collectEarly(t.Parameters)()
	a, group, err := t.open(ctx, func() { timed.source.end = time.Now() })
	if err != nil {
		return 0, err
	}
	if err := finished(runJob(ctx, &timed, t.schemas, job{topic: t.topic, group: group, sink: a, owner: a, inFlight: updatesInFlight})); err != nil {
		return 0, err
	}
	t.topics = append(t.topics, consumers.DeadLetterTopic(t.topic, group))
	if timed.source.end.IsZero() {
		return 0, fmt.Errorf("the model is made of %d updates, want %d", len(a.Model().Contributions), t.Updates)
	}
	if peak, err := statusBytes("VmHWM"); err == nil && unknown == nil {
		t.memory = max(t.memory, round3((peak-before)/float64(4*t.Parameters)))
	}
	return timed.source.end.Sub(timed.source.start), nil
}

// statusBytes reads what Linux says of this process's memory.
func statusBytes(what string) (float64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), what+":")
	var kB float64
	_, err = fmt.Sscan(after, &kB)
	return 1024 * kB, err
}

// remove deletes the topics: there may be gigabytes in them.
func (t *benchTraining) remove(ctx context.Context) error {
	if t.conn != nil {
		js, err := jetstream.New(t.conn)
		if err != nil {
			return err
		}
		names := js.StreamNames(ctx)
		for name := range names.Name() {
			if strings.HasPrefix(name, t.topic) {
				err = errors.Join(err, js.DeleteStream(ctx, name))
			}
		}
		return errors.Join(err, names.Err())
	}
	client, err := t.kafka.client()
	if err != nil {
		return err
	}
	defer client.Close()
	request := kmsg.NewDeleteTopicsRequest()
	for _, topic := range t.topics {
		request.TopicNames = append(request.TopicNames, topic)
		request.Topics = append(request.Topics, kmsg.DeleteTopicsRequestTopic{Topic: kmsg.StringPtr(topic)})
	}
	_, err = request.RequestWith(ctx, client)
	return err
}
