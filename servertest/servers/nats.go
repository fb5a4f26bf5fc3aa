//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"penstock/servertest"
)

func startNATS(ctx context.Context, tools, dir string) (*process, string, error) {
	program := filepath.Join(tools, "nats-server")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/nats-io/nats-server/v2")
	build.Dir = filepath.Dir(tools)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	ports, err := servertest.FreePorts(1)
	if err != nil {
		return nil, "", err
	}
	config := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream { store_dir: %q, sync_interval: always }\n",
		ports[0], filepath.Join(dir, "data"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	p, err := launch("nats", filepath.Join(dir, "log"), syscall.SIGKILL, exec.Command(program, "-c", config))
	return p, fmt.Sprintf("nats://127.0.0.1:%d", ports[0]), err
}

func probeNATS(ctx context.Context, address string) error {
	conn, err := nats.Connect(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	_, err = js.AccountInfo(ctx)
	return err
}
