package secagg

import (
	"encoding/binary"
	"slices"
	"testing"
)

// must be tested: individual masked vector indistinguishable from uniform
// (chi-square per byte; also with n-2 clients colluding); aggregator state never
// holds both share kinds for a peer

// chiSquare is that of byte at of the elements against the uniform distribution:
// 255 on the average, with a standard deviation of 22.6.
func chiSquare(v []uint32, at int) (x float64) {
	var counts [256]int
	for _, e := range v {
		counts[e>>(8*at)&0xff]++
	}
	want := float64(len(v)) / 256
	for _, n := range counts {
		x += (float64(n) - want) * (float64(n) - want) / want
	}
	return x
}

// The vector is all zeros but for its masks. The test is not left to chance: the
// secrets are always the same.
func TestMaskedVectorLooksUniform(t *testing.T) {
	const n, victim, honest = 5, 1, 3
	w := newWorld(t, n, 60_000)
	for i := range w.values {
		w.values[i] = make([]float32, 60_000)
	}
	if _, err := w.run(nil); err != nil {
		t.Fatal(err)
	}
	var v []uint32
	for _, m := range w.sent[Masked] {
		if m.Sender == w.config.Settings.Clients[victim].Name {
			for b := m.Payload[maskedHeader:]; len(b) > 0; b = b[4:] {
				v = append(v, binary.LittleEndian.Uint32(b))
			}
		}
	}
	looks := func(what string, uniform bool) {
		t.Helper()
		for at := range 4 {
			if x := chiSquare(v, at); (x < 255+5*22.6) != uniform {
				t.Errorf("%s: byte %d has chi-square %.0f", what, at, x)
			}
		}
	}
	looks("as it was sent", true)

	// Colluders know the masks that they share with the victim, and the server
	// learns in the end the seed of its own. What is left is one mask.
	c := w.clients[victim]
	seeds, err := c.seeds()
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	for at, m := range seeds {
		// seeds[0] is the victim's own, and then its peers in order.
		if peer := at - 1; at > 0 && peer+1 == honest {
			continue
		}
		apply(v, []mask{{m.seed, !m.subtract}})
		others++
	}
	if others != n-1 {
		t.Fatalf("took %d masks off, want %d", others, n-1)
	}
	looks("with n-2 clients and the server together", true)

	at := honest // in seeds
	apply(v, []mask{{seeds[at].seed, !seeds[at].subtract}})
	looks("without any mask", false)
}

// Neither what the server keeps nor what lies on the log lets anyone with fewer
// than the threshold of clients take the masks of a client off: of each client
// the shares are of one secret.
func TestServerNeverHoldsBothKinds(t *testing.T) {
	w := newWorld(t, 10, 3)
	w.mustSum(drops{2: Masked, 5: Masked, 7: Unmask})
	s := w.server
	roster := s.after(Shares)
	if len(s.revealed) != 10 {
		t.Fatalf("shares of %d clients, want 10", len(s.revealed))
	}
	for owner, shares := range s.revealed {
		for holder, share := range shares {
			var is []kind
			for _, k := range []kind{seedKind, rootKind} {
				if promise(roster, k, owner, holder, share) == s.dealt[owner].members[holder].promised[k-1] {
					is = append(is, k)
				}
			}
			want := seedKind
			if owner == 3 || owner == 6 {
				want = rootKind
			}
			if !slices.Equal(is, []kind{want}) {
				t.Errorf("client %d's share of %d is of kind %v, want %d", holder, owner, is, want)
			}
		}
	}
	for _, m := range w.sent[Unmask] {
		list, err := readRevealed(m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range list {
			if i > 0 && list[i-1].owner >= r.owner {
				t.Errorf("%s gives two shares of client %d", m.Sender, r.owner)
			}
		}
	}
}
