package servertest

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePorts returns n ports of 127.0.0.1 on which nothing listens. They lie below
// those that systems hand out by themselves, to whoever connects or asks for port 0,
// so that nobody has taken one before its server listens or while it is restarted.
func FreePorts(n int) ([]int, error) {
	const least, most, tries = 10_000, 32_000, 100
	var ports []int
	for try := 0; len(ports) < n; try++ {
		port := least + rand.IntN(most-least)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil && try < tries {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer l.Close() // not earlier: the next port must be another one
		ports = append(ports, port)
	}
	return ports, nil
}
