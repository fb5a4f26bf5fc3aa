package main

// The raw side of 'penstock bench registry'.

import (
	"context"
	"io"
	"net/http"
	"os"
	"strconv"

	"golang.org/x/sync/errgroup"
)

// rawReply is a handler that writes the same bytes to everyone.
func rawReply(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
}

// rawAppend appends a record n times to a file, with so many writers, each of
// which syncs before it goes on.
func rawAppend(ctx context.Context, f *os.File, record []byte, n, writers int) error {
	return spread(ctx, n, writers, func(context.Context, int) error {
		if _, err := f.Write(record); err != nil {
			return err
		}
		return f.Sync()
	})
}

// spread calls do for 0 to n-1, from so many goroutines.
func spread(ctx context.Context, n, workers int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		group.Go(func() error {
			for i := w; i < n; i += workers {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// drain reads a reply to its end, so that its connection is used again.
func drain(r *http.Response) error {
	_, err := io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return err
}
