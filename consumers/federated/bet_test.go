package federated

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"penstock/consumers"
	"penstock/consumers/federated/strategies"
	"penstock/stream"
)

// Updates that are folded before they are judged make the model that they make one by
// one, whatever is wrong with one of them, and in the memory of the round before.
func TestBet(t *testing.T) {
	half, err := ParseCompression("fp16")
	if err != nil {
		t.Fatal(err)
	}
	faults := []Reason{"none", Malformed, NotFinite, OverNorm, Duplicate, "packed"}
	for _, strategy := range []string{"fedavg", "fednova", "qfedavg", "fedadam"} {
		tr := newTraining(t, 9, int64(2*len(faults)))
		tr.config.Strategy, tr.config.MaxNorm = strategy, 1e6
		a := open(t, tr.config)
		claim(t, a)
		p := a.parts[0]
		next, log := int64(0), map[int64]Update{}
		for i := range 2 * len(faults) {
			why, base := faults[i%len(faults)], a.Model()
			faulty := func() map[string]any {
				u := updateOf("c2", base)
				switch why {
				case OverNorm:
					u.Parameters[1].Values[0] = 1e9
				case Duplicate:
					u = updateOf("c1", base)
				case "packed":
					if u.Parameters, err = half.pack(u.Parameters, base.Parameters); err != nil {
						t.Fatal(err)
					}
				}
				return lie(u, why)
			}
			batch := func(values ...map[string]any) consumers.Batch {
				b := consumers.Batch{Topic: "updates", First: next, Next: next + int64(len(values))}
				for _, v := range values {
					client, _ := v["client"].(string)
					m := message(t, tr.publisher.registry, client, v)
					fields, _ := m.Data.(map[string]any)
					list, _ := fields["parameters"].([]any)
					for _, v := range list {
						tensor, _ := v.(map[string]any)
						data, _ := tensor["data"].([]byte)
						tensor["data"] = bytes.Clone(data) // where float32 may lie
					}
					log[next], _ = ReadUpdate(m.Data) // nothing where it is not to count
					m.Offset = next
					b.Messages = append(b.Messages, m)
					next++
				}
				return b
			}
			good := func(n int) map[string]any { return updateOf(fmt.Sprint("c", n), base).value() }

			b := batch(good(0), good(1), faulty(), good(3), good(4))
			err := a.Write(t.Context(), b)
			if bad, ok := errors.AsType[*stream.BatchError](err); ok {
				if len(bad.Errs) != 1 || bad.Errs[2] == nil || p.sum != nil {
					t.Fatalf("%s, %s: expected one refusal and no sum yet, found %v", strategy, why, err)
				}
				b.Messages = append(b.Messages[:2:2], b.Messages[3:]...)
				err = a.Write(t.Context(), b)
			}
			if won := why != "packed"; err != nil || p.bets != won || p.spent {
				t.Fatalf("%s, %s: expected a bet that is won: %v, found %v, %v", strategy, why, won, p.bets, err)
			}
			rest := []map[string]any{good(5), good(6), good(7), good(8)}
			if len(p.counted) == 4 {
				rest = append(rest, good(2))
			}
			for _, b := range []consumers.Batch{batch(rest[:1]...), batch(rest[1:]...)} {
				if err := a.Write(t.Context(), b); err != nil && !errors.Is(err, ErrFinished) {
					t.Fatalf("%s, %s: %v", strategy, why, err)
				}
			}
			after := a.Model()
			if n := len(after.Contributions); n != 9 {
				t.Fatalf("%s, %s: expected 9 updates, found %d", strategy, why, n)
			}
			if err := Recompute(base, after, nil, func(c Contribution) (Update, error) { return log[c.Offset], nil }); err != nil {
				t.Fatalf("%s, %s: %v", strategy, why, err)
			}
			if n := len(p.spare); n < 1 || n > 2 {
				t.Fatalf("%s, %s: expected memory for one or two sums that is used again, found %d", strategy, why, n)
			}
		}
	}
}

// A step that processors share makes the model of one, and names the same fault.
func TestStepIsShared(t *testing.T) {
	const n = 2*stepAlone + 13
	base := Model{Parameters: []Tensor{{Name: "w", Shape: []int{n}, Values: make([]float32, n)}, {Name: "b", Shape: []int{3}, Values: make([]float32, 3)}}}
	run := func(processors int, huge ...int) (Hash, error) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
		p := &partial{}
		p.begin(base)
		for i := range p.sum[0] {
			p.sum[0][i] = float64(i%1013) / 7
		}
		for _, i := range huge {
			p.sum[0][i] = 1e300
		}
		p.totals.Add(strategies.Report{Samples: 3}, 3, 0)
		next, err := step(base, strategies.FedAvg{}, []*partial{p}, nil)
		return next.Hash, err
	}
	want, err1 := run(1)
	got, err2 := run(3)
	if got != want || err1 != nil || err2 != nil {
		t.Errorf("expected the model %v, found %v, %v, %v", want, got, err1, err2)
	}
	if _, err := run(3, n-1, 70_001, 70_000); err == nil || !strings.Contains(err.Error(), `in element 70000 of "w"`) {
		t.Errorf("expected the first fault of three, found %v", err)
	}
}
