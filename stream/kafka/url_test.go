package kafka

import (
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	f := func(url string, want ...string) {
		t.Helper()
		got, err := ParseURL(url)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("ParseURL(%q): %v (-want +got):\n%s", url, err, diff)
		}
	}
	f("kafka://h:1", "h:1")
	f("kafka://h", "h:9092")
	f("kafka://h:1/", "h:1")
	f("kafka://a:1,b,c:3", "a:1", "b:9092", "c:3")
	f("kafka://[::1]:7,[::2]", "[::1]:7", "[::2]:9092")

	bad := func(url, why string) {
		t.Helper()
		got, err := ParseURL(url)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("ParseURL(%q) = %q, %v; want an error with %q", url, got, err, why)
		}
	}
	bad("", "no kafka://")
	bad("h:9092", "no kafka://")
	bad("nats://h", "no kafka://")
	bad("kafka://", `"" is not host:port`)
	bad("kafka://a:1,,b:2", `"" is not host:port`)
	bad("kafka://]", `"]" is not host:port`)
	bad("kafka://:1", `":1" is not host:port`)
	bad("kafka://h:0", `"0" is not a port`)
	bad("kafka://h:65536", `"65536" is not a port`)
	bad("kafka://h:1/topic", "is not host:port")
	bad("kafka://h:1?x=y", "is not host:port")

	if _, err := ParseURL("kafka://user:hunter2@h:1"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a URL with a password: %v", err)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"kafka://h:1", "kafka://a,b:2/", "kafka://[::1]:9,%zz", "kafka://user:p@h", "kafka://h:99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		seeds, err := ParseURL(s)
		if err != nil {
			return
		}
		for _, seed := range seeds {
			if host, port, err := net.SplitHostPort(seed); err != nil || host == "" || port == "" {
				t.Errorf("ParseURL(%q) has seed %q", s, seed)
			}
		}
	})
}
