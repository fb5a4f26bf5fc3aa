package federated

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/consumers"
	"penstock/schemas/samples"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/memory"
	"penstock/stream/nats"
)

// digits are the real digits, grey values scaled to 0..1.
func digits(t testing.TB) []Example {
	t.Helper()
	all, err := samples.Digits()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]Example, len(all))
	for i, d := range all {
		out[i] = Example{Features: make([]float32, len(d.Pixels)), Class: int(d.Class)}
		for j, p := range d.Pixels {
			out[i].Features[j] = float32(p) / 16
		}
	}
	return out
}

func TestSplitIsUnevenAndStable(t *testing.T) {
	examples := digits(t)
	shares, test := Split(examples, 10, 1)
	again, _ := Split(examples, 10, 1)
	if d := cmp.Diff(shares, again); d != "" {
		t.Error("the same seed splits in another way")
	}
	total := len(test)
	var sizes []int
	for c, share := range shares {
		total += len(share)
		sizes = append(sizes, len(share))
		favourite := 0
		for _, e := range share {
			if d := (e.Class - c + 10) % 10; d == 0 || d == 1 || d == 4 {
				favourite++
			}
		}
		if favourite < len(share)*3/4 {
			t.Errorf("client %d has %d of %d examples of its classes", c, favourite, len(share))
		}
	}
	if total != len(examples) || len(test) != (len(examples)+4)/5 {
		t.Errorf("%d of %d examples, %d for the test", total, len(examples), len(test))
	}
	if slices.Max(sizes) < slices.Min(sizes)*3/2 || slices.Min(sizes) == 0 {
		t.Errorf("shares of %v", sizes)
	}
}

func TestTrainLeavesItsInputAndIsStable(t *testing.T) {
	examples := digits(t)[:200]
	start := NewSoftmax(64, 10)
	sgd := SGD{Epochs: 2, Batch: 10, Rate: 0.3, Seed: 1}
	one, err := sgd.Train(start, examples)
	if err != nil {
		t.Fatal(err)
	}
	if hashOf(start) != hashOf(NewSoftmax(64, 10)) {
		t.Error("training changed the model it started from")
	}
	two, _ := sgd.Train(start, examples)
	if hashOf(one) != hashOf(two) {
		t.Error("the same seed trains in another way")
	}
	sgd.Seed = 2
	if other, _ := sgd.Train(start, examples); hashOf(one) == hashOf(other) {
		t.Error("the seed does nothing")
	}
}

// What a client reports is the cross-entropy before the training, and its steps.
func TestAnswerReports(t *testing.T) {
	m := Model{Round: 4, Parameters: []Tensor{
		{Name: "weight", Shape: []int{2, 1}, Values: []float32{0, 1}},
		{Name: "bias", Shape: []int{2}, Values: []float32{0, 0}},
	}}
	examples := []Example{{[]float32{0}, 1}, {[]float32{1}, 0}, {[]float32{1000}, 0}}
	sgd := SGD{Epochs: 3, Batch: 2, Rate: 0.1}
	got, err := sgd.Answer(m, examples)
	if err != nil {
		t.Fatal(err)
	}
	if want := (math.Log(2) + math.Log(1+math.E) + 1000) / 3; math.Abs(got.Loss-want) > 1e-4 {
		t.Errorf("loss %v, want %v", got.Loss, want)
	}
	sgd.Seed = 4
	if p, _ := sgd.Train(m.Parameters, examples); got.Steps != 6 || got.Samples != 3 || hashOf(got.Parameters) != hashOf(p) {
		t.Errorf("got %+v", got)
	}
}

// The gradient is that of the cross-entropy: one step on one example is what
// the formula gives.
func TestTrainStep(t *testing.T) {
	got, err := SGD{Epochs: 1, Batch: 1, Rate: 1}.Train(NewSoftmax(2, 2), []Example{{[]float32{2, 4}, 1}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Tensor{
		{Name: "weight", Shape: []int{2, 2}, Values: []float32{-1, -2, 1, 2}},
		{Name: "bias", Shape: []int{2}, Values: []float32{-0.5, 0.5}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSoftmaxRefuses(t *testing.T) {
	f := func(want string, parameters []Tensor, examples ...Example) {
		t.Helper()
		_, err := SGD{Epochs: 1}.Train(parameters, examples)
		_, err2 := Accuracy(parameters, examples)
		_, err3 := SGD{Epochs: 1}.Answer(Model{Parameters: parameters}, examples)
		if err == nil || err2 == nil || err3 == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, %v and %v, want %q", err, err2, err3, want)
		}
	}
	f("no examples", NewSoftmax(2, 2))
	f("found 1 and class 0", NewSoftmax(2, 2), Example{[]float32{1}, 0})
	f("class below 2", NewSoftmax(1, 2), Example{[]float32{1}, 2})
	f("softmax classifier", nil, Example{})
	f("softmax classifier", NewSoftmax(2, 2)[:1], Example{})
}

// digitsSGD is how the clients train.
var digitsSGD = SGD{Epochs: 20, Batch: 10, Rate: 0.3}

// Ten clients, each with its own uneven share of the digits, and the aggregator
// run on a broker as they will be: in five rounds the common model is right
// about more than nine digits of ten that nobody trained on, and far better
// than what any client makes of its own share.
func TestDigits(t *testing.T) {
	shares, test := Split(digits(t), 10, 1)
	const rounds = 5
	best := 0.0
	for _, share := range shares {
		sgd := digitsSGD
		sgd.Epochs *= rounds
		own, err := sgd.Train(NewSoftmax(64, 10), share)
		if err != nil {
			t.Fatal(err)
		}
		alone, err := Accuracy(own, test)
		if err != nil {
			t.Fatal(err)
		}
		best = max(best, alone)
	}
	t.Run("memory", func(t *testing.T) { testDigits(t, memory.New(), rounds, shares, test, best) })
	t.Run("nats", func(t *testing.T) {
		broker, err := nats.OpenDir(t.Context(), t.TempDir(), nats.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer broker.Close()
		testDigits(t, broker, rounds, shares, test, best)
	})
	t.Run("kafka", func(t *testing.T) {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		defer cluster.Close()
		broker, err := kafka.Open(t.Context(), kafka.Config{Seeds: cluster.ListenAddrs()})
		if err != nil {
			t.Fatal(err)
		}
		defer broker.Close()
		testDigits(t, broker, rounds, shares, test, best)
	})
}

func testDigits(t *testing.T, broker stream.Broker, rounds int64, shares [][]Example, test []Example, best float64) {
	tr := newTrainingOn(t, broker, len(shares), rounds)
	tr.config.Initial = NewSoftmax(64, 10)
	accuracy, loss := make([]float64, rounds+1), make([]float64, rounds+1)
	tr.config.OnModel = func(m Model) {
		var err error
		if accuracy[m.Round], err = Accuracy(m.Parameters, test); err != nil {
			t.Error(err)
		}
		loss[m.Round], _ = m.Loss()
	}
	a := open(t, tr.config)

	var wait sync.WaitGroup
	run := func(group, topic string, owner stream.Owner, sink consumers.Sink) {
		src, err := tr.broker.Open(t.Context(), stream.Subscription{Topic: topic, Group: group, Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			defer src.Close()
			err := consumers.Run(t.Context(), src, sink, consumers.Config{Group: group, Registry: tr.config.Registry})
			if !errors.Is(err, ErrFinished) {
				t.Errorf("%s: %v", group, err)
			}
		})
	}
	run("g", "updates", a, a)
	for i, name := range tr.config.Clients {
		c, err := NewClient(ClientConfig{
			Name: name, Updates: "updates", Publisher: tr.publisher,
			Train: func(_ context.Context, m Model) (Trained, error) {
				return digitsSGD.Answer(m, shares[i])
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		run("client-"+name, "models", nil, c)
	}
	wait.Wait()

	t.Logf("accuracy by round %.3f, of the best client by itself %.3f", accuracy, best)
	if accuracy[rounds] < 0.9 || best > accuracy[rounds]-0.1 {
		t.Errorf("accuracy by round %.3f, of the best client by itself %.3f", accuracy, best)
	}
	// The first model gives each class a tenth.
	if math.Abs(loss[1]-math.Log(10)) > 1e-6 || !(loss[2] < loss[1]/2) || loss[rounds] >= loss[2] {
		t.Errorf("loss that the clients report, by round: %.4f", loss[1:])
	}
	for _, m := range tr.models()[1:] {
		counted := map[string]int64{}
		for _, c := range m.Contributions {
			counted[c.Client] += c.Samples
		}
		want := map[string]int64{}
		for i, share := range shares {
			want[fmt.Sprint("c", i)] = int64(len(share))
		}
		if d := cmp.Diff(want, counted); d != "" {
			t.Errorf("round %d: %s", m.Round, d)
		}
	}
	if again := open(t, tr.config); again.Model().Hash != a.Model().Hash || !again.Model().Final() {
		t.Errorf("opened again, the aggregator is at round %d", again.Model().Round)
	}
}
