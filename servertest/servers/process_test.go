//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStopEndsTheGroup(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo started; wait")
	cmd.Stdout = w
	p, err := launch("sh", "", syscall.SIGKILL, cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(r)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.stop()
	// The pipe ends when the grandchild, which holds it too, is gone.
	if err := r.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("a child of the stopped program lives on: %v", err)
	}
}

func TestFailureTellsTheLastWords(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := launch("sh", log, syscall.SIGTERM, exec.Command("sh", "-c", "seq 100; echo no disk >&2; exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	text := p.failure().Error()
	if !strings.Contains(text, "exit status 7") || !strings.Contains(text, "100\nno disk") || strings.Contains(text, "\n50\n") {
		t.Errorf("got %q", text)
	}
	p.stop() // of what has ended already: returns
}

func TestAwait(t *testing.T) {
	p, err := launch("sleep", "", syscall.SIGTERM, exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	err = await(t.Context(), p, func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || tries != 3 {
		t.Errorf("a probe that succeeds at the third try: %v after %d", err, tries)
	}
	p.stop()
	err = await(t.Context(), p, func(context.Context) error { return errors.New("refused") })
	if err == nil || !strings.Contains(err.Error(), "signal") {
		t.Errorf("of a server that ended: got %v", err)
	}
}

func TestRunCommand(t *testing.T) {
	f := func(ctx context.Context, script string, want int) {
		t.Helper()
		if got, _ := runCommand(ctx, []string{"sh", "-c", script}, []string{"A_SERVER=here"}); got != want {
			t.Errorf("%s: got code %d, want %d", script, got, want)
		}
	}
	f(t.Context(), "exit 0", 0)
	f(t.Context(), "exit 3", 3)
	f(t.Context(), `test "$A_SERVER" = here`, 0)
	f(t.Context(), "kill -9 $$", 4)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	f(ended, "sleep 1000", 4)
	if code, err := runCommand(t.Context(), []string{"no-such-program"}, nil); code != 4 || err == nil {
		t.Errorf("no such program: got code %d, %v", code, err)
	}
}

// With all three addresses given nothing is started, and they are passed on.
func TestRunUsesServersThatAreThere(t *testing.T) {
	for _, s := range fleet {
		t.Setenv(s.env, "given:"+s.name)
	}
	var out, log strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	file := filepath.Join(t.TempDir(), "env")
	code, err := run(ctx, []string{"--", "sh", "-c", "env > " + file}, &out, &log)
	if code != 0 || err != nil {
		t.Fatalf("got code %d, %v", code, err)
	}
	env, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range fleet {
		if want := s.env + "=given:" + s.name + "\n"; !strings.Contains(string(env), want) {
			t.Errorf("the command's environment lacks %q", want)
		}
	}
}
