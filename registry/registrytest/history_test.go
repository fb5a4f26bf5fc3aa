package registrytest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"penstock/registry"
	"penstock/registry/compat"
	"penstock/registry/logs/memory"
	"penstock/registry/registrytest"
	"penstock/schemas"
	"penstock/schemas/avro"
)

// serve serves a registry over a log until the test ends.
func serve(t *testing.T, log registry.Log) *httptest.Server {
	t.Helper()
	r, err := registry.New(t.Context(), log, []schemas.Format{avro.Format{}}, compat.Checker{}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(registry.Handler(r, registry.HandlerOptions{}))
	t.Cleanup(func() {
		s.Close()
		r.Close()
	})
	return s
}

// faults lets clients work on nodes and returns what is wrong.
func faults(t *testing.T, nodes ...*httptest.Server) []string {
	t.Helper()
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL)
	}
	h := registrytest.NewHistory(urls...)
	working, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { h.Run(working, 4) })
	err := h.Await(t.Context(), 60)
	stop()
	work.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return h.Faults()
}

func TestHistory(t *testing.T) {
	if found := faults(t, serve(t, memory.New())); len(found) > 0 {
		t.Errorf("one registry in memory: %s", strings.Join(found, "\n"))
	}
}

// Two nodes over one log that do not look whether it has gone on: reads are stale.
func TestHistoryFindsStaleReads(t *testing.T) {
	log := memory.New()
	if found := faults(t, serve(t, log), serve(t, log)); len(found) == 0 {
		t.Error("found nothing wrong with nodes that know nothing of each other")
	}
}

// A registry that starts anew in the middle: what was acknowledged is lost.
func TestHistoryFindsLostWrites(t *testing.T) {
	first, second := serve(t, memory.New()), serve(t, memory.New())
	var requests atomic.Int64
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		now := first
		if requests.Add(1) > 60 {
			now = second
		}
		now.Config.Handler.ServeHTTP(w, req)
	}))
	t.Cleanup(node.Close)
	if found := faults(t, node); len(found) == 0 {
		t.Error("found nothing wrong with a registry that has forgotten everything")
	}
}
