package registry

import (
	"cmp"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
)

// guid is the identity of a schema in all registries: the MD5 of its stored
// text, references, metadata and rules, as Confluent computes it.
type guid [md5.Size]byte

// String prints a guid as a UUID.
func (g guid) String() string {
	s := hex.EncodeToString(g[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

func parseGUID(s string) (g guid, ok bool) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	return guid(append(raw, make([]byte, md5.Size)...)[:md5.Size]), err == nil && len(raw) == md5.Size
}

// guidOf hashes text, references, metadata and rules. Neither lengths nor
// separators are hashed, and nil metadata differs from empty.
func guidOf(text string, refs []Reference, m *Metadata, rs *RuleSet) guid {
	if len(refs) == 0 && m == nil && rs == nil {
		return md5.Sum([]byte(text)) // as most have it, and without a copy
	}
	h := md5.New()
	write(h, text)
	for _, r := range refs {
		write(h, r.Name, r.Subject)
		_ = binary.Write(h, binary.BigEndian, int32(r.Version)) // a hash takes every write
	}
	if m != nil {
		write(h, "\x01")
		for _, path := range sorted(maps.Keys(m.Tags)) {
			write(h, path)
			write(h, set(m.Tags[path])...)
		}
		for _, key := range sorted(maps.Keys(m.Properties)) {
			write(h, key, m.Properties[key])
		}
		write(h, set(m.Sensitive)...)
	}
	if rs != nil {
		write(h, "\x01")
		for _, rule := range slices.Concat(rs.MigrationRules, rs.DomainRules, rs.EncodingRules) {
			rule.hash(h)
		}
		write(h, strings.ToUpper(rs.EnableAt))
	}
	return guid(h.Sum(nil))
}

func (r Rule) hash(h hash.Hash) {
	write(h, r.Name, r.Doc, cmp.Or(r.Kind, "TRANSFORM"), cmp.Or(r.Mode, "WRITEREAD"), r.Type)
	write(h, set(r.Tags)...)
	for _, key := range sorted(maps.Keys(r.Params)) {
		write(h, key, r.Params[key])
	}
	write(h, r.Expr, r.OnSuccess, r.OnFailure)
	if r.Disabled {
		write(h, "\x01")
	}
}

func write(h hash.Hash, parts ...string) {
	for _, s := range parts {
		_, _ = io.WriteString(h, s)
	}
}

// set sorts and leaves out doubles.
func set(s []string) []string {
	return slices.Compact(sorted(slices.Values(s)))
}

// sorted orders by UTF-16 code units, as Java does.
func sorted(seq func(func(string) bool)) []string {
	return slices.SortedFunc(seq, func(a, b string) int {
		return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
	})
}
