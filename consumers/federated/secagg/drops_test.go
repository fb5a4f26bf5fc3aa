package secagg

import (
	"errors"
	"os"
	"slices"
	"testing"
)

// must be tested: drop at every stage boundary, singly and up to n-t, and n-t+1
// fails closed; sum equals plain sum mod 2^32

var clientStages = []Stage{Keys, Shares, Masked, Confirm, Unmask}

func TestDropAtEveryBoundary(t *testing.T) {
	const n = 7
	spare := n - LeastThreshold(n)
	newWorld(t, n, 5).mustSum(nil)
	for _, stage := range clientStages {
		for first := range 4 { // singly, each client
			newWorld(t, 4, 5).mustSum(drops{first: stage})
		}
		d := drops{}
		for i := range spare {
			d[i*3] = stage
		}
		newWorld(t, n, 5).mustSum(d)

		d[6] = stage // one more than can be spared
		if sum, err := newWorld(t, n, 5).run(d); !errors.Is(err, ErrTooFew) || sum != nil {
			t.Errorf("drops %v: got %v, %v", d, sum, err)
		}
	}
}

func TestDropsAtDifferentStages(t *testing.T) {
	w := newWorld(t, 10, 5)
	w.mustSum(drops{1: Shares, 4: Masked, 8: Unmask})
	w = newWorld(t, 10, 5)
	w.mustSum(drops{0: Masked, 9: Masked, 5: Confirm})
	if got := len(w.server.Contributors()); got != 8 {
		t.Errorf("%d contributors, want 8: one whose vector came before it went away counts", got)
	}
}

// A vector longer than a message comes in parts, and than a block of the kernel.
func TestLongVector(t *testing.T) {
	w := newWorld(t, 3, MaxChunk+40_001)
	w.mustSum(nil)
	if len(w.sent[Masked]) != 6 {
		t.Errorf("%d messages, want 2 of each client", len(w.sent[Masked]))
	}
}

// The parts that come first lie in a file, whoever's come in between. What the disk
// refuses is no message that does not count.
func TestPartsLieInAFile(t *testing.T) {
	w := newWorld(t, 3, MaxChunk+40_001)
	full := false
	w.config.Spill = func() (File, error) {
		file, err := os.CreateTemp(t.TempDir(), "")
		return disk{file, &full}, err
	}
	w.server = w.newServer()
	w.mustSum(nil)
	w.sent[Masked] = []Message{w.sent[Masked][0], w.sent[Masked][2], w.sent[Masked][4], w.sent[Masked][1], w.sent[Masked][3], w.sent[Masked][5]}
	s := w.newServer()
	for _, m := range w.records {
		if err := s.Record(m); err != nil {
			t.Fatal(err)
		}
	}
	full = true
	w.replay(s)
	err := s.Receive(w.sent[Masked][0])
	if refused := new(Refusal); !errors.Is(err, errFull) || errors.As(err, &refused) {
		t.Fatalf("expected the disk's error, found %v", err)
	}
	full = false
	w.replay(s)
	if got, err := s.Sum(); err != nil || !slices.Equal(got, w.plain(nil)) {
		t.Errorf("expected the plain sum, found another: %v", err)
	}
	if err := errors.Join(s.Close(), w.server.Close()); err != nil {
		t.Error(err)
	}
}

// disk is a file on a disk that is full at times.
type disk struct {
	File
	full *bool
}

var errFull = errors.New("the disk is full")

func (d disk) WriteAt(b []byte, at int64) (int, error) {
	if *d.full {
		return 0, errFull
	}
	return d.File.WriteAt(b, at)
}

// The smallest graph, and one of indexes over a byte's half.
func TestFewAndMany(t *testing.T) {
	newWorld(t, 2, 1).mustSum(nil)
	if !testing.Short() {
		newWorld(t, 17, 9).mustSum(drops{3: Masked, 4: Masked, 9: Unmask, 16: Shares, 0: Masked})
	}
}
