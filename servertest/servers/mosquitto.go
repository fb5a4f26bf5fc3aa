//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func startMosquitto(_ context.Context, _, dir string) (*process, string, error) {
	program, err := exec.LookPath("/usr/sbin/mosquitto") // not on everybody's PATH
	if err != nil {
		if program, err = lookup("mosquitto", "mosquitto"); err != nil {
			return nil, "", err
		}
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	config := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n", ports[0])
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	p, err := launch("mqtt", filepath.Join(dir, "log"), syscall.SIGTERM, exec.Command(program, "-c", config))
	return p, address, err
}

func probeMosquitto(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
