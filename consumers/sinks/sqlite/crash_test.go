package sqlite_test

import (
	"path/filepath"
	"testing"

	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlite"
	"penstock/stream/memory"
)

func TestMain(m *testing.M) { sinktest.Main(m, sqlite.Open) }

func TestCrash(t *testing.T) {
	file := filepath.Join(t.TempDir(), "crash.db")
	sinktest.Crash(t, database{file, reader(t, file)}, file)
}

func TestRebalance(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rebalance.db")
	broker := memory.New()
	defer broker.Close()
	sinktest.Rebalance(t, database{file, reader(t, file)}, broker)
}
