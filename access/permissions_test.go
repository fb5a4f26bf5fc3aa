package access

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const permissionsText = `
groups:
  platform: [alice]
rules:
  - {allow: [read, compatibility], to: ["*", anonymous], on: ["public-*"]}
  - {allow: [read, write], to: [group:team], on: ["orders-*", ":.team:*"]}
  - {allow: ["*"], to: [group:platform], on: ["*"]}
  - {deny: [delete], to: ["*"], on: ["orders-value", ":.*:locked-*"]}
  - {allow: [read], to: [reader], on: [":.*:*"]}
  - {allow: [admin], to: [root], on: [""]}
  - {allow: [read], to: ["group"], on: ["*-value"]}
`

func TestPermissions(t *testing.T) {
	p, err := parsePermissions([][]byte{[]byte(permissionsText)}, operations)
	if err != nil {
		t.Fatal(err)
	}
	principals := map[string]*Principal{
		"anonymous": nil,
		"alice":     {Name: "alice"},                         // of platform by the file
		"bob":       {Name: "bob", Groups: []string{"team"}}, // of team by what he has shown
		"carol":     {Name: "carol"},
		"reader":    {Name: "reader"},
		"root":      {Name: "root"},
		"group":     {Name: "group"},
		// Names that look like entries of "to" are names all the same.
		"group:platform": {Name: "group:platform"},
		"*":              {Name: "*"},
	}
	for line := range strings.Lines(`
anonymous read public-a yes
anonymous read orders-a no
anonymous write public-a no
anonymous read :.team:public-a no
carol read public-a yes
carol compatibility public-a yes
carol read publik-a no
bob write orders-value yes
bob write orders- yes
bob write orders no
bob write my-orders-1 no
bob write :.team:x yes
bob read :.team: yes
bob write :.team2:x no
bob write :.other:orders-1 no
bob write :.:orders-1 yes
bob read - no
bob delete orders-1 no
alice admin - yes
alice delete orders-1 yes
alice delete orders-value no
alice delete :.:orders-value no
alice delete :.team:locked-1 no
alice delete locked-1 no
alice delete :.team:open-1 yes
reader read a yes
reader read :.x:a yes
reader read :.x: yes
reader read - no
root admin - no
root admin a no
group read a-value yes
group read :.x:a-value no
group write a-value no
group:platform admin - no
group:platform read public-a yes
* admin - no
`) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		who, op, subject := fields[0], fields[1], strings.TrimPrefix(fields[2], "-")
		if got := allowed(p.of(principals[who]), op, subject); got != (fields[3] == "yes") {
			t.Errorf("%s: got %t", strings.TrimSpace(line), got)
		}
	}
	if !p.forAnonymous() {
		t.Error("nothing is for anonymous")
	}
}

func TestPermissionsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "no documents",
		"rules: []":                   "from 1 to",
		"rules:\n- {alow: [read]}":    "line 2: field alow not found",
		"rules: [{to: [a], on: [b]}]": `rules[0]: expected either "allow" or "deny"`,
		"rules: [{allow: [read], deny: [read], to: [a], on: [b]}]":             `expected either`,
		"rules: [{allow: [raed], to: [a], on: [b]}]":                           `operations of read, write, delete, compatibility, admin or "*", found "raed"`,
		"rules: [{allow: [read], to: [a], on: [b]}, {allow: [read], on: [b]}]": "rules[1]: to: expected from 1",
		"rules: [{allow: [read], to: [a]}]":                                    "on: expected from 1",
		"rules: [{allow: [read], to: ['group:'], on: [b]}]":                    "to: expected a name",
		"rules: [{allow: [read], to: [\"a\\tb\"], on: [b]}]":                   "without control characters",
		"groups: {'': [a]}\nrules: [{allow: [read], to: [a], on: [b]}]":        "groups: expected a name",
		"rules: &a [*a]": "line",
	} {
		if _, err := parsePermissions([][]byte{[]byte(text)}, operations); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// glob agrees with the plain definition by recursion.
func TestGlob(t *testing.T) {
	var plain func(p, s string) bool
	plain = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return plain(p[1:], s) || s != "" && plain(p, s[1:])
		default:
			return s != "" && p[0] == s[0] && plain(p[1:], s[1:])
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,8}`).Draw(t, "text")
		if got, want := glob(p, s), plain(p, s); got != want {
			t.Errorf("glob(%q, %q) = %t", p, s, got)
		}
	})
}

// A denial holds whatever stands around it, and the order of rules means nothing.
func TestOrderMeansNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) rule {
			return rule{
				deny:       rapid.Bool().Draw(t, "deny"),
				operations: []string{rapid.SampledFrom([]string{"read", "write", "*"}).Draw(t, "operation")},
				on:         []pattern{parsePattern(rapid.SampledFrom([]string{"*", "a*", "ab", ":.x:*"}).Draw(t, "on"))},
			}
		}), 0, 6).Draw(t, "rules")
		shuffled := rapid.Permutation(rules).Draw(t, "shuffled")
		for _, subject := range []string{"", "a", "ab", ":.x:a"} {
			got := allowed(rules, "read", subject)
			if other := allowed(shuffled, "read", subject); got != other {
				t.Errorf("on %q: %t, and %t in another order", subject, got, other)
			}
			for _, r := range rules {
				if got && r.deny && r.covers("read", subject) {
					t.Errorf("on %q: allowed, though a rule denies it", subject)
				}
			}
		}
	})
}

func FuzzPermissions(f *testing.F) {
	f.Add([]byte(permissionsText))
	f.Add([]byte("rules: [{allow: [read], to: [a], on: [b]}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePermissions([][]byte{text}, operations)
		if err != nil {
			return
		}
		if allowed(p.of(&Principal{Name: "nobody-has-this-name"}), "no such operation", "x") && !strings.Contains(string(text), "*") {
			t.Errorf("%q allows everything", text)
		}
	})
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte(fmt.Sprintf("users: {alice: {hash: %q, groups: [a]}}", cheap(f, "password"))))
	f.Add([]byte(`users: {a: {hash: "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHQ"}}`))
	f.Add([]byte("users: {a: {hash: $2a$31$}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		u, err := parseUsers([][]byte{text})
		if err == nil && len(u.names) == 0 {
			t.Errorf("%q holds no user, and is taken", text)
		}
		if err != nil && strings.Contains(err.Error(), "$2") && !strings.Contains(err.Error(), "$2b$ (bcrypt)") {
			t.Errorf("%q: a hash is shown: %v", text, err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	key := newECKey(f)
	f.Add([]byte(keySet(f, jwk(f, "k", &key.PublicKey))))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if keys, err := parseKeys(text); err == nil && len(keys) == 0 {
			t.Errorf("%q: no key and no error", text)
		}
	})
}

func BenchmarkAllowed(b *testing.B) {
	p, err := parsePermissions([][]byte{[]byte(permissionsText)}, operations)
	if err != nil {
		b.Fatal(err)
	}
	rules := p.of(&Principal{Name: "bob", Groups: []string{"team"}})
	for b.Loop() {
		if !allowed(rules, "write", "orders-value") {
			b.Fatal("refused")
		}
	}
}
