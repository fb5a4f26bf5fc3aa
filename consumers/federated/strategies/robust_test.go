package strategies

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"testing"
)

// singles are updates of float32, as rounds have them.
type singles [][]float32

func (s singles) Len() int { return len(s) }

func (s singles) Dim() int { return len(s[0]) }

func (s singles) Samples(i int) float64 { return float64(10 + i*i) }

func (s singles) Read(i, from int, dst []float64) error {
	for j, v := range s[i][from:][:len(dst)] {
		dst[j] = float64(v)
	}
	return nil
}

// someSingles are n updates with equal values, zeros of both signs, tiny and huge ones.
func someSingles(n, dim int, plain bool) singles {
	random := rand.New(rand.NewPCG(uint64(n), uint64(dim)))
	out := make(singles, n)
	for i := range out {
		out[i] = make([]float32, dim)
		for j := range out[i] {
			v := float32(random.NormFloat64())
			switch kind := random.IntN(16); {
			case plain:
			case j%5 == 0 && kind < 8:
				v = float32(math.Copysign(0, float64(v)))
			case kind == 8:
				v *= 1e-30
			case kind == 9:
				v *= 1e15
			case kind < 12:
				v = float32(math.Round(float64(v)))
			}
			out[i][j] = v
		}
	}
	return out
}

// A log of before is replayed to the same bytes: these are what the strategies made when
// they sorted column by column, and added up pair by pair.
func TestRobustBits(t *testing.T) {
	for _, c := range []struct {
		n    int
		name string
		want string
	}{
		{1, "median", "90b954b1882511fe"},
		{1, "trimmed-mean", "667667866db675d5"},
		{1, "trimmed-mean:share=0.4", "667667866db675d5"},
		{1, "geometric-median:rounds=20", "667667866db675d5"},
		{2, "median", "aaece70181a09e8f"},
		{2, "trimmed-mean", "acbbda20358c3b9d"},
		{2, "trimmed-mean:share=0.4", "acbbda20358c3b9d"},
		{2, "geometric-median:rounds=20", "acbbda20358c3b9d"},
		{7, "median", "00703eae612a4a92"},
		{7, "trimmed-mean", "87246479b5a192b8"},
		{7, "trimmed-mean:share=0.4", "9de439a6a51d9494"},
		{7, "krum:byzantine=2", "32b32b725558f77c"},
		{7, "multi-krum:byzantine=2,select=3", "927cd691533920fe"},
		{7, "bulyan:byzantine=1", "b72bc7336e366e94"},
		{7, "flower-bulyan:byzantine=1", "464c2a9a619b1e91"},
		{7, "geometric-median:rounds=20", "b2971d4ec8cdd041"},
		{8, "median", "682e222b350661ed"},
		{8, "trimmed-mean", "79315c75f3156caa"},
		{8, "trimmed-mean:share=0.4", "c23e59c6e290030a"},
		{8, "krum:byzantine=2", "b5d4699448481bd1"},
		{8, "multi-krum:byzantine=2,select=3", "c93571c187148d8d"},
		{8, "bulyan:byzantine=1", "5ca923c8eabad965"},
		{8, "flower-bulyan:byzantine=1", "5ca923c8eabad965"},
		{8, "geometric-median:rounds=20", "10a3c1b81cae771a"},
		{15, "median", "e6d40a76b776ff24"},
		{15, "trimmed-mean", "63260fc7dd293e1b"},
		{15, "trimmed-mean:share=0.4", "4ba040dddfaa81f8"},
		{15, "krum:byzantine=2", "304dd42e75c43d40"},
		{15, "multi-krum:byzantine=2,select=3", "0904555fc92a34f4"},
		{15, "bulyan:byzantine=1", "03ecdc22bc017c9a"},
		{15, "flower-bulyan:byzantine=1", "2c9acd3a11d5f65b"},
		{15, "geometric-median:rounds=20", "dad268f89aef6e77"},
		{26, "median", "3ddf83f72e88cbae"},
		{26, "trimmed-mean", "890b1696ab476a29"},
		{26, "trimmed-mean:share=0.4", "c7323fc7d5f249fc"},
		{26, "krum:byzantine=2", "122a24ff3cad3b05"},
		{26, "multi-krum:byzantine=2,select=3", "14a4528f286d01e6"},
		{26, "bulyan:byzantine=1", "547ca25bd19d49e8"},
		{26, "flower-bulyan:byzantine=1", "fa7958418217ad40"},
		{26, "geometric-median:rounds=20", "d9f9a342b0edd402"},
	} {
		s, err := Parse(c.name)
		if err != nil {
			t.Fatal(err)
		}
		model, err := s.(Robust).Combine(someSingles(c.n, 2*block+77, false))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if err := binary.Write(sum, binary.LittleEndian, model); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(sum.Sum(nil)[:8]); got != c.want {
			t.Errorf("%s of %d updates: expected %s, found %s", c.name, c.n, c.want, got)
		}
	}
}

func BenchmarkRobust(b *testing.B) {
	rows := someSingles(10, 1_000_000, true)
	for _, name := range []string{"krum:byzantine=2", "median", "trimmed-mean", "bulyan:byzantine=1", "geometric-median:rounds=20"} {
		b.Run(name, func(b *testing.B) {
			s, err := Parse(name)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := s.(Robust).Combine(rows); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
