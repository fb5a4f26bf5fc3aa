package main

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"testing"

	"penstock/consumers/federated"
	"penstock/producers"
	"penstock/registry/client"
	"penstock/stream"
	"penstock/stream/memory"
)

// weighing is a broker that notes, whenever a program reads on, the most that it holds.
type weighing struct {
	stream.Broker
	most uint64
}

func (w *weighing) Open(ctx context.Context, s stream.Subscription) (stream.SourceCloser, error) {
	src, err := w.Broker.Open(ctx, s)
	return weighingSource{src, w}, err
}

type weighingSource struct {
	stream.SourceCloser
	w *weighing
}

func (s weighingSource) Fetch(ctx context.Context, most int) ([]stream.Record, stream.AckFunc, error) {
	s.w.most = max(s.w.most, inUse())
	return s.SourceCloser.Fetch(ctx, most)
}

// inUse is what the program holds.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Commands hold the models that they need, of a training that has many.
func TestTrainingsAreReadInBoundedMemory(t *testing.T) {
	const rounds, size = 10, 100_000
	reg, err := client.New(memoryRegistry(t), formats(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	tr := training{trainingFlags{Training: "lab"}, memory.New(), reg}
	for topic, schema := range map[string]string{tr.models(): federated.ModelSchema(), tr.updates(): federated.UpdateSchema()} {
		if err := tr.prepareTopic(t.Context(), topic, schema, 1); err != nil {
			t.Fatal(err)
		}
	}
	train(t, tr, rounds, size)
	broker := &weighing{Broker: tr.broker}
	tr.broker = broker

	var out bytes.Buffer
	to := &terminal{in: nil, out: &out, err: io.Discard}
	bounded := func(name string, models uint64, do func() error) {
		t.Helper()
		broker.most = 0
		before := inUse()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// The last record of each update lies in memory, where pieces of it lie in files.
		if took := broker.most - min(broker.most, before); took > (models+1)*4*size+rounds*piece {
			t.Errorf("%s holds %d bytes, and a model has %d", name, took, 4*size)
		}
	}
	bounded("history", 1, func() error {
		return tr.each(t.Context(), func(m federated.Model) error { return tr.show(to, m) })
	})
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != rounds+1 {
		t.Errorf("history has %d lines:\n%s", n, &out)
	}
	bounded("export", 2, func() error {
		m, err := (&federatedExportCmd{Round: 3}).model(t.Context(), tr)
		if m.Round != 3 || len(m.Parameters[0].Values) != size {
			t.Errorf("exported the model of round %d", m.Round)
		}
		return err
	})
	if _, err := (&federatedExportCmd{Round: 99}).model(t.Context(), tr); err == nil || err.Error() != "--round 99: the topic holds the models of rounds 0 to 10" {
		t.Error(err)
	}
	out.Reset()
	bounded("verify", 2, func() error {
		c := federatedVerifyCmd{trainingFlags: tr.trainingFlags}
		return c.verify(t.Context(), to, tr, nil)
	})
	if want := "11 models are what their 10 updates make, to the byte\n"; out.String() != want {
		t.Errorf("verify says %q, want %q", &out, want)
	}
}

// piece is how many bytes of numbers a record of these tests has.
const piece = 25_000

// train runs a training of one client with a model of size numbers.
func train(t *testing.T, tr training, rounds int64, size int) {
	t.Helper()
	publisher := eventPublisher{producers.New(tr.broker, tr.reg, producers.Config{})}
	a, err := federated.Open(t.Context(), federated.Config{
		Models: tr.models(), Updates: tr.updates(), Group: tr.aggregator(), Clients: []string{"ann"}, Rounds: rounds, Piece: piece,
		Initial: []federated.Tensor{{Name: "w", Shape: []int{size}, Values: make([]float32, size)}},
		Broker:  tr.broker, Registry: tr.reg, Publisher: publisher,
	})
	if err != nil {
		t.Fatal(err)
	}
	member, err := federated.NewClient(federated.ClientConfig{
		Name: "ann", Updates: tr.updates(), Publisher: publisher, Piece: piece,
		Train: func(_ context.Context, m federated.Model) (federated.Trained, error) {
			values := make([]float32, size)
			for i, v := range m.Parameters[0].Values {
				values[i] = v + float32(i%7) + 1
			}
			return federated.Trained{Parameters: []federated.Tensor{{Name: "w", Shape: []int{size}, Values: values}}, Samples: 1}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- finished(runJob(t.Context(), tr.broker, tr.reg, job{topic: tr.models(), group: "ann", sink: member, owner: noPositions{}}))
	}()
	if err := finished(runJob(t.Context(), tr.broker, tr.reg, job{topic: tr.updates(), group: tr.aggregator(), sink: a, owner: a})); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
