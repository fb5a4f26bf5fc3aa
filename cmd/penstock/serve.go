package main

import (
	"context"
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
	http http.Server
	done chan error
}

// serve starts to answer on addr. A port of 0 takes a free one.
func serve(name, addr string, h http.Handler, log *slog.Logger) (*server, error) {
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
		http: http.Server{
			Handler:           h,
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       time.Minute,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		done: make(chan error, 1),
	}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
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
