package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// The benchmark of the gateway has both of its rows, each with both sides.
func TestBenchGateway(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	out := call(t, "bench", "gateway", "--broker", "kafka://"+cluster.ListenAddrs()[0], "-n", "2500", "--singles", "150", "--pairs", "2", "-o", "json")
	want := map[string]int{"batch": 2500, "single": 150}
	for line := range strings.Lines(out) {
		var row figure
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for name, records := range want {
			if !strings.Contains(row.Name, name) {
				continue
			}
			delete(want, name)
			if row.Records != records || row.Pairs != 2 || row.Rate <= 0 || row.Ratio <= 0 {
				t.Errorf("row %s: %s, want %d records in 2 pairs, with a rate and a ratio", name, line, records)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("rows are missing, %v: %s", want, out)
	}
}
