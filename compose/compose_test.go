// Package compose checks the stacks of this folder without Docker: what they
// promise about users, ports and versions is in their text.
package compose

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

type stack struct {
	Services map[string]service
	Volumes  map[string]any
	Configs  map[string]struct{ File string }
}

type service struct {
	Image string
	Build struct{ Context, Target string }
	User  string
	// Lists only: the text forms go through a shell, which our image lacks.
	Command     []string
	Ports       []string
	Volumes     []string
	Configs     []struct{ Source, Target string }
	HealthCheck struct{ Test []string }
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
}

// stacks reads the stacks of this folder by file name.
func stacks(t *testing.T) map[string]stack {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]stack{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s stack
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[file] = s
	}
	return all
}

func TestServices(t *testing.T) {
	for file, services := range map[string][]string{
		"kafka.yaml": {"kafka", "postgres", "penstock"},
		"nats.yaml":  {"nats", "postgres", "penstock"},
	} {
		s, ok := stacks(t)[file]
		if !ok {
			t.Errorf("%s is gone", file)
		}
		for _, name := range services {
			if _, ok := s.Services[name]; !ok {
				t.Errorf("%s has no service %s", file, name)
			}
		}
	}
}

func TestStacks(t *testing.T) {
	var (
		pinned  = regexp.MustCompile(`:\d+\.\d+(\.\d+)?$`)
		local   = regexp.MustCompile(`^127\.0\.0\.1:\d+:\d+$`)
		stages  = targets(t)
		isRoot  = regexp.MustCompile(`^(|0|root)(:|$)`)
		isWrite = func(volume string) bool { return !strings.HasSuffix(volume, ":ro") }
	)
	for file, s := range stacks(t) {
		for name, v := range s.Services {
			f := func(ok bool, format string, args ...any) {
				t.Helper()
				if !ok {
					t.Errorf(file+": "+name+": "+format, args...)
				}
			}
			f((v.Image == "") != (v.Build.Context == ""), "needs an image or a build")
			f(v.Image == "" || pinned.MatchString(v.Image), "image %q has no version", v.Image)
			f(v.Build.Context == "" || v.Build.Context == ".." && stages[v.Build.Target] != "",
				"the Dockerfile has no stage %q", v.Build.Target)
			f(!isRoot.MatchString(v.User), "runs as root")
			f(len(v.HealthCheck.Test) > 1 && v.HealthCheck.Test[0] == "CMD", "has no health check that needs no shell")
			for _, port := range v.Ports {
				f(local.MatchString(port), "port %q is open to other machines", port)
			}
			for _, volume := range v.Volumes {
				from, _, _ := strings.Cut(volume, ":")
				_, listed := s.Volumes[from]
				f(listed || !isWrite(volume), "volume %q is not listed", from)
			}
			for _, c := range v.Configs {
				_, err := os.Stat(s.Configs[c.Source].File)
				f(err == nil, "config %q: %v", c.Source, err)
			}
			for other, on := range v.DependsOn {
				_, there := s.Services[other]
				f(there && on.Condition == "service_healthy", "depends on %s, %s", other, on.Condition)
			}
			for _, arg := range v.Command {
				_, value, _ := strings.Cut(arg, "=")
				if u, err := url.Parse(value); err == nil && u.Host != "" {
					_, there := s.Services[u.Hostname()]
					f(there, "%s: there is no service %s", arg, u.Hostname())
				}
			}
		}
	}
}

// targets returns the stages of the Dockerfile by name, with their base images.
func targets(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^FROM (\S+) AS (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		stages[m[2]] = m[1]
	}
	return stages
}

func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	nats := regexp.MustCompile(`github.com/nats-io/nats-server/v2 v(\S+)`).FindSubmatch(mod)
	if nats == nil {
		t.Fatal("go.mod does not require nats-server")
	}
	bases := targets(t)
	if want := "nats:" + string(nats[1]) + "-alpine"; bases["nats"] != want {
		t.Errorf("stage nats is built on %s, and go.mod says %s", bases["nats"], want)
	}
	if bases["penstock"] != "scratch" {
		t.Errorf("stage penstock is built on %s, and needs nothing but its program", bases["penstock"])
	}
	stages := strings.Split(string(text), "\nFROM ")
	for _, stage := range stages[2:] { // after the comment and the build
		if !strings.Contains(stage, "\nUSER 65532:65532\n") {
			t.Errorf("this stage runs as root:\nFROM %s", stage)
		}
	}
}
