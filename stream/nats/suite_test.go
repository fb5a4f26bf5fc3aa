package nats

import (
	"context"
	"testing"
	"time"

	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/streamtest"
)

// failover is short in tests, which wait for it.
const failover = 2 * time.Second

func features(t *testing.T, b *Broker) streamtest.Features {
	return streamtest.Features{
		Fenced: true, Releases: true, Resumes: true, Surveys: true, Timeout: 12 * time.Second,
		Crash: func(t testing.TB, src stream.SourceCloser) {
			src.(*source).b.nc.Close()
		},
		Delete: func(t testing.TB, topic string) {
			if err := b.js.DeleteStream(context.Background(), escape(topic)); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestSuite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func(t testing.TB) *Broker {
		b, err := OpenDir(context.Background(), dir, Options{Failover: failover})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	owner := open(t)
	t.Cleanup(func() { owner.Close() })
	streamtest.Run(t, features(t, owner), func(t testing.TB) stream.Broker { return open(t) })
}

func TestSuiteRemote(t *testing.T) {
	t.Parallel()
	url := servertest.NATS(t)
	open := func(t testing.TB) *Broker {
		b, err := Open(context.Background(), Config{URL: url, Options: Options{Failover: failover}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open(t)
	t.Cleanup(func() { b.Close() })
	streamtest.Run(t, features(t, b), func(t testing.TB) stream.Broker { return open(t) })
}
