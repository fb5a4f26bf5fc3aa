package jetstream

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	f := func(s string, want Config) {
		t.Helper()
		got, err := ParseURL(s)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", s, err, diff)
		}
	}
	f("nats://127.0.0.1:4222", Config{URL: "nats://127.0.0.1:4222"})
	f("nats://a:4222,b:4222/registry?replicas=3", Config{URL: "nats://a:4222,b:4222", Stream: "registry", Replicas: 3})
	f("tls://user:p%2Fw@a:4222/", Config{URL: "tls://user:p%2Fw@a:4222"})
	for _, bad := range []string{"", "nats:", "nats://", "kafka://a", "nats:///s", "nats://a?replicas=0", "nats://a?replicas=x", "nats://a?copies=3", "nats://a?%zz"} {
		if c, err := ParseURL(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, c)
		}
	}
}
