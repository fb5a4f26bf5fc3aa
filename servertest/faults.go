//go:build unix

package servertest

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Own is a server that a test has to itself, and may kill.
type Own struct {
	Program
	t      testing.TB
	cmd    *exec.Cmd
	output bytes.Buffer // of the last start; read it when the program has ended
}

// Start starts a server, which ends with t.
func Start(t testing.TB, program func(dir string) (Program, error)) *Own {
	t.Helper()
	p, err := program(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := &Own{Program: p, t: t}
	o.Start()
	t.Cleanup(o.Kill)
	return o
}

// Start starts the server again, at its address and with its data, and returns when
// it takes connections.
func (o *Own) Start() {
	o.t.Helper()
	o.output.Reset()
	o.cmd = o.Command()
	// Reading what the group says to its end tells when the whole group is gone.
	o.cmd.Stdout, o.cmd.Stderr = &o.output, &o.output
	if err := o.cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	host := o.Address
	if u, err := url.Parse(host); err == nil && u.Host != "" {
		host = u.Host
	}
	deadline := time.After(2 * time.Minute)
	for tick := time.Tick(20 * time.Millisecond); ; {
		conn, err := new(net.Dialer).DialContext(o.t.Context(), "tcp", host)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-tick:
		case <-deadline:
			o.Kill()
			o.t.Fatalf("%s does not answer: %v\n%s", o.cmd.Path, err, o.output.Bytes())
		}
	}
}

// Kill is kill -9 of the server and all that it has started. It returns when they
// are gone.
func (o *Own) Kill() {
	if o.cmd.ProcessState == nil {
		_ = syscall.Kill(-o.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		_ = o.cmd.Wait()                                      // by the signal
	}
}

// Line is a way to a server that can be cut.
type Line struct {
	Address string // host:port
	mu      sync.Mutex
	conns   []net.Conn
}

// NewLine lays a line to a host:port, which ends with t.
func NewLine(t testing.TB, to string) *Line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{Address: listener.Addr().String()}
	t.Cleanup(func() { listener.Close(); l.Cut() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, in, out)
			l.mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
					pair[1].Close()
				}()
			}
		}
	}()
	return l
}

// Cut closes all connections. Others may be opened at once.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}
