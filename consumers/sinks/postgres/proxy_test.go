package postgres_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between sinks and their server, and a test says what becomes of
// each message. It knows lines without TLS only.
type proxy struct {
	address string
	mu      sync.Mutex
	asked   func(*session, message) verdict
}

// session is one connection. Its messages are asked about one at a time.
type session struct {
	client, server net.Conn
}

// message is one message of PostgreSQL's protocol.
type message struct {
	server bool // it is from the server
	kind   byte // 0 for the first of the client
	body   []byte
}

// is says whether m is of a kind and begins with a text. Kinds of clients and
// servers overlap: 'C' of a server is CommandComplete, 'c' of either CopyDone.
func (m message) is(kind byte, text string) bool {
	return m.kind == kind && bytes.HasPrefix(m.body, []byte(text))
}

// rewrite puts one text in the place of another of the same length.
func (m message) rewrite(text, by string) {
	if i := bytes.Index(m.body, []byte(text)); i >= 0 {
		copy(m.body[i:], by)
	}
}

// verdict is what becomes of a message.
type verdict int

const (
	pass verdict = iota
	drop
	cut // it is dropped, and the session is ended
)

// ask has f decide from now on.
func (p *proxy) ask(f func(*session, message) verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = f
}

func newProxy(t *testing.T, server string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), asked: func(*session, message) verdict { return pass }}
	var wait sync.WaitGroup
	var conns sync.Map
	wait.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			backend, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			s := &session{client, backend}
			conns.Store(s, nil)
			wait.Go(func() { p.forward(s, false) })
			wait.Go(func() { p.forward(s, true) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Range(func(s, _ any) bool { s.(*session).end(); return true })
		wait.Wait()
	})
	return p
}

func (s *session) end() {
	_ = s.client.Close()
	_ = s.server.Close()
}

// forward copies messages until either side ends.
func (p *proxy) forward(s *session, server bool) {
	from, to := s.client, s.server
	if server {
		from, to = to, from
	}
	defer s.end()
	in := bufio.NewReader(from)
	for first := !server; ; first = false {
		m := message{server: server}
		var head []byte
		if !first {
			head = make([]byte, 1, 5)
			if _, err := io.ReadFull(in, head); err != nil {
				return
			}
			m.kind = head[0]
		}
		size := make([]byte, 4)
		if _, err := io.ReadFull(in, size); err != nil {
			return
		}
		m.body = make([]byte, binary.BigEndian.Uint32(size)-4)
		if _, err := io.ReadFull(in, m.body); err != nil {
			return
		}
		p.mu.Lock()
		asked := p.asked
		p.mu.Unlock()
		switch asked(s, m) {
		case drop:
			continue
		case cut:
			return
		}
		if _, err := to.Write(append(append(head, size...), m.body...)); err != nil && server {
			return
		}
	}
}

// through is the address of d by way of the proxy.
func (p *proxy) through(t *testing.T, d database) string {
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.address
	return u.String()
}
