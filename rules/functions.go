package rules

import (
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// functionsOfConfluent are the functions that Confluent's clients give to CEL
// beside its own: what a text can be checked for, each a method of it.
func functionsOfConfluent() []cel.EnvOption {
	var out []cel.EnvOption
	for name, is := range map[string]func(string) bool{
		"isEmail":    isEmail,
		"isHostname": isHostname,
		"isIpv4":     func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() },
		"isIpv6":     func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is6() },
		"isUri":      func(s string) bool { u, err := url.Parse(s); return err == nil && u.IsAbs() },
		"isUriRef":   func(s string) bool { _, err := url.Parse(s); return err == nil },
		"isUuid":     uuid.MatchString,
	} {
		out = append(out, cel.Function(name, cel.MemberOverload("string_"+name, []*cel.Type{cel.StringType}, cel.BoolType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.Bool(is(string(v.(types.String)))) }))))
	}
	return out
}

// uuid is a UUID in one of the four ways to write it.
var uuid = regexp.MustCompile(`(?i)\A(?:(?:urn:uuid:)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}|[0-9a-f]{32})\z`)

func isEmail(s string) bool {
	local, host, _ := strings.Cut(s, "@")
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && len(s) <= 254 && len(local) <= 64 && isHostname(host)
}

// isHostname says whether s is a host's name as RFC 1034 has it, whose last part
// is no number.
func isHostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	number := true
	for part := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if part == "" || len(part) > 63 || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		number = true
		for _, c := range part {
			digit := c >= '0' && c <= '9'
			if !digit && c != '-' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
			number = number && digit
		}
	}
	return !number
}
