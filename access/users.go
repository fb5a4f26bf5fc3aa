package access

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	maxUsers = 100_000
	maxName  = 255 // bytes of a name of a principal, group or pattern
)

// users is what a users file says, with those whose password was right since it
// was read. It is replaced as a whole, so that what is remembered ends with it.
type users struct {
	byName map[string]user
	names  []string // sorted
	key    []byte   // of proofs
	right  *recent[[sha256.Size]byte, *Principal]
}

type user struct {
	verify verifier
	groups []string
}

// parseUsers reads
//
//	users:
//	  alice: {hash: "$2b$…", groups: [platform]}
func parseUsers(contents [][]byte) (*users, error) {
	var file struct {
		Users map[string]struct {
			Hash   string   `yaml:"hash"`
			Groups []string `yaml:"groups"`
		} `yaml:"users"`
	}
	if line, err := loadYAML(contents[0], &file); err != nil {
		// The library's words may quote values, and hashes among them.
		return nil, fmt.Errorf("line %d: it is not of the form users: {NAME: {hash: …, groups: […]}}", line)
	}
	if n := len(file.Users); n == 0 || n > maxUsers {
		return nil, fmt.Errorf("expected from 1 to %d entries below \"users\", found %d", maxUsers, n)
	}
	u := &users{
		byName: map[string]user{},
		names:  slices.Sorted(maps.Keys(file.Users)),
		key:    secret(),
		right:  &recent[[sha256.Size]byte, *Principal]{max: maxKeys},
	}
	for _, name := range u.names {
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("users: %w", err)
		}
		verify, err := parseHash(file.Users[name].Hash)
		if err != nil {
			return nil, fmt.Errorf("users: %q: hash: %w", name, err)
		}
		u.byName[name] = user{verify, file.Users[name].Groups}
	}
	return u, nil
}

// checkName refuses what would not be read again in a log as it was written.
func checkName(name string) error {
	if name == "" || len(name) > maxName || !printable(name) {
		return fmt.Errorf("expected a name of 1 to %d bytes without control characters, found %.80q", maxName, name)
	}
	return nil
}

// check returns whom a name and a password stand for, or nil. before is called
// before a hash is computed, which takes long, and may refuse to.
func (u *users) check(name, password string, before func() error) (*Principal, error) {
	proof := [sha256.Size]byte(u.proof("login", name, password))
	if p, ok := u.right.get(proof); ok {
		return p, nil
	}
	if err := before(); err != nil {
		return nil, err
	}
	found, known := u.byName[name]
	if !known {
		// The hash of some user is computed all the same, always the same one
		// for the same name, so that no clock tells the names that there are.
		sum := u.proof("nobody", name, "")
		found = u.byName[u.names[binary.BigEndian.Uint64(sum)%uint64(len(u.names))]]
	}
	if !found.verify(password) || !known {
		return nil, nil
	}
	p := &Principal{Name: name, Groups: found.groups, Method: "basic"}
	return u.right.update(proof, func(*Principal) *Principal { return p }), nil
}

// proof is a digest that only this process can make.
func (u *users) proof(kind, name, password string) []byte {
	h := hmac.New(sha256.New, u.key)
	for _, s := range []string{kind, name, password} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	return h.Sum(nil)
}

// basic checks a name and a password that came from host.
func (g *Guard) basic(ctx context.Context, host, name, password string) (*Principal, error) {
	if len(name) > maxName || len(password) > maxPassword {
		return nil, errWrong
	}
	hashing := false
	defer func() {
		if hashing {
			<-g.hashing
		}
	}()
	p, err := g.users.get().check(name, password, func() error {
		// A go is taken before it is known whether it is needed: many guesses
		// at a time are many guesses.
		if wait := g.failures.take(host, time.Now()); wait > 0 {
			return &tooManyError{wait}
		}
		select {
		case g.hashing <- struct{}{}:
			hashing = true
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, errWrong
	case hashing:
		g.failures.giveBack(host)
	}
	return p, nil
}
