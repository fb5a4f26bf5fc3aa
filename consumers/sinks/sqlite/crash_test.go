package sqlite_test

import (
	"path/filepath"
	"testing"

	"penstock/consumers/sinks/sinktest"
	"penstock/consumers/sinks/sqlite"
	"penstock/stream/memory"
)

func TestMain(m *testing.M) { sinktest.Main(m, sinktest.SQL(sqlite.Open)) }

func TestCrash(t *testing.T) {
	file := filepath.Join(t.TempDir(), "crash.db")
	sinktest.Crash(t, file, sinktest.SQLRows(database{file, reader(t, file)}))
}

func TestRebalance(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rebalance.db")
	broker := memory.New()
	defer broker.Close()
	sinktest.Rebalance(t, sinktest.SQL(sqlite.Open), file, sinktest.SQLRows(database{file, reader(t, file)}), broker)
}

func TestOnce(t *testing.T) {
	sinktest.Once(t, 10, sinktest.SQL(sqlite.Open), func(t *testing.T) (string, sinktest.Rows) {
		file := filepath.Join(t.TempDir(), "once.db")
		return file, sinktest.SQLRows(database{file, reader(t, file)})
	})
}
