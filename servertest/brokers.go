//go:build unix

package servertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// A Program is a server that is not started yet: Command makes what starts it, as
// often as it is called, with the same data and at the same address. It runs in a
// process group of its own, which is to be killed as a whole.
type Program struct {
	Command func() *exec.Cmd
	Address string // as the function of its name returns it
}

// erlang is how RabbitMQ's parts and their helper are kept to themselves: a cookie
// and a configuration of their own, whatever /etc/rabbitmq says, and 127.0.0.1
// alone. A machine's limit of open files may be a billion, for each of which Erlang
// would set memory aside. epmd runs first and in the group, since RabbitMQ starts a
// missing one as a daemon, which outlives everything; where its port is taken the
// node cannot use what listens there, and says so.
const erlang = `ulimit -Sn 16384 2>/dev/null
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
until epmd -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1; do sleep 0.05; done
exec "$0"`

// RabbitMQ is a RabbitMQ with its data in dir, which speaks AMQP 0.9.1 and 1.0.
func RabbitMQ(dir string) (Program, error) {
	// The one that Debian has on the PATH wants to be the machine's only one.
	program, err := Lookup("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")
	if err != nil {
		return Program{}, err
	}
	// Version 4 speaks 1.0 by itself.
	plugins := "[]."
	if found, _ := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-3.*/plugins/rabbitmq_amqp1_0*"); len(found) > 0 {
		plugins = "[rabbitmq_amqp1_0]."
	}
	if err := os.WriteFile(filepath.Join(dir, "plugins"), []byte(plugins), 0o600); err != nil {
		return Program{}, err
	}
	ports, err := FreePorts(3)
	if err != nil {
		return Program{}, err
	}
	environment := append(os.Environ(),
		"HOME="+dir,
		fmt.Sprintf("ERL_EPMD_PORT=%d", ports[0]),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", ports[1]),
		fmt.Sprintf("RABBITMQ_NODE_PORT=%d", ports[2]),
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=penstock@localhost",
		"RABBITMQ_USE_LONGNAME=false",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(dir, "logs"),
		"RABBITMQ_LOGS=-",
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(dir, "none"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "none"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+filepath.Join(dir, "none"),
		"RABBITMQ_GENERATED_CONFIG_DIR="+filepath.Join(dir, "config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"),
	)
	return Program{func() *exec.Cmd {
		cmd := grouped("sh", "-c", erlang, program)
		cmd.Dir, cmd.Env = dir, environment
		return cmd
	}, fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", ports[2])}, nil
}

// Mosquitto is a mosquitto that lets everybody in.
func Mosquitto(dir string) (Program, error) {
	program, err := Lookup("mosquitto", "mosquitto", "/usr/sbin/mosquitto")
	if err != nil {
		return Program{}, err
	}
	ports, err := FreePorts(1)
	if err != nil {
		return Program{}, err
	}
	config := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n", ports[0])
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return Program{}, err
	}
	return Program{func() *exec.Cmd { return grouped(program, "-c", config) }, fmt.Sprintf("127.0.0.1:%d", ports[0])}, nil
}

func grouped(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Lookup returns where a program is, at its usual places or on the PATH, or else an
// error that says which Debian package holds it.
func Lookup(program, debian string, usual ...string) (string, error) {
	for _, place := range usual {
		if _, err := os.Stat(place); err == nil {
			return place, nil
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: apt-get install %s", program, debian)
	}
	return path, nil
}
