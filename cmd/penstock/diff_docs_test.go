package main

import (
	"database/sql"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The commands of docs/diffing.md do what it says.
func TestDiffingGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/diffing.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^    penstock (.*)$`).FindAllStringSubmatch(string(guide), -1)
	at := []string{"--broker", "embedded:" + t.TempDir(), "--registry", memoryRegistry(t)}
	t.Chdir(t.TempDir()) // where its files go
	outputs := map[string]string{}
	for _, c := range commands {
		outputs[c[1]] = call(t, append(strings.Fields(c[1]), at...)...)
	}
	events := func(topic string) int {
		return strings.Count(call(t, append([]string{"consume", "tail", topic, "--until", "end"}, at...)...), "\n")
	}
	if out := outputs["consume tail weather.typed --until end"]; strings.Count(out, `"op":"u"`) != 597 || strings.Count(out, `"before":null,"op":"c"`) != 3 {
		t.Errorf("events under a schema: %.500s", out)
	}
	if out := call(t, append([]string{"consume", "diff", "--compare", "weather", "weather.again"}, at...)...); !strings.Contains(out, "3 the same, 0 missing") {
		t.Errorf("what was applied of them: %s", out)
	}
	all, rain, mild := events("weather.changes"), events("rain.changes"), events("mild.changes")
	if len(commands) != 13 || all != 600 || rain < 4 || rain > 300 || mild <= rain || mild > 600 {
		t.Errorf("of %d commands: %d events, %d of rain, %d of mild weather", len(commands), all, rain, mild)
	}
	if all, rain := outputs["consume apply weather.changes --to sqlite:weather.db --table weather --schema weather-value --until end"], events("rain"); !strings.Contains(all, "600 stored") || rain != events("rain.changes") {
		t.Errorf("applying says %s and makes %d states of rain", all, rain)
	}
	db, err := sql.Open("sqlite", "weather.db")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows, warm int
	if err := db.QueryRowContext(t.Context(), `SELECT count(*), sum(temp > 20) FROM weather`).Scan(&rows, &warm); err != nil || rows != 3 || warm != 3 {
		t.Errorf("the table has %d rows, %d of them warm: %v", rows, warm, err)
	}
	for _, other := range []string{"copy", "sqlite:weather.db#weather"} {
		if out := outputs["consume diff --compare weather "+other]; !strings.Contains(out, "3 the same, 0 missing") {
			t.Errorf("the comparison with %s says %s", other, out)
		}
	}
}
