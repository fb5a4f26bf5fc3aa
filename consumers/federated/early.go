package federated

import (
	"runtime"
	"sync"
	"sync/atomic"

	"penstock/consumers"
)

// reading is an update that was read beside the model of its round.
type reading struct {
	Update
	meter meter
	err   error
}

// readEarly reads those of the messages that look like updates of the round, on all
// processors, and returns what came of each: nil if judge has to read it, as it does
// those in pieces. What was read is still to be judged. Where it was folded as well, there
// is a bet.
func (a *Aggregator) readEarly(p *part, messages []consumers.Message) (func(i int) *reading, *bet) {
	if b := a.bet(p, messages); b != nil {
		return func(i int) *reading { return b.readings[i] }, b
	}
	return a.readApart(messages), nil
}

func (a *Aggregator) readApart(messages []consumers.Message) func(i int) *reading {
	workers := min(runtime.GOMAXPROCS(0), len(messages))
	if workers < 2 || a.async != nil {
		return func(int) *reading { return nil }
	}
	out := make([]*reading, len(messages))
	var next atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(messages)); i = next.Add(1) - 1 {
				out[i] = a.readOne(messages[i])
			}
		})
	}
	all.Wait()
	return func(i int) *reading { return out[i] }
}

func (a *Aggregator) readOne(m consumers.Message) *reading {
	u, p, err := readHead(m.Data)
	if err != nil || p != nil || u.Round != a.model.Round || u.Base != a.model.Hash || a.arrived[u.Client] {
		return nil
	}
	r := &reading{Update: u, meter: meter{base: a.model.Parameters}}
	r.err = r.read(m.Data, nil, &r.meter)
	return r
}
