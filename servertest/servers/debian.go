//go:build unix

package main

import (
	"context"
	"net"
	"path/filepath"
	"syscall"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"penstock/servertest"
)

// debian starts what the machine has as a package, and is to be ended by a signal.
func debian(name string, end syscall.Signal, program func(dir string) (servertest.Program, error)) func(context.Context, string, string) (*process, string, error) {
	return func(_ context.Context, _, dir string) (*process, string, error) {
		s, err := program(dir)
		if err != nil {
			return nil, "", err
		}
		p, err := launch(name, filepath.Join(dir, "log"), end, s.Command())
		return p, s.Address, err
	}
}

func probeMosquitto(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func probeRabbitMQ(_ context.Context, address string) error {
	conn, err := amqp091.Dial(address)
	if err != nil {
		return err
	}
	return conn.Close()
}
