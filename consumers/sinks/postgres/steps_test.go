package postgres_test

import (
	"bufio"
	"bytes"
	"errors"
	"math/rand/v2"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"penstock/consumers"
	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlsink"
	"penstock/servertest"
	"penstock/stream"
)

// step is a place in the transaction that stores a batch.
type step struct {
	name   string
	is     func(message) bool
	passes bool // the message still gets through
}

// steps are where a transaction can break: each message that changes what the
// server knows, and each answer that changes what the client does.
var steps = []step{
	{"before BEGIN", func(m message) bool { return !m.server && m.is('Q', "BEGIN") }, false},
	{"after BEGIN", func(m message) bool { return m.server && m.is('C', "BEGIN") }, false},
	{"within COPY", func(m message) bool { return !m.server && m.is('d', "PGCOPY") }, true},
	{"before the end of COPY", func(m message) bool { return !m.server && m.is('c', "") }, false},
	{"after COPY", func(m message) bool { return m.server && m.is('C', "COPY") }, false},
	{"after the position", func(m message) bool { return m.server && m.is('C', "UPDATE 1") }, false},
	{"before COMMIT", func(m message) bool { return !m.server && m.is('Q', "COMMIT") }, false},
	{"COMMIT not answered", func(m message) bool { return m.server && m.is('C', "COMMIT") }, false},
	{"COMMIT answered, and not acknowledged", func(m message) bool { return m.server && m.is('C', "COMMIT") }, true},
}

// process is a child, and what it says at its end.
type process struct {
	*osexec.Cmd
	errors bytes.Buffer
}

func start(t *testing.T, address string) (*process, *bufio.Scanner) {
	t.Helper()
	c := &process{Cmd: sinktest.Child(t, address)}
	c.Stderr = &c.errors
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewScanner(out)
}

// ended waits for the end; it says whether the process came to its own.
func (c *process) ended(t *testing.T) bool {
	t.Helper()
	err := c.Wait()
	var exit *osexec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		t.Fatalf("child: %v\n%s", err, c.errors.String())
	}
	return err == nil
}

// Processes die (kill -9) at each step of the transaction that stores a batch.
func TestKilledAtEachStep(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	p := newProxy(t, host(t, d))
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		for _, at := range steps {
			var mu sync.Mutex
			left := 1 + rand.IntN(6) // of the step's messages
			copied := map[*session]bool{}
			var child *process
			mu.Lock()
			p.ask(func(s *session, m message) verdict {
				mu.Lock()
				defer mu.Unlock()
				// Before its first COPY a session claims partitions.
				copied[s] = copied[s] || !m.server && m.is('d', "PGCOPY")
				if !copied[s] || !at.is(m) || left == 0 {
					return pass
				}
				if left--; left > 0 {
					return pass
				}
				if err := child.Process.Kill(); err != nil {
					t.Error(err)
				}
				if at.passes {
					return pass
				}
				return cut
			})
			child, _ = start(t, p.through(t, d))
			mu.Unlock()
			if child.ended(t) {
				t.Fatalf("%s: the process came to its end", at.name)
			}
		}
	}
	p.ask(func(*session, message) verdict { return pass })
	child, _ := start(t, p.through(t, d))
	if !child.ended(t) {
		t.Fatal("the last process was killed")
	}
	sinktest.Whole(t, sinktest.SQLRows(d))
	t.Logf("killed %d times", rounds*len(steps))
}

// A process that is stopped, not killed, in the middle of a transaction, and goes
// on when another has taken its partitions over, changes no row.
func TestZombie(t *testing.T) {
	for _, at := range []step{steps[0], steps[4], steps[5]} {
		t.Run(strings.ReplaceAll(at.name, " ", "-"), func(t *testing.T) {
			d := schema(t, servertest.Postgres(t))
			p := newProxy(t, host(t, d))
			var mu sync.Mutex
			left, stopped := 12, make(chan struct{})
			copied := map[*session]bool{}
			var zombie *process
			mu.Lock()
			p.ask(func(s *session, m message) verdict {
				mu.Lock()
				defer mu.Unlock()
				copied[s] = copied[s] || !m.server && m.is('d', "PGCOPY")
				// The server is not to wait for it as long as it would.
				m.rewrite("'60s'", "'01s'")
				if copied[s] && at.is(m) {
					if left--; left == 0 {
						if err := zombie.Process.Signal(syscall.SIGSTOP); err != nil {
							t.Error(err)
						}
						close(stopped)
					}
				}
				return pass
			})
			var lines *bufio.Scanner
			zombie, lines = start(t, p.through(t, d))
			mu.Unlock()
			defer func() { _ = zombie.Process.Kill() }()
			said := make(chan string)
			go func() {
				defer close(said)
				for lines.Scan() {
					said <- lines.Text()
				}
			}()
			for waiting := true; waiting; {
				select {
				case <-said:
				case <-stopped:
					waiting = false
				}
			}
			child, _ := start(t, d.url)
			if !child.ended(t) {
				t.Fatal("the one that takes over was killed")
			}
			sinktest.Whole(t, sinktest.SQLRows(d))
			if err := zombie.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			fenced := false
			for line := range said { // it tries what it holds, and then what follows
				if fenced = line == "given back"; fenced {
					break
				}
			}
			_ = zombie.Process.Kill()
			for range said {
			}
			if zombie.ended(t) || !fenced {
				t.Error("the zombie came to its end; want its batch given back")
			}
			sinktest.Whole(t, sinktest.SQLRows(d))
		})
	}
}

// The server's disk is full: nothing is set aside for it, and nothing lost.
func TestDiskFull(t *testing.T) {
	d := schema(t, servertest.Postgres(t))
	p := newProxy(t, host(t, d))
	s := open(t, p.through(t, d), sqlsink.Config{})
	assign(t, s)
	full := true
	var mu sync.Mutex
	p.ask(func(s *session, m message) verdict {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case full && !m.server && m.is('c', ""): // what the server takes for an abort, and says that it is
			_, err := s.server.Write(append([]byte{'f', 0, 0, 0, 9}, "full\x00"...))
			if err != nil {
				return cut
			}
			return drop
		case m.server && m.kind == 'E':
			m.rewrite("C57014", "C53100")
		}
		return pass
	})
	for range 3 {
		err := s.Write(t.Context(), rows(0, 10))
		var refused *stream.BatchError
		if err == nil || errors.As(err, &refused) || errors.Is(err, consumers.ErrStop) || errors.Is(err, stream.ErrFenced) || !strings.Contains(err.Error(), "the disk of the server is full") {
			t.Fatalf("Write: %v, want one that passes and says what is full", err)
		}
	}
	mu.Lock()
	full = false
	mu.Unlock()
	if err := s.Write(t.Context(), rows(0, 10)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10 10"}, column(d, t, "SELECT count(*), count(DISTINCT id) FROM events")); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// ready waits until a server that takes connections takes statements too.
func ready(t *testing.T, address string) {
	t.Helper()
	tick, deadline := time.Tick(20*time.Millisecond), time.Now().Add(time.Minute)
	for {
		conn, err := pgx.Connect(t.Context(), address)
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-tick
	}
}

// The server is killed and started again under processes that write.
func TestServerRestarted(t *testing.T) {
	server := servertest.Start(t, servertest.PostgreSQL)
	ready(t, server.Address)
	d := schema(t, server.Address)
	child, lines := start(t, d.url)
	for kills := 0; kills < 2; kills++ {
		for range 10 {
			if !lines.Scan() {
				t.Fatalf("the process ended after %d kills: %s", kills, child.errors.String())
			}
		}
		server.Kill()
		server.Start()
	}
	for lines.Scan() {
	}
	if !child.ended(t) {
		t.Fatal("the process was killed")
	}
	again := database{url: d.url}
	again.connect(t)
	sinktest.Whole(t, sinktest.SQLRows(again))
}
