package pipelines

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The guide shows the table, and the tests that it names are there.
func TestTable(t *testing.T) {
	guide, err := os.ReadFile("../docs/microbatching.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(guide), Table()) {
		t.Errorf("docs/microbatching.md has another table than\n%s", Table())
	}
	for _, p := range Promises {
		m := regexp.MustCompile("^`(.*)`: (.*)$").FindStringSubmatch(p.Proof)
		if m == nil {
			t.Fatalf("%s: %q names no package and tests", p.Sink, p.Proof)
		}
		there := testsOf(t, filepath.Join("..", m[1]))
		for _, test := range strings.Split(m[2], ", ") {
			if name, _, _ := strings.Cut(test, "/"); !there[name] {
				t.Errorf("%s has no test %s", m[1], name)
			}
		}
	}
}

func testsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for object := range file.Scope.Objects {
			names[object] = true
		}
	}
	return names
}

func TestExplain(t *testing.T) {
	base := Pipeline{Name: "p", Source: Source{Topic: "t", Broker: "kafka://h"}, Sink: Sink{URL: "postgres://h/d"}}.WithDefaults()
	with := func(change func(*Pipeline)) Pipeline {
		p := base
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		p        Pipeline
		delivery Delivery
		sink     string
		says     []string
		not      []string
	}{
		"postgres":  {base, ExactlyOnce, "postgres", []string{"dead letters: topic t.p.dlq\n", "COMMIT", "owner epoch", "unclean leader election"}, []string{"newest record", "arrive in any order"}},
		"sqlite":    {with(func(p *Pipeline) { p.Sink.URL = "sqlite:f" }), ExactlyOnce, "sqlite", []string{"owner epoch"}, []string{"COMMIT"}},
		"upsert":    {with(func(p *Pipeline) { p.Sink.Mode = Upsert }), ExactlyOnce, "postgres", []string{"the newest record"}, nil},
		"filter":    {with(func(p *Pipeline) { p.Filter = "true" }), ExactlyOnce, "postgres", []string{"does not want"}, nil},
		"letters":   {with(func(p *Pipeline) { p.Errors.DeadLetters = "shop.refused" }), ExactlyOnce, "postgres", []string{"dead letters: topic shop.refused\n"}, []string{"t.p.dlq"}},
		"park":      {with(func(p *Pipeline) { p.Errors.Ordering = Park }), ExactlyOnce, "postgres", []string{"no record overtakes one that was set aside"}, []string{"brought back comes after", "a partition waits"}},
		"block":     {with(func(p *Pipeline) { p.Errors.Ordering = Block }), ExactlyOnce, "postgres", []string{"a partition waits"}, []string{"dead-letter topic", "brought back"}},
		"coalesce":  {with(func(p *Pipeline) { p.Batch.Coalesce = true }), ExactlyOnce, "postgres", []string{"only the last is stored"}, nil},
		"kafka":     {with(func(p *Pipeline) { p.Sink.URL = "topic:u" }), ExactlyOnce, "topic on kafka", []string{"one transaction", "read_uncommitted"}, []string{"atomic batch"}},
		"jetstream": {with(func(p *Pipeline) { p.Sink.URL, p.Source.Broker = "topic:u", "nats://h" }), ExactlyOnce, "topic on jetstream", []string{"atomic batch", "one replica whose server"}, []string{"transactional id"}},
		"webhook":   {with(func(p *Pipeline) { p.Sink.URL = "https://h" }), AtLeastOnce, "webhook", []string{"come twice", "arrive in any order", "posts the whole topic"}, []string{"stores the whole"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := c.p.Explain()
			text := g.String()
			if g.Delivery != c.delivery || g.Sink != c.sink || g.Proof == "" || len(g.Order) == 0 || len(g.Breaks) < 2 {
				t.Errorf("got\n%s", text)
			}
			for _, s := range c.says {
				if !strings.Contains(text, s) {
					t.Errorf("does not say %q:\n%s", s, text)
				}
			}
			for _, s := range c.not {
				if strings.Contains(text, s) {
					t.Errorf("says %q:\n%s", s, text)
				}
			}
		})
	}
}
