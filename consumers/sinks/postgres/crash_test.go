package postgres_test

import (
	"testing"

	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/servertest"
	"penstock/stream/memory"
)

func TestMain(m *testing.M) { sinktest.Main(m, sinktest.SQL(postgres.Open)) }

func TestCrash(t *testing.T) {
	db := schema(t, servertest.Postgres(t))
	sinktest.Crash(t, db.url, sinktest.SQLRows(db))
}

func TestRebalance(t *testing.T) {
	broker := memory.New()
	defer broker.Close()
	db := schema(t, servertest.Postgres(t))
	sinktest.Rebalance(t, sinktest.SQL(postgres.Open), db.url, sinktest.SQLRows(db), broker)
}

func TestOnce(t *testing.T) {
	server := servertest.Postgres(t)
	sinktest.Once(t, 10, sinktest.SQL(postgres.Open), func(t *testing.T) (string, sinktest.Rows) {
		db := schema(t, server)
		return db.url, sinktest.SQLRows(db)
	})
}
