package stream

import "testing"

// The hashes are those that Apache Kafka's own test of its murmur2 expects.
func TestPartitionFor(t *testing.T) {
	f := func(key string, hash int32) {
		t.Helper()
		if got := int32(murmur2([]byte(key))); got != hash {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, hash)
		}
		for _, n := range []int{1, 2, 3, 4, 7, 12, 100} {
			want := (hash & 0x7fffffff) % int32(n)
			if got := PartitionFor([]byte(key), n); got != want {
				t.Errorf("PartitionFor(%q, %d) = %d, want %d", key, n, got, want)
			}
		}
	}
	f("21", -973932308)
	f("foobar", -790332482)
	f("a-little-bit-long-string", -985981536)
	f("a-little-bit-longer-string", -1486304829)
	f("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971)
	f("abc", 479470107)
}
