package strategies

import (
	"errors"
	"fmt"
	"math"
)

// bySamples is the weight of most strategies.
type bySamples struct{}

// Weigh implements Linear.
func (bySamples) Weigh(r Report) (weight, scalar float64, err error) { return r.Samples, 0, nil }

// mean makes sum the mean.
func mean(sum []float64, t Totals) {
	for i := range sum {
		sum[i] /= t.Weight
	}
}

// Elementwise is a Linear without a State, whose Step makes each element of the model of
// the same one and that of the sum: it may be called for some elements after the others.
type Elementwise interface {
	Linear
	elementwise()
}

// apart makes a Linear an Elementwise.
type apart struct{}

func (apart) elementwise() {}

// FedAvg is the mean weighted by samples (McMahan et al., 2017).
type FedAvg struct {
	bySamples
	apart
}

func (FedAvg) String() string { return "fedavg" }

// Step implements Linear.
func (FedAvg) Step(model, sum []float64, t Totals, _ State) {
	if t.Updates > 0 {
		mean(sum, t)
		copy(model, sum)
	}
}

// FedProx is FedAvg, whose clients add Mu/2 times the squared distance to the
// global model to their loss (Li et al., 2020).
type FedProx struct {
	FedAvg
	Mu float64
}

func (s *FedProx) parameters() []parameter { return []parameter{{"mu", &s.Mu, 0, inf}} }

func (s *FedProx) String() string { return spell("fedprox", s.parameters()) }

// FedAvgM is FedAvg with momentum at the server (Hsu et al., 2019).
type FedAvgM struct {
	bySamples
	Rate, Momentum float64
}

// NewFedAvgM returns one of rate 1 without momentum, which is FedAvg.
func NewFedAvgM() *FedAvgM { return &FedAvgM{Rate: 1} }

func (s *FedAvgM) parameters() []parameter {
	return []parameter{{"rate", &s.Rate, open, inf}, {"momentum", &s.Momentum, 0, 1}}
}

func (s *FedAvgM) String() string { return spell("fedavgm", s.parameters()) }

// Step implements Linear. Its state is "momentum".
func (s *FedAvgM) Step(model, sum []float64, t Totals, state State) {
	if t.Updates == 0 {
		return
	}
	mean(sum, t)
	momentum := state.vector("momentum", len(model), 0)
	for i, x := range model {
		momentum[i] = float64(s.Momentum*momentum[i]) + (x - sum[i])
		model[i] = x - float64(s.Rate*momentum[i])
	}
}

// Variant tells apart what one name means in two places.
type Variant string

// The variants.
const (
	// Paper is the algorithm as it was published.
	Paper Variant = "paper"
	// Flower is what Flower 1.41 computes.
	Flower Variant = "flower"
)

// Adaptive is one of the adaptive server optimisers of Reddi et al. (2020). The
// second moment starts at Tau squared in the paper and at 0 in Flower, whose
// FedAdam moreover corrects the rate for the bias of the moments.
type Adaptive struct {
	bySamples
	Variant                Variant
	Eta, Beta1, Beta2, Tau float64
	kind                   string // fedadagrad, fedadam or fedyogi
}

// NewFedAdagrad returns the FedAdagrad of a variant. It has no betas.
func NewFedAdagrad(v Variant) *Adaptive {
	return &Adaptive{Variant: v, kind: "fedadagrad", Eta: 0.1, Tau: 1e-3}
}

// NewFedAdam returns the FedAdam of a variant.
func NewFedAdam(v Variant) *Adaptive {
	return &Adaptive{Variant: v, kind: "fedadam", Eta: 0.1, Beta1: 0.9, Beta2: 0.99, Tau: 1e-3}
}

// NewFedYogi returns the FedYogi of a variant.
func NewFedYogi(v Variant) *Adaptive {
	return &Adaptive{Variant: v, kind: "fedyogi", Eta: 0.01, Beta1: 0.9, Beta2: 0.99, Tau: 1e-3}
}

func (s *Adaptive) parameters() []parameter {
	p := []parameter{{"eta", &s.Eta, open, inf}, {"tau", &s.Tau, open, inf}}
	if s.kind != "fedadagrad" {
		p = append(p, parameter{"beta1", &s.Beta1, 0, 1}, parameter{"beta2", &s.Beta2, 0, 1})
	}
	return p
}

func (s *Adaptive) String() string {
	name := s.kind
	if s.Variant == Flower {
		name = "flower-" + name
	}
	return spell(name, s.parameters())
}

// Step implements Linear. Its state is "m", "v", and the number of steps, "t".
func (s *Adaptive) Step(model, sum []float64, t Totals, state State) {
	if t.Updates == 0 {
		return
	}
	mean(sum, t)
	initial := s.Tau * s.Tau
	eta := s.Eta
	steps := state.vector("t", 1, 0)
	steps[0]++
	if s.Variant == Flower {
		initial = 0
		if s.kind == "fedadam" {
			eta *= math.Sqrt(1-math.Pow(s.Beta2, steps[0]+1)) / (1 - math.Pow(s.Beta1, steps[0]+1))
		}
	}
	m, v := state.vector("m", len(model), 0), state.vector("v", len(model), initial)
	for i, x := range model {
		d := sum[i] - x
		m[i] = float64(s.Beta1*m[i]) + float64((1-s.Beta1)*d)
		square := float64(d * d)
		switch s.kind {
		case "fedadagrad":
			v[i] += square
		case "fedadam":
			v[i] = float64(s.Beta2*v[i]) + float64((1-s.Beta2)*square)
		case "fedyogi":
			switch {
			case v[i] > square:
				v[i] -= float64((1 - s.Beta2) * square)
			case v[i] < square:
				v[i] += float64((1 - s.Beta2) * square)
			}
		}
		model[i] = x + eta*m[i]/(math.Sqrt(v[i])+s.Tau)
	}
}

// QFedAvg gives more weight to clients that the model serves badly (Li et al.,
// 2020). Q 0 is the mean without weights; Rate is that of the clients.
type QFedAvg struct {
	apart
	Q, Rate float64
}

// NewQFedAvg returns one with q and rate 0.1.
func NewQFedAvg() *QFedAvg { return &QFedAvg{Q: 0.1, Rate: 0.1} }

func (s *QFedAvg) parameters() []parameter {
	return []parameter{{"q", &s.Q, 0, inf}, {"rate", &s.Rate, open, inf}}
}

func (s *QFedAvg) String() string { return spell("qfedavg", s.parameters()) }

// Weigh implements Linear. It needs Loss and Distance.
func (s *QFedAvg) Weigh(r Report) (weight, scalar float64, err error) {
	if !(r.Loss >= 0) || math.IsInf(r.Loss, 1) {
		return 0, 0, errors.New("expected a loss of 0 or more")
	}
	loss := r.Loss + 1e-10 // as Flower has it: a loss of 0 has no power below 0
	weight = math.Pow(loss, s.Q)
	distance := r.Distance / s.Rate
	scalar = s.Q*math.Pow(loss, s.Q-1)*distance*distance + weight/s.Rate
	// Sums of many such, times any float32, are finite.
	if !(weight > 0 && weight < 1e200 && scalar < 1e250) {
		return 0, 0, fmt.Errorf("expected a loss whose power %v is above 0 and below 1e200, found %v and %v", s.Q, r.Loss, weight)
	}
	return weight, scalar, nil
}

// Step implements Linear.
func (s *QFedAvg) Step(model, sum []float64, t Totals, _ State) {
	if t.Updates == 0 {
		return
	}
	for i, x := range model {
		model[i] = x - float64((float64(t.Weight*x)-sum[i])/s.Rate)/t.Scalar
	}
}

// FedNova takes out the advantage of clients that took more steps (Wang et al.,
// 2020), for plain gradient descent.
type FedNova struct{ apart }

func (FedNova) String() string { return "fednova" }

// maxSteps is more than any training takes: what others did in one step counts as
// often, so that the largest number of steps is what one client can do to all.
const maxSteps = 1 << 30

// Weigh implements Linear. It needs Steps.
func (FedNova) Weigh(r Report) (weight, scalar float64, err error) {
	if !(r.Steps >= 1 && r.Steps <= maxSteps) {
		return 0, 0, fmt.Errorf("expected from 1 to %d steps, found %v", maxSteps, r.Steps)
	}
	return r.Samples / r.Steps, r.Samples * r.Steps, nil
}

// Step implements Linear. It stays within what float32 holds, as means do: no client can
// end a training by what it says of its steps.
func (FedNova) Step(model, sum []float64, t Totals, _ State) {
	if t.Updates == 0 {
		return
	}
	effective := t.Scalar / t.Samples / t.Samples
	for i, x := range model {
		next := x - float64(effective*(float64(t.Weight*x)-sum[i]))
		model[i] = max(-math.MaxFloat32, min(math.MaxFloat32, next))
	}
}

// Scaffold corrects the drift of clients by control variates (Karimireddy et
// al., 2020). The first half of the model is the parameters and the second the
// server's control; an update is the client's parameters and by how much its
// own control changed, see ClientControl. Clients is how many there are in all;
// 0 means as many as answer.
type Scaffold struct{ Rate, Clients float64 }

func (s *Scaffold) parameters() []parameter {
	return []parameter{{"rate", &s.Rate, open, inf}, {"clients", &s.Clients, 0, 1 << 40}}
}

func (s *Scaffold) String() string { return spell("scaffold", s.parameters()) }

// Weigh implements Linear: all count alike.
func (s *Scaffold) Weigh(Report) (weight, scalar float64, err error) { return 1, 0, nil }

// Step implements Linear.
func (s *Scaffold) Step(model, sum []float64, t Totals, _ State) {
	if t.Updates == 0 {
		return
	}
	n := float64(t.Updates)
	half := len(model) / 2
	for i, x := range model[:half] {
		model[i] = x + s.Rate*(sum[i]/n-x)
	}
	clients := max(s.Clients, n)
	for i := half; i < len(model); i++ {
		model[i] += sum[i] / clients
	}
}

// ClientControl is a client's next control variate (option II of the paper):
// own and server are the two controls it trained with, from and to the
// parameters before and after, in so many steps at that rate.
func ClientControl(own, server, from, to []float64, steps, rate float64) []float64 {
	next := make([]float64, len(own))
	for i := range own {
		next[i] = own[i] - server[i] + (from[i]-to[i])/(steps*rate)
	}
	return next
}

// FedBuff makes a model of every K updates, whichever model they started from;
// those of older models count less (Nguyen et al., 2022). Its updates are by how
// much the client moved from its own base. Discount 1 divides by the root of
// 1 + staleness, and 0 does not.
type FedBuff struct{ K, Rate, Discount float64 }

// NewFedBuff returns one of 10 updates a model, rate 1, with the discount.
func NewFedBuff() *FedBuff { return &FedBuff{K: 10, Rate: 1, Discount: 1} }

func (s *FedBuff) parameters() []parameter {
	return []parameter{{"k", &s.K, 1, 1 << 20}, {"rate", &s.Rate, open, inf}, {"discount", &s.Discount, 0, 1}}
}

func (s *FedBuff) String() string { return spell("fedbuff", s.parameters()) }

// Weigh implements Linear. It needs Staleness.
func (s *FedBuff) Weigh(r Report) (weight, scalar float64, err error) {
	if !(r.Staleness >= 0) {
		return 0, 0, errors.New("expected a staleness of 0 or more")
	}
	return math.Pow(1+r.Staleness, -s.Discount/2), 0, nil
}

// Step implements Linear.
func (s *FedBuff) Step(model, sum []float64, t Totals, _ State) {
	for i := range model {
		model[i] += s.Rate / s.K * sum[i]
	}
}
