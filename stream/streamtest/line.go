package streamtest

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Line is a network over which a broker is reached, and which can be cut. The zero
// value is whole.
type Line struct {
	mu    sync.Mutex
	conns []net.Conn
	dead  bool // nothing goes through, and nothing can be opened
	deaf  bool // what comes is dropped, and nothing can be opened

	at      func(sent []byte) bool // nil: nothing is watched for
	deliver bool
	met     chan struct{}
}

// Watch has the line break at the first write, to any of its connections, that at
// recognises: before it goes through, or, with deliver, before anything comes back.
// What it returns is closed then.
func (l *Line) Watch(at func(sent []byte) bool, deliver bool) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.deliver, l.met = at, deliver, make(chan struct{})
	return l.met
}

// Cut closes all connections, and has none opened.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut()
}

func (l *Line) cut() {
	l.dead = true
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

// Mend has connections opened again.
func (l *Line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead, l.deaf = false, false
}

// Dial is DialContext without an end.
func (l *Line) Dial(network, address string) (net.Conn, error) {
	return l.DialContext(context.Background(), network, address)
}

// DialContext opens a connection over the line.
func (l *Line) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || l.deaf {
		c.Close()
		return nil, errCut
	}
	l.conns = append(l.conns, c)
	return &lineConn{c, l}, nil
}

var errCut = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("the line was cut")}

type lineConn struct {
	net.Conn
	line *Line
}

// Write implements net.Conn.
func (c *lineConn) Write(p []byte) (int, error) {
	l := c.line
	l.mu.Lock()
	met := l.at != nil && l.at(p)
	if met {
		l.at = nil
		defer close(l.met)
		if l.deaf = l.deliver; !l.deliver {
			l.cut()
		}
	}
	dead := l.dead
	l.mu.Unlock()
	if dead {
		return 0, errCut
	}
	return c.Conn.Write(p)
}

// Read implements net.Conn.
func (c *lineConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		c.line.mu.Lock()
		deaf := c.line.deaf
		c.line.mu.Unlock()
		if err != nil || !deaf {
			return n, err
		}
	}
}
