package access

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Limits on hashes, so that no entry of a file makes a login cost a machine.
const (
	maxBcryptCost  = 14
	maxArgonMemory = 256 << 10 // KiB
	maxArgonTime   = 16
	maxArgonLanes  = 16
	maxPassword    = 1024 // bytes
	bcryptCost     = 11   // of Hash: some 0.1 s, once a user and change of file
	maxBcryptBytes = 72   // what bcrypt looks at; more is refused rather than cut
	minPassword    = 8
)

// Hash returns what a users file holds of a password, a bcrypt hash.
func Hash(password string) (string, error) {
	if n := len(password); n < minPassword || n > maxBcryptBytes {
		return "", fmt.Errorf("a password must have from %d to %d bytes, found %d", minPassword, maxBcryptBytes, n)
	}
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(h), nil
}

// verifier tells whether a password is the one that was hashed. It takes as
// long where it is not.
type verifier func(password string) bool

// parseHash reads a hash as bcrypt ($2a$, $2b$, $2y$) and argon2id write it.
func parseHash(text string) (verifier, error) {
	switch {
	case strings.HasPrefix(text, "$2"):
		return parseBcrypt(text)
	case strings.HasPrefix(text, "$argon2id$"):
		return parseArgon2(text)
	}
	return nil, errors.New("expected a hash that begins with $2b$ (bcrypt) or $argon2id$; 'penstock registry passwd' prints one")
}

func parseBcrypt(text string) (verifier, error) {
	cost, err := bcrypt.Cost([]byte(text))
	if err != nil || len(text) != 60 {
		return nil, errors.New("expected a bcrypt hash of 60 characters")
	}
	if cost > maxBcryptCost {
		return nil, fmt.Errorf("the bcrypt cost is %d, more than %d", cost, maxBcryptCost)
	}
	return func(password string) bool {
		short := password[:min(len(password), maxBcryptBytes)]
		return bcrypt.CompareHashAndPassword([]byte(text), []byte(short)) == nil && short == password
	}, nil
}

func parseArgon2(text string) (verifier, error) {
	malformed := errors.New("expected $argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH, salt and hash in base64 without padding")
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[2] != "v=19" {
		return nil, malformed
	}
	var memory, time, lanes uint32
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &lanes); err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", memory, time, lanes) {
		return nil, malformed
	}
	if memory < 1 || memory > maxArgonMemory || time < 1 || time > maxArgonTime || lanes < 1 || lanes > maxArgonLanes {
		return nil, fmt.Errorf("argon2id: m is %d, t %d, p %d; the most are %d, %d and %d, the least 1", memory, time, lanes, maxArgonMemory, maxArgonTime, maxArgonLanes)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil || len(salt) < 8 || len(salt) > 64 {
		return nil, malformed
	}
	sum, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(sum) < 16 || len(sum) > 64 {
		return nil, malformed
	}
	return func(password string) bool {
		got := argon2.IDKey([]byte(password), salt, time, memory, uint8(lanes), uint32(len(sum)))
		return subtle.ConstantTimeCompare(got, sum) == 1
	}, nil
}

// secret is a key that lives as long as the process.
func secret() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}
