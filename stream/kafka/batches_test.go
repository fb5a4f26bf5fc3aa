package kafka

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever is delivered, settled, and delivered again, a commit goes up to the
// lowest record that is not settled, and to no other.
func TestOpenBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := openBatches{next: position{offset: -1}}
		var (
			batches [][]int64
			end     = int64(-1)
		)
		t.Repeat(map[string]func(*rapid.T){
			"deliver": func(t *rapid.T) {
				var b []int64
				for range rapid.IntRange(1, 5).Draw(t, "records") {
					end += int64(rapid.IntRange(1, 3).Draw(t, "gap"))
					b = append(b, end)
				}
				o.deliver(position{offset: b[0]}, position{offset: end})
				batches = append(batches, b)
			},
			"settle": func(t *rapid.T) {
				if len(batches) == 0 {
					t.Skip("nothing is open")
				}
				i := rapid.IntRange(0, len(batches)-1).Draw(t, "batch")
				b := batches[i]
				batches = append(batches[:i:i], batches[i+1:]...)
				o.close(b[0])
				var again []int64
				for _, offset := range b {
					if rapid.Bool().Draw(t, "again") {
						again = append(again, offset)
					}
				}
				if len(again) > 0 {
					o.open(position{offset: again[0]})
					batches = append(batches, again)
				}
			},
			"": func(t *rapid.T) {
				want := int64(-1)
				if end >= 0 {
					want = end + 1
				}
				for _, b := range batches {
					want = min(want, b[0])
				}
				if got := o.low().offset; got != want {
					t.Fatalf("low is %d, want %d; open are %v", got, want, batches)
				}
			},
		})
	})
}
