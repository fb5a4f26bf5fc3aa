package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"penstock/servertest"
)

// Flower makes the same model of the same updates: the command fails if one does not.
func TestBenchFederatedFlower(t *testing.T) {
	out := call(t, "bench", "federated", "--flower", servertest.Python(t), "--updates", "4", "--parameters", "3000", "--tensors", "3", "--pairs", "1", "-o", "json")
	var row figure
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&row); err != nil || row.Records != 4*3000*4 {
		t.Errorf("%v: %s", err, out)
	}
}

// A round in memory is made by the aggregator, whatever the tensors.
func TestMemoryRound(t *testing.T) {
	for _, tensors := range []int{1, 7} {
		r, err := newMemoryRound(t.Context(), 20, 50, tensors)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := r.run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if m := r.aggregator.Model(); m.Round != 2 || len(m.Contributions) != 20 || len(m.Parameters) != tensors {
			t.Errorf("expected a model of round 2, of 20 updates in %d tensors, found one of %d, %d and %d", tensors, m.Round, len(m.Contributions), len(m.Parameters))
		}
	}
}

func TestBenchFederatedFlowerRefuses(t *testing.T) {
	for _, args := range [][]string{{"--flower", "/nowhere/python"}, {"--flower", "true"}, {"--flower", "true", "--tensors", "0"}} {
		c := append([]string{"bench", "federated", "--updates", "2", "--parameters", "10"}, args...)
		var out, stderr bytes.Buffer
		if code := run(t.Context(), c, strings.NewReader(""), &out, &stderr); code != exitUsage || !strings.Contains(stderr.String(), args[len(args)-2]) {
			t.Errorf("%q: expected exit code %d, found %d: %s", args, exitUsage, code, stderr.String())
		}
	}
}
