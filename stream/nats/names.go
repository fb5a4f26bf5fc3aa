package nats

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// maxName is how long an escaped name may get. NATS admits 255 bytes in the
// name of a stream or a consumer, and a consumer's name carries a suffix.
const maxName = 200

// escape writes name with letters, digits, "-" and "_" alone, every other byte
// as %XX. The result fits the name of a stream or consumer and one token of a
// subject. A name that gets too long is cut and ends in "%%" and its hash.
func escape(name string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	s := b.String()
	if len(s) <= maxName {
		return s
	}
	sum := sha256.Sum256([]byte(name))
	return s[:maxName-2-32] + "%%" + hex.EncodeToString(sum[:16])
}

// subject is where the records of one partition of a topic are published.
func subject(streamName string, partition int) string {
	return streamName + "." + strconv.Itoa(partition)
}
