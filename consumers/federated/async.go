package federated

import (
	"fmt"

	"penstock/consumers/federated/strategies"
)

// Window is how many models before the newest one updates may be of, where there are no
// rounds (fedbuff): the aggregator holds so many.
const Window = 4

// Reach is how many models the updates after m may be of: m, and where there are no
// rounds those of the Window before it.
func (m Model) Reach() int {
	if s, err := strategies.Parse(m.Strategy); err == nil {
		if _, ok := s.(*strategies.FedBuff); ok {
			return 1 + Window
		}
	}
	return 1
}

// asynchronous is what an aggregator without rounds knows of what came before. Its
// methods may be called on nil, for one with rounds.
type asynchronous struct {
	k      int     // how many updates make a model
	older  []Model // those before the newest one, which updates may be of
	places map[[2]int64]bool
}

// newAsynchronous is nil where s has rounds. The last of models is the newest.
func newAsynchronous(s strategies.Strategy, models []Model) *asynchronous {
	buffer, ok := s.(*strategies.FedBuff)
	if !ok {
		return nil
	}
	older := models[:len(models)-1]
	return &asynchronous{k: int(buffer.K), older: older[max(0, len(older)-Window):]}
}

// follows makes the newest model an older one.
func (a *asynchronous) follows(newest, m Model) {
	if a != nil && newest.Hash != (Hash{}) && newest.Round < m.Round {
		a.older = append(a.older, newest)
		a.older = a.older[max(0, len(a.older)-Window):]
	}
}

// first is the first round whose updates may count beside the newest model's: that one
// itself where there are rounds.
func (a *asynchronous) first(newest int64) int64 {
	if a == nil {
		return newest
	}
	return newest - Window
}

// model is the older one of a round, or nil.
func (a *asynchronous) model(round int64) *Model {
	if a == nil {
		return nil
	}
	for i := range a.older {
		if a.older[i].Round == round {
			return &a.older[i]
		}
	}
	return nil
}

// mark is what can count once: a client in the round, or in what it was trained from.
func (a *asynchronous) mark(client string, round int64) string {
	if a == nil {
		return client
	}
	return fmt.Sprintf("%d %s", round, client)
}

// counted marks the updates that m and the models before it are made of.
func (a *asynchronous) counted(m Model, marks map[string]bool) {
	if a == nil {
		return
	}
	a.places = map[[2]int64]bool{}
	for _, m := range append(a.older[:len(a.older):len(a.older)], m) {
		for _, c := range m.Contributions {
			marks[a.mark(c.Client, m.Round-1-c.Stale)] = true
			a.places[[2]int64{int64(c.Partition), c.Offset}] = true
		}
	}
}

// knows says that the update at a place is counted, and lies behind where one begins
// that is not.
func (a *asynchronous) knows(partition int32, offset int64) bool {
	return a != nil && a.places[[2]int64{int64(partition), offset}]
}

// room is how many updates the next model lacks; below 0 is any number.
func (a *asynchronous) room(parts map[int32]*part) int {
	if a == nil {
		return -1
	}
	n := a.k
	for _, p := range parts {
		n -= len(p.counted)
	}
	return max(0, n)
}

// differ is by what tensors differ from base.
func differ(tensors, base []Tensor) []Tensor {
	out := make([]Tensor, len(tensors))
	for i, t := range tensors {
		values := make([]float32, len(t.Values))
		for j, v := range t.Values {
			values[j] = v - base[i].Values[j]
		}
		out[i] = Tensor{Name: t.Name, Shape: t.Shape, Values: values}
	}
	return out
}
