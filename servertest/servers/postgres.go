//go:build unix

package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

func probePostgres(ctx context.Context, address string) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
