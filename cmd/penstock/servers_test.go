package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"penstock/servertest"
)

// call runs the program in this process and wants exit code 0.
func call(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	var out, err bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(""), &out, &err); code != exitDone {
		t.Fatalf("penstock %s: exit code %d\n%s\n%s", strings.Join(args, " "), code, out.String(), err.String())
	}
	return out.String()
}

// The demo plays on real servers too, and its counts add up there.
func TestDemoOnServers(t *testing.T) {
	for name, broker := range map[string]func(testing.TB) string{
		"Kafka": func(t testing.TB) string { return "kafka://" + servertest.Kafka(t) },
		"NATS":  func(t testing.TB) string { return servertest.NATS(t) },
	} {
		t.Run(name, func(t *testing.T) {
			out := call(t, "demo", "--broker", broker(t), "--dir", t.TempDir(), "-o", "json")
			var result struct {
				Counts   []entry
				Failures []string
			}
			if err := json.Unmarshal([]byte(out), &result); err != nil {
				t.Fatal(err)
			}
			if len(result.Counts) < 10 || len(result.Failures) > 0 {
				t.Errorf("got %d counts, failures %q", len(result.Counts), result.Failures)
			}
		})
	}
}

// Flights go from Kafka into PostgreSQL, once each, however often the consumer
// runs; and the benchmarks run.
func TestKafkaToPostgres(t *testing.T) {
	broker, database := "kafka://"+servertest.Kafka(t), servertest.Postgres(t)
	topic := servertest.Name(t)
	url := memoryRegistry(t)
	call(t, "produce", topic, "--broker", broker, "--registry", url, "--sample", "flights", "-n", "5000")
	store := []string{
		"consume", "microbatch", topic, "--broker", broker, "--registry", url, "--group", topic,
		"--to", database, "--table", "flights", "--until", "end", "-o", "json",
	}
	if out := call(t, store...); !strings.Contains(out, `"done":5000`) {
		t.Errorf("the first run says %s, want 5000 done", out)
	}
	call(t, "produce", topic, "--broker", broker, "--registry", url, "--sample", "flights", "-n", "10")
	if out := call(t, store...); !strings.Contains(out, `"done":10,`) {
		t.Errorf("the second run says %s, want 10 done", out)
	}
	call(t, "doctor", "--broker", broker, "--registry", url)
	for _, what := range []string{"produce", "consume", "gateway --singles 200"} {
		out := call(t, append(append([]string{"bench"}, strings.Fields(what)...), "--broker", broker, "--pairs", "1", "-n", "2000", "-o", "json")...)
		var row figure
		if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &row); err != nil || row.Ratio <= 0 || row.Pairs != 1 {
			t.Errorf("bench %s: %v: %s", what, err, out)
		}
	}
}

// Two topics are compared by key, and changes are emitted once, however often the
// differ runs.
func TestDiffAndCompare(t *testing.T) {
	broker, url := "embedded:"+t.TempDir(), memoryRegistry(t)
	at := []string{"--broker", broker, "--registry", url}
	with := func(args ...string) string { t.Helper(); return call(t, append(args, at...)...) }
	with("produce", "weather", "--sample", "weather", "-n", "600")
	with("produce", "copy", "--sample", "weather", "-n", "600", "--subject", "weather-value")
	diff := []string{"consume", "diff", "weather", "--to", "topic:weather.changes", "--format", "json-patch", "--state", t.TempDir(), "--until", "end", "-o", "json"}
	if out := with(diff...); !strings.Contains(out, `"done":600`) {
		t.Errorf("the first run says %s", out)
	}
	events := strings.Count(with("consume", "tail", "weather.changes", "--until", "end"), "\n")
	diff[8] = t.TempDir() // as on another machine
	if out := with(diff...); !strings.Contains(out, `"done":0`) {
		t.Errorf("the second run says %s", out)
	}
	if again := strings.Count(with("consume", "tail", "weather.changes", "--until", "end"), "\n"); events != 600 || again != events {
		t.Errorf("%d events, and then %d", events, again)
	}
	compare := []string{"consume", "diff", "--compare", "weather", "copy", "-o", "json"}
	if out := with(compare...); !strings.Contains(out, `"same":3`) {
		t.Errorf("the same topics: %s", out)
	}
	with("produce", "copy", "--sample", "weather", "-n", "1", "--subject", "weather-value")
	var out, errs bytes.Buffer
	if code := run(t.Context(), append(compare, at...), strings.NewReader(""), &out, &errs); code != exitNo || !strings.Contains(out.String(), `"different":1`) || !strings.Contains(out.String(), `"what":"different"`) {
		t.Errorf("topics that differ: exit code %d: %s%s", code, out.String(), errs.String())
	}
}

func TestBenchDiff(t *testing.T) {
	out := call(t, "bench", "diff", "--broker", "embedded:"+t.TempDir(), "--diffs", "2000", "-n", "2000", "--pairs", "1", "-o", "json")
	for line := range strings.Lines(out) {
		var row figure
		if err := json.Unmarshal([]byte(line), &row); err != nil || row.Ratio <= 0 || row.Records != 2000 {
			t.Errorf("%v: %s", err, line)
		}
	}
	if !strings.Contains(out, "diff jsondiff bytes") || !strings.Contains(out, "diff jsondiff values") || !strings.Contains(out, "diff pipeline") {
		t.Errorf("rows are missing: %s", out)
	}
}

func TestBenchFederated(t *testing.T) {
	out := call(t, "bench", "federated", "--updates", "6", "--parameters", "3000", "--pairs", "1", "-o", "json")
	var row figure
	if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &row); err != nil || row.Ratio <= 0 || row.Records != 6*3000*4 {
		t.Errorf("%v: %s", err, out)
	}
}

// Updates that come from a broker, each in several pieces, are all folded: the command
// fails if one is missing.
func TestBenchFederatedBroker(t *testing.T) {
	out := call(t, "bench", "federated", "--broker", "embedded:"+t.TempDir(), "--updates", "3", "--parameters", "300000", "--pairs", "1", "-o", "json")
	var row figure
	if err := json.Unmarshal([]byte(out), &row); err != nil || row.Rate <= 0 || row.RawRate <= 0 || row.Records != 3*300000*4 {
		t.Errorf("%v: %s", err, out)
	}
}
