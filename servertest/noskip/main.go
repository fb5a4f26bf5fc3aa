// Noskip runs `go test` with the arguments it is given and prints what matters:
// a line for each package, the output of each test that failed, the names of
// the skipped ones, and the sums. With CI=true a skipped test is a failure: CI
// has every server and tool, so a skip there is a check that silently stopped.
//
//	go run ./servertest/noskip -race ./...
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is what `go test -json` prints, of which the go command's test2json
// documentation tells the details.
type event struct {
	Action, Package, Test, Output string
}

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "noskip: run go test:", err)
		os.Exit(4)
	}
	s, err := report(out, os.Stdout)
	err = errors.Join(err, cmd.Wait())
	fmt.Printf("%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	if err != nil || s.failed > 0 {
		if err != nil {
			fmt.Fprintln(os.Stderr, "noskip: go test:", err)
		}
		os.Exit(1)
	}
	if s.skipped > 0 && os.Getenv("CI") == "true" {
		fmt.Fprintln(os.Stderr, "noskip: CI=true, and tests were skipped")
		os.Exit(1)
	}
}

type sums struct{ passed, failed, skipped int }

// report reads the events of a run from r and writes its summary to w.
func report(r io.Reader, w io.Writer) (sums, error) {
	type test struct{ pkg, name string }
	var s sums
	output := map[test]*strings.Builder{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20) // one line of a test's output is one event
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(w, lines.Text()) // the go command's own words
			continue
		}
		t := test{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "output":
			switch {
			case strings.HasPrefix(e.Output, "=== "), e.Output == "PASS\n":
			case e.Test == "":
				fmt.Fprint(w, e.Output)
			case output[t] == nil:
				output[t] = new(strings.Builder)
				fallthrough
			default:
				output[t].WriteString(e.Output)
			}
		case "pass", "fail", "skip":
			if e.Test == "" {
				// What a crash left unfinished is told here, or not at all.
				for t, text := range output {
					if t.pkg == e.Package {
						fmt.Fprintf(w, "unfinished: %s %s\n%s", t.pkg, t.name, text)
						delete(output, t)
					}
				}
				if e.Action == "fail" {
					s.failed++
				}
				continue
			}
			switch e.Action {
			case "pass":
				s.passed++
			case "fail":
				s.failed++
			case "skip":
				s.skipped++
			}
			if text := output[t]; text != nil && e.Action != "pass" {
				fmt.Fprint(w, text)
			}
			delete(output, t)
		}
	}
	return s, lines.Err()
}
