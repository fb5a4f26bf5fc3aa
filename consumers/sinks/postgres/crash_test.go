package postgres_test

import (
	"testing"

	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/servertest"
	"penstock/stream/memory"
)

func TestMain(m *testing.M) { sinktest.Main(m, postgres.Open) }

func TestCrash(t *testing.T) {
	db := schema(t, servertest.Postgres(t))
	sinktest.Crash(t, db, db.url)
}

func TestRebalance(t *testing.T) {
	broker := memory.New()
	defer broker.Close()
	sinktest.Rebalance(t, schema(t, servertest.Postgres(t)), broker)
}
