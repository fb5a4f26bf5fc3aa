package nats

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/streamtest"
)

// failover is short in tests, which wait for it.
const failover = 2 * time.Second

// features are those of the broker at url.
func features(b *Broker, url, token string) streamtest.Features {
	return streamtest.Features{
		Atomic: streamtest.Atomic{Conditions: true, Open: func(t testing.TB, l *streamtest.Line) stream.Broker {
			c := Config{Options: Options{Failover: failover}}
			if err := c.setDefaults(); err != nil {
				t.Fatal(err)
			}
			b, err := connect(t.Context(), url, c.Options, 1, nats.Token(token), nats.SetCustomDialer(l))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}, Commit: func(sent []byte) bool { return bytes.Contains(sent, []byte(batchCommitHeader)) }},
		Fenced: true, Releases: true, Resumes: true, Keeps: true, Surveys: true, Timeout: 12 * time.Second,
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
	file, err := ReadServerFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	streamtest.Run(t, features(owner, file.URL, file.Token), func(t testing.TB) stream.Broker { return open(t) })
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
	streamtest.Run(t, features(b, url, ""), func(t testing.TB) stream.Broker { return open(t) })
}
