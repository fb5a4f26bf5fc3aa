package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"
)

// stopWithin bounds how long a server may take to finish what it has begun.
const stopWithin = 10 * time.Second

// server is one HTTP server of this process.
type server struct {
	name string
	url  string
	addr net.Addr
	http *http.Server
	done chan error
}

// serve starts to answer on addr, with TLS if secure is not nil. A port of 0
// takes a free one.
func serve(name, addr string, h http.Handler, secure *tls.Config, log *slog.Logger) (*server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		err = fmt.Errorf("start the %s on %s: %w", name, addr, err)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = withHint(err, "another process uses that port; stop it, or choose another address")
		}
		return nil, err
	}
	s := &server{
		name: name,
		url:  "http://" + listener.Addr().String(),
		addr: listener.Addr(),
		http: patient(h, log),
		done: make(chan error, 1),
	}
	s.http.TLSConfig = secure
	if secure != nil {
		s.url = "https://" + listener.Addr().String()
		go func() { s.done <- s.http.ServeTLS(listener, "", "") }()
		return s, nil
	}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

// patient is a server that waits for slow clients, but not for ever.
func patient(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// stop lets running requests finish, within stopWithin.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("stop the %s: %w", s.name, err), s.http.Close())
	}
	if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the %s: %w", s.name, err)
	}
	return nil
}

// stopAll ends what was started, the last first.
func stopAll(ends []func() error) error {
	var errs []error
	for i := len(ends) - 1; i >= 0; i-- {
		errs = append(errs, ends[i]())
	}
	return errors.Join(errs...)
}
