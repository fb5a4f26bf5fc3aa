//go:build unix

// Mutants tests the tests. Each file */testdata/mutants/NAME.patch is a defect
// somebody once made or might make, as a diff from the module's root below two
// header lines:
//
//	# test: go test ./stream/kafka -run TestSuite/nack -count=1
//	# why: a commit past a nacked record loses it
//
// Mutants copies the source tree, sees each named command pass, applies each
// patch by itself and runs its command again, which now must fail, because a
// test failed and not because the code no longer compiles. It exits with 1
// unless every mutant was killed in this way.
//
//	go run ./servertest/mutants [-only TEXT] [-p N] [-limit TIME]
//
// Mutants of code that needs a real server are killed where that server is
// there: run it under servertest/servers, as `make mutants` does.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	only := flag.String("only", "", "run only the mutants whose path contains `TEXT`")
	workers := flag.Int("p", runtime.NumCPU(), "run `N` packages at a time")
	limit := flag.Duration("limit", 3*time.Minute, "`TIME` that one test command may take, builds included")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *only, *workers, *limit)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// A mutant is one patch file.
type mutant struct {
	patch string // slash-separated path from the root
	test  string // the command that must fail
}

// A verdict is what became of one mutant.
type verdict struct {
	mutant
	killed bool
	text   string
	output string // of the command, if it tells why the mutant was not killed
	took   time.Duration
}

func run(ctx context.Context, stdout io.Writer, only string, workers int, limit time.Duration) error {
	root, err := output(ctx, ".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	root = strings.TrimSpace(root)
	files, err := sources(ctx, root)
	if err != nil {
		return err
	}
	packages, err := find(root, files, only)
	if err != nil {
		return err
	}
	if len(packages) == 0 {
		return errors.New("no mutant found")
	}

	queue := make(chan []mutant, len(packages))
	for _, p := range packages {
		queue <- p
	}
	close(queue)
	verdicts := make(chan verdict)
	errs := make([]error, workers)
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			// The same path in each run, so that the build cache serves again.
			tree := filepath.Join(root, ".tools", "mutants", fmt.Sprint(i))
			errs[i] = work(ctx, root, tree, files, queue, limit, verdicts)
		})
	}
	go func() {
		running.Wait()
		close(verdicts)
	}()
	killed, alive := 0, 0
	for v := range verdicts {
		fmt.Fprintf(stdout, "%-16s %s (%.1fs)\n", v.text, v.patch, v.took.Seconds())
		if v.killed {
			killed++
			continue
		}
		alive++
		fmt.Fprintf(stdout, "    %s\n", v.test)
		if v.output != "" {
			fmt.Fprintf(stdout, "    %s\n", strings.ReplaceAll(strings.TrimSpace(v.output), "\n", "\n    "))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "mutants: %d killed, %d not\n", killed, alive)
	if alive > 0 {
		return fmt.Errorf("%d of %d mutants were not killed", alive, killed+alive)
	}
	return nil
}

// sources lists the files of the tree, new ones included, ignored ones not.
func sources(ctx context.Context, root string) ([]string, error) {
	list, err := output(ctx, root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}
	files := strings.Split(strings.TrimSuffix(list, "\x00"), "\x00")
	return slices.DeleteFunc(files, func(file string) bool {
		_, err := os.Lstat(filepath.Join(root, file))
		return errors.Is(err, fs.ErrNotExist) // deleted, and not yet committed
	}), nil
}

var (
	patchName  = regexp.MustCompile(`(^|/)testdata/mutants/[^/]+\.patch$`)
	testHeader = regexp.MustCompile(`(?m)^# test: (go test .+)$`)
	whyHeader  = regexp.MustCompile(`(?m)^# why: \S.+$`)
)

// find reads the headers of the mutants among files and groups them by folder,
// the largest group first.
func find(root string, files []string, only string) ([][]mutant, error) {
	byFolder := map[string][]mutant{}
	for _, file := range files {
		if !patchName.MatchString(file) || !strings.Contains(file, only) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return nil, err
		}
		header, _, _ := bytes.Cut(text, []byte("\n--- "))
		test := testHeader.FindSubmatch(header)
		if test == nil || !whyHeader.Match(header) {
			return nil, fmt.Errorf("%s: needs the header lines \"# test: go test ...\" and \"# why: ...\"", file)
		}
		folder := filepath.Dir(file)
		byFolder[folder] = append(byFolder[folder], mutant{file, string(test[1])})
	}
	var groups [][]mutant
	for _, group := range byFolder {
		groups = append(groups, group)
	}
	slices.SortFunc(groups, func(a, b []mutant) int {
		return cmp.Or(len(b)-len(a), strings.Compare(a[0].patch, b[0].patch))
	})
	return groups, nil
}

// work copies the tree and judges the mutants of queue in it.
func work(ctx context.Context, root, tree string, files []string, queue <-chan []mutant, limit time.Duration, verdicts chan<- verdict) error {
	if err := copyTree(root, tree, files); err != nil {
		return err
	}
	for group := range queue {
		passes, err := together(ctx, tree, group, limit)
		if err != nil {
			return err
		}
		for _, m := range group {
			began := time.Now()
			sound, known := passes[m.test]
			if !known {
				sound = test(ctx, tree, m.test, limit, limit/2)
				passes[m.test] = sound
			}
			v := verdict{mutant: m, text: "FAILS ANYWAY", output: sound.output}
			if sound.passed {
				var err error
				if v, err = judge(ctx, tree, m, limit, patience(sound.took, limit)); err != nil {
					return fmt.Errorf("%s: %w", m.patch, err)
				}
			} else if sound.empty {
				v.text = "SKIPPED OR EMPTY"
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v.took = time.Since(began)
			verdicts <- v
		}
	}
	return nil
}

var simple = regexp.MustCompile(`^(go test \S+) -run '?([^' ]+)'? (-count=1.*)$`)

// together runs the commands of a group without a mutant, as one where only what
// -run names differs, and returns those that passed so. The others are yet to be run one by one.
func together(ctx context.Context, tree string, group []mutant, limit time.Duration) (map[string]result, error) {
	patterns, commands := map[string][]string{}, map[string][]string{}
	for _, m := range group {
		parts := simple.FindStringSubmatch(m.test)
		if parts == nil {
			continue
		}
		if alike := parts[1] + " " + parts[3]; !slices.Contains(commands[alike], m.test) {
			patterns[alike] = append(patterns[alike], parts[2])
			commands[alike] = append(commands[alike], m.test)
		}
	}
	passes := map[string]result{}
	for alike, several := range commands {
		if len(several) < 2 {
			continue
		}
		all := fmt.Sprintf("%s -run '%s'", alike, strings.Join(patterns[alike], "|"))
		most := limit * time.Duration(len(several))
		if r := test(ctx, tree, all, most, most/2); r.passed {
			for _, command := range several {
				passes[command] = r
			}
		}
	}
	return passes, ctx.Err()
}

// attempts is how often a test may try to find a defect: some draw their cases
// at random, and not every draw meets it.
const attempts = 3

// judge applies m, runs its command and takes m out again. An error means that
// the tree could not be brought back.
func judge(ctx context.Context, tree string, m mutant, limit, patience time.Duration) (verdict, error) {
	restore, err := snapshot(ctx, tree, m.patch)
	if err == nil {
		_, err = gitApply(ctx, tree, m.patch)
	}
	if err != nil {
		return verdict{mutant: m, text: "DOES NOT APPLY", output: err.Error()}, nil //nolint:nilerr // it is the verdict
	}
	r := test(ctx, tree, m.test, limit, patience)
	for again := 1; r.passed && again < attempts; again++ {
		r = test(ctx, tree, m.test, limit, patience)
	}
	if err := restore(); err != nil {
		return verdict{}, fmt.Errorf("take it out again: %w", err)
	}
	switch {
	case r.passed, r.empty:
		return verdict{mutant: m, text: "SURVIVED"}, nil
	case r.unbuilt:
		return verdict{mutant: m, text: "DOES NOT BUILD", output: r.output}, nil
	case r.late:
		return verdict{mutant: m, text: "TOOK TOO LONG"}, nil
	}
	return verdict{mutant: m, killed: true, text: "killed"}, nil
}

// snapshot reads the files that patch changes and returns the way back. A patch
// applied in reverse is none: where lines repeat it may not find its place.
func snapshot(ctx context.Context, tree, patch string) (restore func() error, err error) {
	list, err := gitApply(ctx, tree, "--numstat", "-z", patch)
	if err != nil {
		return nil, err
	}
	before := map[string][]byte{} // nil: not there
	for entry := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		fields := strings.SplitN(entry, "\t", 3) // lines added, lines deleted, name
		name := filepath.Join(tree, fields[len(fields)-1])
		text, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		before[name] = text
	}
	return func() error {
		var errs []error
		for name, text := range before {
			if text == nil {
				errs = append(errs, os.RemoveAll(name))
			} else {
				errs = append(errs, os.WriteFile(name, text, 0o644))
			}
		}
		return errors.Join(errs...)
	}, nil
}

func gitApply(ctx context.Context, tree string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"apply"}, args...)...)
	cmd.Dir = tree
	// Inside a repository git would silently pass over files that the
	// repository ignores, and it ignores the copy.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(tree))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git apply: %w\n%s", err, stderr.String())
	}
	return string(out), nil
}

// A result is how a test command ended: with a failed test if no field is set.
type result struct {
	passed  bool // and ran a test, and skipped none
	empty   bool // nothing failed, and it ran none or skipped one
	unbuilt bool
	late    bool
	output  string
	took    time.Duration
}

var (
	ran     = regexp.MustCompile(`(?m)^ *--- PASS`)
	skipped = regexp.MustCompile(`(?m)^ *--- SKIP`)
	unbuilt = regexp.MustCompile(`(?m)^FAIL\s.*\[(build|setup) failed\]$`)
)

// patience is how long tests may run that took so long when all was well, builds
// apart: one that a defect makes wait for ever is not waited for much longer.
func patience(took, limit time.Duration) time.Duration {
	return min(limit/2, 30*time.Second+3*took)
}

// test runs command in tree with a time limit, and one for the tests alone.
func test(ctx context.Context, tree, command string, limit, patience time.Duration) (r result) {
	defer func(began time.Time) { r.took = time.Since(began) }(time.Now())
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = tree
	// A test that hangs is stopped by go test itself, and has then failed.
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOFLAGS=%s -v -vet=off -failfast -timeout=%s", os.Getenv("GOFLAGS"), patience))
	if strings.Contains(command, " -race ") {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	r.output = string(out)
	switch {
	case ctx.Err() != nil:
		r.late = true
	case unbuilt.Match(out):
		r.unbuilt = true
	case err == nil:
		r.passed = ran.Match(out) && !skipped.Match(out)
		r.empty = !r.passed
	}
	return r
}

// copyTree makes tree a copy of files below root.
func copyTree(root, tree string, files []string) error {
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	for _, file := range files {
		from, to := filepath.Join(root, file), filepath.Join(tree, file)
		info, err := os.Stat(from)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}
