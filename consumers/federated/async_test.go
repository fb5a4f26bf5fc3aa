package federated

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"penstock/consumers"
	"penstock/stream"
)

// Clients answer whichever model they have, late and twice, in pieces, and the
// aggregator is killed: each K updates make a model, none is lost or counted twice, and
// anyone can make the models again.
func TestModelsWithoutRounds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const clients, k, published = 4, 3, 6
		s := &simulation{T: t, rt: rt, training: newTraining(t, clients, published), refused: map[string]Reason{}}
		s.training.config.Strategy = fmt.Sprintf("fedbuff:k=%d,rate=0.5", k)
		s.training.config.Piece = rapid.SampledFrom([]int{0, 7}).Draw(rt, "piece of models")
		if rapid.Bool().Draw(rt, "fence") {
			s.training.fence()
		}
		s.training.publisher.fail = rapid.SliceOfN(rapid.SampledFrom([]failure{works, works, before, after}), 0, 6).Draw(rt, "publish")
		for s.a == nil {
			s.start()
		}
		var models []Model
		sending := map[string][]consumers.Message{} // what clients are about to send
		for running := true; running; {
			client := fmt.Sprint("c", rapid.IntRange(0, clients-1).Draw(rt, "client"))
			switch rapid.IntRange(0, 12).Draw(rt, "step") { // small ones are drawn more often
			case 12:
				running = s.start()
			case 11:
				p := int32(rapid.IntRange(0, 2).Draw(rt, "partition"))
				if err := s.a.Lost(context.Background(), []stream.Partition{id(p)}); err != nil {
					rt.Fatal(err)
				}
				starts, err := s.a.Assigned(context.Background(), []stream.Partition{id(p)})
				if err != nil {
					rt.Fatal(err)
				}
				s.at[p] = starts[id(p)]
			case 1, 3, 5, 7, 9:
				if len(sending[client]) == 0 {
					ranges, err := s.training.broker.Ranges(context.Background(), "models")
					if err != nil {
						rt.Fatal(err)
					}
					if s.looked != ranges[0].End {
						models, s.looked = s.training.models(), ranges[0].End
					}
					m := models[max(0, len(models)-1-rapid.IntRange(0, Window+1).Draw(rt, "behind"))]
					if m.Final() {
						continue
					}
					for record := range split(updateOf(client, m).value(), rapid.SampledFrom([]int{8, 100}).Draw(rt, "piece")) {
						sending[client] = append(sending[client], message(t, s.training.publisher.registry, client, record))
					}
				}
				n := rapid.IntRange(1, len(sending[client])).Draw(rt, "records")
				for _, msg := range sending[client][:n] {
					p := partitionOf(client)
					msg.Partition, msg.Offset = p, int64(len(s.log[p]))
					s.log[p] = append(s.log[p], msg)
				}
				sending[client] = sending[client][n:]
			default:
				running, _ = s.step(rapid.IntRange(0, 2).Draw(rt, "partition"), 40-rapid.IntRange(0, 40).Draw(rt, "size"))
			}
		}

		models = s.training.models()
		if len(models) != published+1 {
			rt.Fatalf("%d models", len(models))
		}
		counted, read := map[string]bool{}, s.counted(models)
		for i, m := range models[1:] {
			if err := RecomputeAfter(models[max(0, i+1-m.Reach()):i+1], m, nil, read); err != nil {
				rt.Fatal(err)
			}
			if len(m.Contributions) != k {
				rt.Fatalf("model %d is made of %d updates", m.Round, len(m.Contributions))
			}
			want := make([]float64, 5)
			for _, c := range m.Contributions {
				u, err := read(c)
				if err != nil {
					rt.Fatal(err)
				}
				of, place := fmt.Sprint(c.Client, " of ", u.Round), fmt.Sprint(c.Partition, "/", c.Offset)
				if counted[of] || counted[place] || s.refused[place] != "" {
					rt.Fatalf("the update at %s, of %s, counts twice, or is refused too (%s)", place, of, s.refused[place])
				}
				counted[of], counted[place] = true, true
				base := flat(models[u.Round].Parameters)
				for j, v := range flat(u.Parameters) {
					want[j] += (float64(v) - float64(base[j])) / math.Sqrt(1+float64(m.Round-1-u.Round)) * 0.5 / k
				}
			}
			for j, v := range flat(m.Parameters) {
				if w := want[j] + float64(flat(models[i].Parameters)[j]); math.Abs(w-float64(v)) > 1e-5*max(1, math.Abs(w)) {
					rt.Fatalf("model %d has %v in element %d, want %v", m.Round, v, j, w)
				}
			}
		}
		last := models[published]
		for p, log := range s.log {
			i := slices.IndexFunc(last.Positions, func(position Position) bool { return position.Partition == int32(p) })
			for _, msg := range log {
				_, piece, err := readHead(msg.Data)
				place := fmt.Sprint(p, "/", msg.Offset)
				whole := err == nil && (piece == nil || piece.last())
				if i >= 0 && whole && msg.Offset < last.Positions[i].Next && !counted[place] && s.refused[place] == "" {
					rt.Fatalf("the update at %s is lost", place)
				}
			}
		}
	})
}
