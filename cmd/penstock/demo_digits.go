package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/producers"
	"penstock/registry"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
)

const (
	demoRounds  = 5
	demoClients = 10
	demoSeed    = 1
	// wantAccuracy is what the federated model must reach on held-out digits.
	wantAccuracy = 0.90
)

// localTraining is how a client of the demo trains in each round.
var localTraining = federated.SGD{Epochs: 20, Batch: 10, Rate: 0.3}

// trainDigits trains a classifier in rounds over the broker: each client sees
// its own share of the digits only, and publishes what it made of the model.
func (d *demo) trainDigits(ctx context.Context) error {
	digits, err := samples.Digits()
	if err != nil {
		return err
	}
	shares, test := federated.Split(examplesOf(digits), demoClients, demoSeed)
	models, updates := d.topic("digits.models"), d.topic("digits.updates")
	for topic, schema := range map[string]string{models: federated.ModelSchema(), updates: federated.UpdateSchema()} {
		s := registry.Schema{Schema: schema, SchemaType: schemas.Avro}
		if _, err := d.stack.client.Register(ctx, topicSubject(topic), s); err != nil {
			return err
		}
	}
	if err := errors.Join(d.stack.broker.Create(ctx, models, 1), d.stack.broker.Create(ctx, updates, demoPartitions)); err != nil {
		return err
	}
	names := make([]string, demoClients)
	smallest, largest := len(shares[0]), 0
	for i, share := range shares {
		names[i] = fmt.Sprintf("client-%02d", i+1)
		smallest, largest = min(smallest, len(share)), max(largest, len(share))
	}
	d.say("%s handwritten digits: %d to %d for each of %d clients, most of three kinds; %d held back to test on",
		count(int64(len(digits))), smallest, largest, demoClients, len(test))

	best, err := bestAlone(shares, test)
	if err != nil {
		return err
	}
	d.say("the best client on its own, with as much training:  accuracy %.3f", best)

	publisher := eventPublisher{producers.New(d.stack.broker, d.stack.client, producers.Config{})}
	var accuracy float64
	bar := d.t.progress("rounds", demoRounds)
	aggregator, err := federated.Open(ctx, federated.Config{
		Models: models, Updates: updates, Group: demoGroup, Clients: names, Rounds: demoRounds,
		Initial: federated.NewSoftmax(len(digits[0].Pixels), 10),
		Broker:  d.stack.broker, Registry: d.stack.client, Publisher: publisher,
		OnModel: func(m federated.Model) {
			if m.Round == 0 {
				return
			}
			if accuracy, err = federated.Accuracy(m.Parameters, test); err == nil {
				bar.set(m.Round)
				d.say("round %d of %d: %d updates averaged, accuracy %.3f", m.Round, m.Rounds, len(m.Contributions), accuracy)
			}
		},
	})
	if err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return finished(runJob(gctx, d.stack.broker, d.stack.client, job{
			topic: updates, group: demoGroup, patience: demoPatience, sink: aggregator, owner: aggregator,
		}))
	})
	for i, name := range names {
		group.Go(func() error {
			return finished(d.client(gctx, name, shares[i], models, updates, publisher))
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	bar.stop()
	if accuracy < wantAccuracy || accuracy <= best {
		return fmt.Errorf("the trained model reaches accuracy %.3f, expected at least %.2f and more than the best client's %.3f", accuracy, wantAccuracy, best)
	}
	return d.countUpdates(ctx, models, updates)
}

// client takes part in the training until it is finished.
func (d *demo) client(ctx context.Context, name string, share []federated.Example, models, updates string, publisher eventPublisher) error {
	c, err := federated.NewClient(federated.ClientConfig{
		Name: name, Updates: updates, Publisher: publisher,
		Train: func(_ context.Context, m federated.Model) (federated.Trained, error) {
			return localTraining.Answer(m, share)
		},
	})
	if err != nil {
		return err
	}
	src, err := d.stack.broker.Open(ctx, stream.Subscription{Topic: models, Group: d.topic(name), Owner: noPositions{}})
	if err != nil {
		return err
	}
	return errors.Join(consumers.Run(ctx, src, c, consumers.Config{Registry: d.stack.client}), src.Close())
}

// finished takes the end of the training for what it is.
func finished(err error) error {
	if errors.Is(err, federated.ErrFinished) {
		return nil
	}
	return err
}

// countUpdates reads back what was sent and what was counted.
func (d *demo) countUpdates(ctx context.Context, models, updates string) error {
	sent, err := d.records(ctx, updates)
	if err != nil {
		return err
	}
	dead := consumers.DeadLetterTopic(updates, demoGroup)
	refused, err := d.records(ctx, dead)
	if err != nil {
		return err
	}
	records, err := d.readAll(ctx, models)
	if err != nil {
		return err
	}
	decoder := consumers.NewDecoder(d.stack.client, schemas.Limits{})
	var counted int64
	for _, r := range records {
		m, err := decoder.Decode(ctx, r)
		if err != nil {
			return err
		}
		model, err := federated.ReadModel(m.Data)
		if err != nil {
			return err
		}
		counted += int64(len(model.Contributions))
	}
	d.ledger.balance(d.ledger.add("model updates", "end offsets of "+updates, sent),
		d.ledger.add("counted", fmt.Sprintf("named in the %d models of %s", len(records), models), counted),
		d.ledger.add("updates refused", "end offsets of "+dead, refused))
	return nil
}

// bestAlone is the accuracy of the best model that one client makes of its own
// share, with as many passes over it as it makes in all rounds.
func bestAlone(shares [][]federated.Example, test []federated.Example) (best float64, err error) {
	alone := localTraining
	alone.Epochs *= demoRounds
	for _, share := range shares {
		parameters, err := alone.Train(federated.NewSoftmax(len(share[0].Features), 10), share)
		if err != nil {
			return 0, err
		}
		accuracy, err := federated.Accuracy(parameters, test)
		if err != nil {
			return 0, err
		}
		best = max(best, accuracy)
	}
	return best, nil
}

// examplesOf scales the pixels to 0..1.
func examplesOf(digits []samples.Digit) []federated.Example {
	examples := make([]federated.Example, len(digits))
	for i, digit := range digits {
		features := make([]float32, len(digit.Pixels))
		for j, p := range digit.Pixels {
			features[j] = float32(p) / 16
		}
		examples[i] = federated.Example{Features: features, Class: int(digit.Class)}
	}
	return examples
}

// eventPublisher publishes values that fit the schema of their topic.
type eventPublisher struct{ *producers.Producer }

// Publish implements federated.Publisher.
func (p eventPublisher) Publish(ctx context.Context, topic string, key []byte, value any) error {
	return p.Producer.Publish(ctx, producers.Event{Topic: topic, Key: key, Value: value})
}

// Encode implements federated.Encoder.
func (p eventPublisher) Encode(ctx context.Context, topic string, key []byte, value any) (stream.Record, error) {
	records, err := p.Producer.Encode(ctx, producers.Event{Topic: topic, Key: key, Value: value})
	if err != nil {
		return stream.Record{}, err
	}
	return records[0], nil
}
