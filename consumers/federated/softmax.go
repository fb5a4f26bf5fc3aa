package federated

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
)

// Example is what a classifier learns from: features, and the class they
// belong to.
type Example struct {
	Features []float32
	Class    int
}

// NewSoftmax returns the parameters of an untrained softmax classifier (linear
// scores, one a class; multinomial logistic regression): "weight" of shape
// [classes, features] and "bias" of shape [classes], all zero.
func NewSoftmax(features, classes int) []Tensor {
	return []Tensor{
		{Name: "weight", Shape: []int{classes, features}, Values: make([]float32, classes*features)},
		{Name: "bias", Shape: []int{classes}, Values: make([]float32, classes)},
	}
}

// SGD trains by plain stochastic gradient descent on the cross-entropy.
type SGD struct {
	Epochs int     // passes over the examples
	Batch  int     // examples a step
	Rate   float32 // the learning rate
	Seed   uint64  // of the order in which the examples are taken
}

// Train returns what parameters become on the examples, and leaves parameters
// as they are. On one kind of processor, the same input gives the same bits.
func (s SGD) Train(parameters []Tensor, examples []Example) ([]Tensor, error) {
	m, err := softmaxOf(parameters)
	if err != nil {
		return nil, err
	}
	if err := m.check(examples); err != nil {
		return nil, err
	}
	m = softmax{
		features: m.features, classes: m.classes,
		weight: append([]float32(nil), m.weight...),
		bias:   append([]float32(nil), m.bias...),
	}
	random := rand.New(rand.NewPCG(s.Seed, 0))
	scores := make([]float32, m.classes)
	step := softmax{features: m.features, classes: m.classes, weight: make([]float32, len(m.weight)), bias: make([]float32, len(m.bias))}
	for range s.Epochs {
		order := random.Perm(len(examples))
		for len(order) > 0 {
			n := min(max(s.Batch, 1), len(order))
			clear(step.weight)
			clear(step.bias)
			for _, i := range order[:n] {
				e := examples[i]
				m.probabilities(scores, e.Features)
				scores[e.Class]--
				for c, g := range scores {
					step.bias[c] += g
					row := step.weight[c*m.features:][:m.features]
					for j, x := range e.Features {
						row[j] += float32(g * x) // the conversion keeps the product from being fused
					}
				}
			}
			rate := s.Rate / float32(n)
			for i, g := range step.weight {
				m.weight[i] -= float32(rate * g)
			}
			for i, g := range step.bias {
				m.bias[i] -= float32(rate * g)
			}
			order = order[n:]
		}
	}
	return []Tensor{
		{Name: "weight", Shape: []int{m.classes, m.features}, Values: m.weight},
		{Name: "bias", Shape: []int{m.classes}, Values: m.bias},
	}, nil
}

// Answer is what a client with these examples makes of a model, whose round is the
// seed, and what it reports.
func (s SGD) Answer(m Model, examples []Example) (t Trained, err error) {
	s.Seed = uint64(m.Round)
	if t.Parameters, err = s.Train(m.Parameters, examples); err != nil {
		return t, err
	}
	batch := max(s.Batch, 1)
	t.Samples, t.Steps = int64(len(examples)), int64(s.Epochs*((len(examples)+batch-1)/batch))
	t.Loss, err = loss(m.Parameters, examples)
	return t, err
}

// loss is the mean cross-entropy of a softmax classifier.
func loss(parameters []Tensor, examples []Example) (mean float64, err error) {
	m, err := softmaxOf(parameters)
	if err != nil {
		return 0, err
	}
	scores := make([]float32, m.classes)
	for _, e := range examples {
		highest := m.scores(scores, e.Features)
		total := 0.0
		for _, score := range scores {
			total += math.Exp(float64(score - highest))
		}
		mean += (math.Log(total) - float64(scores[e.Class]-highest)) / float64(len(examples))
	}
	return mean, nil
}

// Accuracy is the share of the examples that a softmax classifier puts into
// their class.
func Accuracy(parameters []Tensor, examples []Example) (float64, error) {
	m, err := softmaxOf(parameters)
	if err != nil {
		return 0, err
	}
	if err := m.check(examples); err != nil {
		return 0, err
	}
	scores := make([]float32, m.classes)
	right := 0
	for _, e := range examples {
		m.probabilities(scores, e.Features)
		best := 0
		for c, p := range scores {
			if p > scores[best] {
				best = c
			}
		}
		if best == e.Class {
			right++
		}
	}
	return float64(right) / float64(len(examples)), nil
}

type softmax struct {
	features, classes int
	weight, bias      []float32
}

func softmaxOf(parameters []Tensor) (softmax, error) {
	if len(parameters) == 2 && len(parameters[0].Shape) == 2 {
		classes, features := parameters[0].Shape[0], parameters[0].Shape[1]
		if sameShape(parameters, NewSoftmax(features, classes)) == nil {
			return softmax{features, classes, parameters[0].Values, parameters[1].Values}, nil
		}
	}
	return softmax{}, errors.New("expected the parameters of a softmax classifier: weight [classes, features] and bias [classes]")
}

func (m softmax) check(examples []Example) error {
	if len(examples) == 0 {
		return errors.New("there are no examples")
	}
	for i, e := range examples {
		if len(e.Features) != m.features || e.Class < 0 || e.Class >= m.classes {
			return fmt.Errorf("example %d: expected %d features and a class below %d, found %d and class %d",
				i, m.features, m.classes, len(e.Features), e.Class)
		}
	}
	return nil
}

// scores sets p to the score of each class, and returns the highest.
func (m softmax) scores(p, x []float32) float32 {
	highest := float32(math.Inf(-1))
	for c := range p {
		score := m.bias[c]
		row := m.weight[c*m.features:][:m.features]
		for j, v := range x {
			score += float32(row[j] * v)
		}
		p[c] = score
		highest = max(highest, score)
	}
	return highest
}

// probabilities sets p to the probability of each class.
func (m softmax) probabilities(p, x []float32) {
	highest := m.scores(p, x)
	var total float32
	for c, score := range p {
		p[c] = float32(math.Exp(float64(score - highest)))
		total += p[c]
	}
	for c := range p {
		p[c] /= total
	}
}

// Split holds back a fifth of the examples as a test set, of each fifty the first ten,
// and deals the others out to n clients, unevenly in number and in kind: each client has three
// classes of ten that it gets most of its examples from. The same seed gives
// the same split.
func Split(examples []Example, n int, seed uint64) (shares [][]Example, test []Example) {
	random := rand.New(rand.NewPCG(seed, 1))
	size := make([]float64, n)
	for i := range size {
		size[i] = 0.5 + 2*random.Float64()
	}
	shares = make([][]Example, n)
	weights := make([]float64, n)
	for _, i := range random.Perm(len(examples)) {
		e := examples[i]
		if i/10%5 == 0 {
			test = append(test, e)
			continue
		}
		var total float64
		for c := range weights {
			weights[c] = size[c]
			switch (e.Class - c%10 + 10) % 10 {
			case 0, 1, 4:
				weights[c] *= 30
			}
			total += weights[c]
		}
		pick, c := random.Float64()*total, 0
		for c < n-1 && pick >= weights[c] {
			pick -= weights[c]
			c++
		}
		shares[c] = append(shares[c], e)
	}
	return shares, test
}
