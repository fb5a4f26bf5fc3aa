package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"

	"penstock/servertest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"penstock": main, "nats-server": natsServerMain})
}

// natsServerMain is nats-server as a process: nats-server CONFIG.
func natsServerMain() {
	options, err := natsserver.ProcessConfigFile(os.Args[1])
	var s *natsserver.Server
	if err == nil {
		s, err = natsserver.NewServer(options)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.Start()
	s.WaitForShutdown()
}

// TestSessions runs testdata/*.txtar: the command line as a person types it.
func TestSessions(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("REGISTRY", freeAddr(t))
			env.Setenv("GATEWAY", freeAddr(t))
			env.Setenv("NOBODY", freeAddr(t))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":       exits,
			"await":       await,
			"certificate": certificate,
			"ready":       ready,
			"status":      status,
			"answers":     answers,
		},
	})
}

// exits runs a program and wants an exit code: exits CODE PROGRAM ARG….
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// await waits until a file contains a text: await FILE TEXT.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE TEXT")
	}
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); ; {
		content, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && bytes.Contains(content, []byte(args[1])) {
			return
		}
		select {
		case <-tick:
		case <-deadline:
			ts.Fatalf("%s does not contain %q: %v\n%s", args[0], args[1], err, content)
		}
	}
}

// freeAddr is an address on which nothing listens.
func freeAddr(t testing.TB) string { return freeAddrs(t, 1)[0] }

func freeAddrs(t testing.TB, n int) (addresses []string) {
	t.Helper()
	ports, err := servertest.FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		addresses = append(addresses, fmt.Sprintf("127.0.0.1:%d", port))
	}
	return addresses
}
