package postgres_test

import (
	"testing"

	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sinktest"
	"penstock/servertest"
)

func TestMain(m *testing.M) { sinktest.Main(m, postgres.Open) }

func TestCrash(t *testing.T) {
	db := schema(t, servertest.Postgres(t))
	sinktest.Crash(t, db, db.url)
}
