package jetstream

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// ParseURL reads nats://HOST:PORT[,HOST:PORT…][/STREAM][?replicas=N], or tls://
// in the place of nats://.
func ParseURL(s string) (Config, error) {
	rest, query, _ := strings.Cut(s, "?")
	scheme, hosts, ok := strings.Cut(rest, "://")
	hosts, stream, _ := strings.Cut(hosts, "/")
	if !ok || scheme != "nats" && scheme != "tls" || hosts == "" {
		return Config{}, fmt.Errorf("read the address of the registry's stream: expected nats://HOST:PORT/STREAM or tls://HOST:PORT/STREAM")
	}
	c := Config{URL: scheme + "://" + hosts, Stream: stream}
	values, err := url.ParseQuery(query)
	for name, value := range values {
		if name != "replicas" {
			err = fmt.Errorf("it has the parameter %q, expected replicas alone", name)
			break
		}
		if c.Replicas, err = strconv.Atoi(value[0]); err != nil || c.Replicas < 1 || c.Replicas > 5 {
			err = fmt.Errorf("replicas is %q, expected 1 to 5", value[0])
		}
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the address of the registry's stream: %w", err)
	}
	return c, nil
}
