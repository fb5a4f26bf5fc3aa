package strategies

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// matrix are updates in memory.
type matrix struct {
	rows    [][]float64
	samples []float64
}

func (m matrix) Len() int { return len(m.rows) }

func (m matrix) Dim() int { return len(m.rows[0]) }

func (m matrix) Samples(i int) float64 { return m.samples[i] }

func (m matrix) Read(i, from int, dst []float64) error {
	copy(dst, m.rows[i][from:])
	return nil
}

type vectorCase struct {
	DType  string             `json:"dtype"`
	Params map[string]float64 `json:"params"`
	Which  string             `json:"strategy"`

	Initial      []float64   `json:"initial_global"`
	Rounds       []vectors   `json:"rounds"`
	Clients      [][]float64 `json:"client_params"`
	Samples      []float64   `json:"num_examples"`
	Losses       []float64   `json:"train_loss"`
	Expected     []float64   `json:"expected_global"`
	Legacy       []float64   `json:"expected_global_legacy_iterative"`
	Algorithm    string      `json:"algorithm"`
	K            float64     `json:"K"`
	Rate         float64     `json:"server_lr"`
	Staleness    string      `json:"staleness"`
	InitialModel []float64   `json:"initial"`
	Events       []struct {
		Staleness float64   `json:"staleness"`
		Delta     []float64 `json:"delta"`
	} `json:"events"`
	Models []struct {
		After int       `json:"after_event"`
		Model []float64 `json:"model"`
	} `json:"models"`
	Steps      json.RawMessage `json:"local_steps"`
	Global     []float64       `json:"global_"`
	Moved      [][]float64     `json:"x_minus_xi"`
	Result     []float64       `json:"expected"`
	Total      float64         `json:"total_clients"`
	EtaL       float64         `json:"eta_l"`
	EtaG       float64         `json:"eta_g"`
	X, C       []float64
	Y          [][]float64 `json:"y_i"`
	Controls   [][]float64 `json:"c_i"`
	Controls2  [][]float64 `json:"expected_c_i_new"`
	ExpectedX  []float64   `json:"expected_x"`
	ExpectedC  []float64   `json:"expected_c"`
	Points     [][]float64 `json:"points"`
	ExactPick  int         `json:"exact_choice"`
	Malicious  float64     `json:"num_malicious"`
	Distances  [][]float64 `json:"exact_distances"`
	FlowerPick []int       `json:"flwr_choice"`
}

type vectors struct {
	Clients  [][]float64 `json:"client_params"`
	Samples  []float64   `json:"num_examples"`
	Expected []float64   `json:"expected_global"`
	Momentum []float64   `json:"momentum"`
	M        []float64   `json:"m_t"`
	V        []float64   `json:"v_t"`
}

// eachCase calls fn with the cases of a file: the few in testdata, and all
// where the whole collection lies beside the repository.
func eachCase(t *testing.T, name string, fn func(t *testing.T, c vectorCase)) {
	t.Helper()
	for _, dir := range []string{"testdata", "../../../../shared/data/federated"} {
		text, err := os.ReadFile(filepath.Join(dir, name+".json"))
		if err != nil && dir != "testdata" {
			t.Logf("only the vectors in testdata: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			Cases []json.RawMessage `json:"cases"`
		}
		if err := json.Unmarshal(text, &file); err != nil {
			t.Fatal(err)
		}
		if file.Cases == nil {
			file.Cases = []json.RawMessage{text}
		}
		for i, raw := range file.Cases {
			var c vectorCase
			if err := json.Unmarshal(raw, &c); err != nil {
				t.Fatalf("%s case %d: %v", name, i, err)
			}
			t.Run(name, func(t *testing.T) { fn(t, c) })
		}
	}
}

// near compares with the tolerance of the vectors: 1e-12 where they were
// computed in float64, and 3e-6 of the value in float32.
func (c vectorCase) near(t *testing.T, what string, got, want []float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: expected %d values, found %d", what, len(want), len(got))
	}
	for i := range want {
		tolerance := 1e-12
		if c.DType == "float32" {
			tolerance = 3e-6 * max(1, math.Abs(want[i]))
		}
		if !(math.Abs(got[i]-want[i]) <= tolerance) {
			t.Errorf("%s[%d]: expected %v, found %v", what, i, want[i], got[i])
		}
	}
}

func (c vectorCase) set(to *float64, name string) {
	if v, ok := c.Params[name]; ok {
		*to = v
	}
}

func reports(samples []float64) []Report {
	out := make([]Report, len(samples))
	for i, n := range samples {
		out[i].Samples = n
	}
	return out
}

// Several rounds of the strategies that are a mean and a step, their state
// included.
func TestServerOptimisers(t *testing.T) {
	for name, build := range map[string]func(c vectorCase) Linear{
		"fedavg":  func(vectorCase) Linear { return FedAvg{} },
		"fedprox": func(c vectorCase) Linear { return &FedProx{Mu: c.Params["proximal_mu"]} },
		"fedavgm": func(c vectorCase) Linear {
			return &FedAvgM{Rate: c.Params["server_learning_rate"], Momentum: c.Params["server_momentum"]}
		},
		"fedadagrad": func(c vectorCase) Linear { return adaptive(c, NewFedAdagrad(Flower)) },
		"fedadam":    func(c vectorCase) Linear { return adaptive(c, NewFedAdam(Flower)) },
		"fedyogi":    func(c vectorCase) Linear { return adaptive(c, NewFedYogi(Flower)) },
	} {
		eachCase(t, name, func(t *testing.T, c vectorCase) {
			s, model, state := build(c), c.Initial, State{}
			for _, r := range c.Rounds {
				state = state.Clone() // as a checkpoint would
				if err := Fold(s, model, matrix{r.Clients, r.Samples}, reports(r.Samples), state); err != nil {
					t.Fatal(err)
				}
				c.near(t, "model", model, r.Expected)
				if r.Momentum != nil {
					c.near(t, "momentum", state["momentum"], r.Momentum)
				}
				if r.M != nil {
					c.near(t, "m", state["m"], r.M)
					c.near(t, "v", state["v"], r.V)
				}
			}
		})
	}
}

func adaptive(c vectorCase, s *Adaptive) Linear {
	c.set(&s.Eta, "eta")
	c.set(&s.Tau, "tau")
	if s.kind != "fedadagrad" {
		c.set(&s.Beta1, "beta_1")
		c.set(&s.Beta2, "beta_2")
	}
	return s
}

func TestQFedAvg(t *testing.T) {
	eachCase(t, "qfedavg", func(t *testing.T, c vectorCase) {
		rs := make([]Report, len(c.Losses))
		for i, loss := range c.Losses {
			rs[i] = Report{Samples: 1, Loss: loss}
		}
		s := &QFedAvg{Q: c.Params["q"], Rate: c.Params["client_learning_rate"]}
		if err := Fold(s, c.Initial, matrix{rows: c.Clients}, rs, State{}); err != nil {
			t.Fatal(err)
		}
		c.near(t, "model", c.Initial, c.Expected)
	})
}

func TestRobust(t *testing.T) {
	check := func(t *testing.T, c vectorCase, s Robust, want []float64) {
		t.Helper()
		samples := c.Samples
		if samples == nil {
			samples = make([]float64, len(c.Clients))
		}
		got, err := s.Combine(matrix{c.Clients, samples})
		if err != nil {
			t.Fatal(err)
		}
		c.near(t, s.String(), got, want)
	}
	eachCase(t, "fedmedian", func(t *testing.T, c vectorCase) { check(t, c, Median{}, c.Expected) })
	eachCase(t, "fedtrimmedavg", func(t *testing.T, c vectorCase) {
		s := NewTrimmedMean()
		c.set(&s.Share, "beta")
		check(t, c, s, c.Expected)
	})
	eachCase(t, "krum", func(t *testing.T, c vectorCase) {
		s := &Krum{Byzantine: c.Params["num_malicious_nodes"], Select: 1}
		if c.Which == "MultiKrum" {
			c.set(&s.Select, "num_nodes_to_select")
		}
		check(t, c, s, c.Expected)
	})
	eachCase(t, "bulyan", func(t *testing.T, c vectorCase) {
		f := c.Params["num_malicious_nodes"]
		check(t, c, &Bulyan{Variant: Flower, Byzantine: f}, c.Expected)
		check(t, c, &Bulyan{Byzantine: f}, c.Legacy)
	})
}

// Where float32 products cancel, Krum still finds the middle.
func TestKrumCancellation(t *testing.T) {
	eachCase(t, "krum_cancellation", func(t *testing.T, c vectorCase) {
		ones := make([]float64, len(c.Clients))
		for i := range ones {
			ones[i] = 1
		}
		m := matrix{c.Clients, ones}
		between, err := distances(m)
		if err != nil {
			t.Fatal(err)
		}
		for i, row := range between {
			for j, d := range row {
				if math.Abs(d-c.Distances[i][j]) > 1e-9 {
					t.Errorf("distance %d to %d: expected %v, found %v", i, j, c.Distances[i][j], d)
				}
			}
		}
		got, err := (&Krum{Byzantine: c.Malicious, Select: 1}).Combine(m)
		if err != nil {
			t.Fatal(err)
		}
		c.near(t, "model", got, c.Clients[c.ExactPick])
		if len(c.FlowerPick) == 0 || c.FlowerPick[0] == c.ExactPick {
			t.Error("the vector shows nothing: the library that it is about chose right")
		}
	})
}

func TestFormulas(t *testing.T) {
	seen := map[string]int{}
	eachCase(t, "formula_reference", func(t *testing.T, c vectorCase) {
		seen[c.Algorithm]++
		switch {
		case c.Algorithm == "FedBuff":
			s := &FedBuff{K: c.K, Rate: c.Rate}
			if c.Staleness != "1" {
				s.Discount = 1
			}
			model, next := c.InitialModel, 0
			var rows [][]float64
			var rs []Report
			for i, e := range c.Events {
				rows, rs = append(rows, e.Delta), append(rs, Report{Samples: 1, Staleness: e.Staleness})
				if next < len(c.Models) && c.Models[next].After == i {
					if err := Fold(s, model, matrix{rows: rows}, rs, State{}); err != nil {
						t.Fatal(err)
					}
					c.near(t, "model", model, c.Models[next].Model)
					rows, rs, next = nil, nil, next+1
				}
			}
			if next != len(c.Models) {
				t.Errorf("expected %d models, found %d", len(c.Models), next)
			}
		case len(c.Moved) > 0: // FedNova
			var steps []float64
			if err := json.Unmarshal(c.Steps, &steps); err != nil {
				t.Fatal(err)
			}
			rs := reports(c.Samples)
			for i, d := range c.Moved {
				rs[i].Steps = steps[i]
				for j := range d {
					d[j] = c.Global[j] - d[j]
				}
			}
			if err := Fold(FedNova{}, c.Global, matrix{rows: c.Moved}, rs, State{}); err != nil {
				t.Fatal(err)
			}
			c.near(t, "model", c.Global, c.Result)
		case len(c.Y) > 0: // SCAFFOLD
			var steps float64
			if err := json.Unmarshal(c.Steps, &steps); err != nil {
				t.Fatal(err)
			}
			var rows [][]float64
			for i, y := range c.Y {
				next := ClientControl(c.Controls[i], c.C, c.X, y, steps, c.EtaL)
				c.near(t, "control", next, c.Controls2[i])
				row := append([]float64(nil), y...)
				for j := range next {
					row = append(row, next[j]-c.Controls[i][j])
				}
				rows = append(rows, row)
			}
			model := append(append([]float64(nil), c.X...), c.C...)
			s := &Scaffold{Rate: c.EtaG, Clients: c.Total}
			if err := Fold(s, model, matrix{rows: rows}, make([]Report, len(rows)), State{}); err != nil {
				t.Fatal(err)
			}
			c.near(t, "model and control", model, append(c.ExpectedX, c.ExpectedC...))
		case len(c.Points) > 0: // geometric median
			got, err := NewGeometricMedian().Combine(matrix{rows: c.Points})
			if err != nil {
				t.Fatal(err)
			}
			for i := range got { // the reference stopped at this distance from the point
				if math.Abs(got[i]-c.Result[i]) > 1e-8 {
					t.Errorf("[%d]: expected %v, found %v", i, c.Result[i], got[i])
				}
			}
		}
	})
	if len(seen) < 4 {
		t.Errorf("expected FedBuff, FedNova, SCAFFOLD and the geometric median, found %v", seen)
	}
}
