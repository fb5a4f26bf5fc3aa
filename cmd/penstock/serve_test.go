package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A header that trickles in is waited for 10 s, however often a byte comes.
func TestSlowHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := make(pipes)
		s := patient(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(listener) }()
		ours, theirs := net.Pipe()
		listener <- theirs
		began := time.Now()
		written := make(chan struct{})
		go func() {
			defer close(written)
			for _, c := range []byte("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " + strings.Repeat("x", 1000)) {
				if _, err := ours.Write([]byte{c}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		if text, err := io.ReadAll(ours); err != nil || strings.Contains(string(text), " 404 ") {
			t.Errorf("answered %q, %v, want the end before the handler is asked", text, err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("closed after %s, want 10s", took)
		}
		<-written
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
