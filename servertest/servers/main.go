//go:build unix

// Servers starts the real servers that the tests need, Apache Kafka,
// PostgreSQL, nats-server, mosquitto and RabbitMQ, and fetches the registry clients
// of other languages, runs a command with their addresses in its environment, stops
// them all, and exits as the command did:
//
//	go run ./servertest/servers go test ./stream/...
//
// Without a command it prints the addresses as lines for a shell and keeps the
// servers up until it is interrupted. A server whose variable is already set
// is not started: that one is used instead.
//
// Everything listens on free ports of 127.0.0.1 and writes to a temporary
// folder. Kafka's jars, the nats-server binary and the clients are kept in
// .tools. So are the jars of Apache Avro, which is no server but another opinion
// on schemas.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"penstock/servertest"
)

// readyWithin bounds the time from a server's start to its first right answer.
// Five seconds are usual; a machine busy with race tests takes far longer.
const readyWithin = 2 * time.Minute

// A server is one of the servers that tests ask for.
type server struct {
	name string
	env  string
	// start runs the server with its data in dir and returns its address. A
	// nil process is none, but files at that address.
	start func(ctx context.Context, tools, dir string) (*process, string, error)
	// probe returns nil once the server does its work.
	probe func(ctx context.Context, address string) error
}

var fleet = []server{
	{"kafka", servertest.KafkaEnv, startKafka, probeKafka},
	// SIGQUIT stops it without a checkpoint, which nobody will read.
	{"postgres", servertest.PostgresEnv, debian("postgres", syscall.SIGQUIT, servertest.PostgreSQL), probePostgres},
	{"nats", servertest.NATSEnv, startNATS, probeNATS},
	{"mqtt", servertest.MQTTEnv, debian("mqtt", syscall.SIGKILL, servertest.Mosquitto), probeMosquitto},
	{"amqp", servertest.AMQPEnv, debian("amqp", syscall.SIGKILL, servertest.RabbitMQ), probeRabbitMQ},
	{"avro", servertest.AvroEnv, findAvro, nil},
	{"python", servertest.PythonEnv, python.find, nil},
	{"node", servertest.NodeEnv, node.find, nil},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
	}
	stop()
	os.Exit(code)
}

// run returns the exit code of the command, and 4 when there was none.
func run(ctx context.Context, command []string, stdout, stderr io.Writer) (code int, err error) {
	tools, err := toolsFolder(ctx)
	if err != nil {
		return 4, err
	}
	dir, err := os.MkdirTemp("", "penstock-servers-")
	if err != nil {
		return 4, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// PostgreSQL may run as another user, who has to get to its folder.
	if err := os.Chmod(dir, 0o755); err != nil {
		return 4, err
	}

	began := time.Now()
	running, addresses, err := startAll(ctx, tools, dir)
	defer func() {
		for _, p := range running {
			p.stop()
		}
	}()
	if err != nil {
		return 4, err
	}
	if len(running) > 0 {
		fmt.Fprintf(stderr, "servers: ready after %s\n", time.Since(began).Round(100*time.Millisecond))
	}

	// A server that ends before it is told to ends the command too.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, p := range running {
		go func() {
			<-p.done
			cancel(fmt.Errorf("%s ended by itself: %w", p.name, p.failure()))
		}()
	}
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		for _, a := range addresses {
			fmt.Fprintln(stdout, "export", a)
		}
		<-ctx.Done()
		return 0, died(ctx)
	}
	code, err = runCommand(ctx, command, addresses)
	if err == nil {
		err = died(ctx)
	}
	if err != nil {
		code = 4
	}
	return code, err
}

// died returns why ctx ended if a server's end is the reason.
func died(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// toolsFolder returns .tools at the root of the module.
func toolsFolder(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module's root: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("find the module's root: run this inside the source tree")
	}
	tools := filepath.Join(filepath.Dir(mod), ".tools")
	return tools, os.MkdirAll(tools, 0o755)
}

// startAll starts the whole fleet at once and returns when every server is
// ready or has failed, so that the error names all that is missing. What was
// started is returned with an error too, for the caller to stop.
func startAll(ctx context.Context, tools, dir string) (running []*process, addresses []string, err error) {
	processes := make([]*process, len(fleet))
	addresses = make([]string, len(fleet))
	errs := make([]error, len(fleet))
	var starting sync.WaitGroup
	for i, s := range fleet {
		if address := os.Getenv(s.env); address != "" {
			addresses[i] = s.env + "=" + address
			continue
		}
		starting.Go(func() {
			p, address, err := s.run(ctx, tools, filepath.Join(dir, s.name))
			if err != nil {
				err = fmt.Errorf("start %s: %w", s.name, err)
			}
			processes[i], addresses[i], errs[i] = p, s.env+"="+address, err
		})
	}
	starting.Wait()
	for _, p := range processes {
		if p != nil {
			running = append(running, p)
		}
	}
	return running, addresses, errors.Join(errs...)
}

// run starts s and returns when it is ready. With an error, the process is not
// nil if it was started.
func (s server) run(ctx context.Context, tools, dir string) (*process, string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, "", err
	}
	p, address, err := s.start(ctx, tools, dir)
	if err != nil || p == nil {
		return nil, address, err
	}
	return p, address, await(ctx, p, func(ctx context.Context) error { return s.probe(ctx, address) })
}

// await tries probe until it succeeds, p ends, or the time is up.
func await(ctx context.Context, p *process, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := probe(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.failure()
		case <-ctx.Done():
			return fmt.Errorf("not ready (%w): %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// runCommand runs command in a process group of its own, which gets SIGTERM
// when ctx ends and is killed ten seconds later.
func runCommand(ctx context.Context, command, addresses []string) (code int, err error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), addresses...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	p, err := launch(command[0], "", syscall.SIGTERM, cmd)
	if err != nil {
		return 4, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	p.stop()
	if exit := (*exec.ExitError)(nil); errors.As(p.err, &exit) {
		if code := exit.ExitCode(); code > 0 {
			return code, nil
		}
		return 4, fmt.Errorf("run %q: %w", command[0], p.err) // ended by a signal
	}
	return 0, p.err
}
