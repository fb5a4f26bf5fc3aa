package secagg

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// must be tested: client restart mid-round; aggregator killed at each step then
// replay gives the same bytes

// logOf is everything on the log.
func (w *world) logOf() (all [][]byte) {
	for _, m := range w.records {
		all = append(all, append(m.signed(), m.Signature...), m.Payload)
	}
	for _, stage := range clientStages {
		for _, m := range w.sent[stage] {
			all = append(all, append(m.signed(), m.Signature...), m.Payload)
		}
	}
	return all
}

// Both sides are started again before each step: the log and the sum are those of
// a run without a stop.
func TestRestartsChangeNothing(t *testing.T) {
	d := drops{2: Masked}
	calm, killed := newWorld(t, 5, 5), newWorld(t, 5, 5)
	killed.restart = true
	want, err := calm.run(d)
	if err != nil {
		t.Fatal(err)
	}
	killed.mustSum(d)
	if !slices.Equal(killed.server.sum, want) {
		t.Error("the sums differ")
	}
	if diff := cmp.Diff(calm.logOf(), killed.logOf()); diff != "" {
		t.Errorf("the logs differ: %.300s", diff)
	}
}

// A client that is started again sends what it sent, and a vector that was
// trained anew is not masked.
func TestClientSendsTheSameAgain(t *testing.T) {
	w := newWorld(t, 4, 5)
	w.at(Survived)
	out := w.again(1)
	c := w.clients[1]
	var want [][]byte
	for _, stage := range []Stage{Keys, Shares, Masked} {
		for _, m := range w.sent[stage] {
			if m.Sender == c.config.Name {
				want = append(want, m.Payload, m.Signature)
			}
		}
	}
	var got [][]byte
	for _, m := range out[:3] {
		got = append(got, m.Payload, m.Signature)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it sent something else: %.300s", diff)
	}
	other := slices.Repeat([]float32{1}, 5)
	again, err := c.Mask(other, 2)
	if err != nil || !bytes.Equal(again[0].Payload, want[4]) {
		t.Errorf("another vector is masked: %v", err)
	}
}

// A client without its state makes new keys. The roster has the old ones, so it
// sits the attempt out, and the others go on.
func TestClientWithoutState(t *testing.T) {
	w := newWorld(t, 7, 5)
	roster := w.at(Roster)
	config := w.clientConfig(3)
	config.Random = randomOf("another life")
	c, out, err := Join(config, w.records[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := reasonOf(w.server.Receive(out[0])); got != Late {
		t.Errorf("its keys: %q", got)
	}
	if _, err := c.Receive(roster); reasonOf(err) != NotOurs {
		t.Errorf("the roster: %v", err)
	}
}

// Another server's list came first: what was received beyond it is dropped, and
// received again where it is on the list.
func TestAnotherListCameFirst(t *testing.T) {
	for _, stage := range []Stage{Shared, Survived} {
		w := newWorld(t, 7, 5)
		w.at(stage)
		first := w.records[len(w.records)-1]
		last := len(w.sent[stage-1]) - 1
		w.records = w.records[:len(w.records)-1]

		// A server to which the last client's message did not come in time.
		kept := w.sent[stage-1]
		w.sent[stage-1] = kept[:last]
		rival := w.resume()
		other, err := rival.Next()
		if err != nil {
			t.Fatal(err)
		}
		if other.Hash() == first.Hash() {
			t.Fatal("the lists are the same")
		}
		w.sent[stage-1] = kept
		w.server = w.resume() // it has them all
		w.records = append(w.records, other)
		if err := w.server.Record(other); err != nil {
			t.Fatal(err)
		}
		w.replay(w.server)
		for m := other; ; {
			for i := range 6 {
				out, err := w.clients[i].Receive(m)
				if err != nil {
					t.Fatal(err)
				}
				if m.Stage == Shared {
					for _, m := range w.sent[Shares] {
						_, _ = w.clients[i].Receive(m)
					}
					if out, err = w.clients[i].Mask(w.values[i], 1); err != nil {
						t.Fatal(err)
					}
				}
				w.send(i, out)
			}
			if m.Stage == Agreed {
				break
			}
			if m, err = w.step(); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := w.server.Sum()
		if err != nil {
			t.Fatal(err)
		}
		if sum[0] != 6 || !slices.Equal(w.server.Contributors(), []string{"c000", "c001", "c002", "c003", "c004", "c005"}) {
			t.Errorf("%v: weight %d of %v", stage, sum[0], w.server.Contributors())
		}
	}
}
