package kafka

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// ParseURL returns the seeds that a URL of the form kafka://host:port,host:port
// names. The port is 9092 where there is none.
func ParseURL(s string) (seeds []string, err error) {
	const want = "want kafka://host:port,host:port"
	u, ok := strings.CutPrefix(s, "kafka://")
	if !ok {
		return nil, fmt.Errorf("parse broker URL: no kafka:// at its beginning, %s", want)
	}
	if strings.Contains(u, "@") { // not shown: there may be a password in it
		return nil, fmt.Errorf("parse broker URL: a user or password in it is not supported, %s", want)
	}
	for seed := range strings.SplitSeq(strings.TrimSuffix(u, "/"), ",") {
		// Parsed alone, because url.Parse takes a list of hosts for one.
		one, err := url.Parse("kafka://" + seed)
		if err != nil || one.Hostname() == "" || strings.ContainsAny(one.Hostname(), "[]") || one.Host != seed {
			return nil, fmt.Errorf("parse broker URL %q: %q is not host:port, %s", s, seed, want)
		}
		port := cmp.Or(one.Port(), "9092")
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("parse broker URL %q: %q is not a port from 1 to 65535", s, port)
		}
		seeds = append(seeds, net.JoinHostPort(one.Hostname(), port))
	}
	return seeds, nil
}
