package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"penstock/servertest"
)

// Trainings with clients of clients/python.
func TestPythonClients(t *testing.T) {
	pythonSessions(t, "testdata/python", "kafka://"+servertest.Kafka(t))
}

// Those whose messages are signed or masked, on servers.
func TestPythonClientsOnServers(t *testing.T) {
	t.Run("kafka", func(t *testing.T) { pythonSessions(t, "testdata/python/servers", "kafka://"+servertest.Kafka(t)) })
	t.Run("nats", func(t *testing.T) { pythonSessions(t, "testdata/python/servers", servertest.NATS(t)) })
}

// pythonSessions runs the scripts of a folder, with clients/python at hand.
func pythonSessions(t *testing.T, dir, broker string) {
	python := servertest.Python(t)
	client, err := filepath.Abs("../../clients/python")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PYTHON", python)
			env.Setenv("PYTHONPATH", client)
			env.Setenv("PYTHONDONTWRITEBYTECODE", "1")
			env.Setenv("DIGITS", filepath.Join(client, "examples", "digits.py"))
			env.Setenv("FLOWER", filepath.Join(client, "examples", "flower_digits.py"))
			env.Setenv("NAME", servertest.Name(t))
			env.Setenv("BROKER", broker)
			env.Setenv("REGISTRY", freeAddr(t))
			env.Setenv("GATEWAY", freeAddr(t))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"await": await, "ready": ready},
	})
}
