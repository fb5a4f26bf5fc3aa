package trust

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"filippo.io/mldsa"
	"filippo.io/mldsa/x509"
)

// The algorithms by which keys sign.
const (
	Ed25519 = "ed25519"
	MLDSA65 = "ml-dsa-65"
)

// maxKey bounds what is parsed as a key, in bytes.
const maxKey = 8192

// PublicKey tells who signed. Its zero value is no key, and verifies nothing.
type PublicKey struct {
	key crypto.PublicKey
	der string
}

// ParsePublicKey reads an Ed25519 or ML-DSA-65 key in PKIX, DER.
func ParsePublicKey(der []byte) (PublicKey, error) {
	if len(der) > maxKey {
		return PublicKey{}, fmt.Errorf("parse public key: expected at most %d bytes, found %d", maxKey, len(der))
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	p, err := newPublicKey(key)
	if err == nil && p.der != string(der) {
		err = errors.New("parse public key: expected the one way to write it")
	}
	if err != nil {
		return PublicKey{}, err
	}
	return p, nil
}

func newPublicKey(key crypto.PublicKey) (PublicKey, error) {
	if algorithmOf(key) == "" {
		return PublicKey{}, fmt.Errorf("expected a key of %s or %s, found %T", Ed25519, MLDSA65, key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("marshal public key: %w", err)
	}
	return PublicKey{key, string(der)}, nil
}

// algorithmOf is "" for a key of any other.
func algorithmOf(key crypto.PublicKey) string {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return Ed25519
	case *mldsa.PublicKey:
		if key.Parameters() == mldsa.MLDSA65() {
			return MLDSA65
		}
	}
	return ""
}

// DER is the key in PKIX.
func (p PublicKey) DER() []byte { return []byte(p.der) }

// String is the algorithm and the beginning of the SHA-256 of DER.
func (p PublicKey) String() string {
	sum := sha256.Sum256([]byte(p.der))
	return algorithmOf(p.key) + " " + hex.EncodeToString(sum[:8])
}

// Equal says that p and q are the same key.
func (p PublicKey) Equal(q PublicKey) bool { return p.der == q.der && p.der != "" }

// Verify says that the owner of the key signed text.
func (p PublicKey) Verify(text, signature []byte) bool {
	switch key := p.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, text, signature)
	case *mldsa.PublicKey:
		return mldsa.Verify(key, text, signature, nil) == nil
	}
	return false
}

// PrivateKey signs. It does not print what it is.
type PrivateKey struct {
	signer crypto.Signer
	public PublicKey
}

// GenerateKey makes a key for an algorithm.
func GenerateKey(algorithm string) (PrivateKey, error) {
	switch algorithm {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return PrivateKey{}, err
		}
		return newPrivateKey(key)
	case MLDSA65:
		key, err := mldsa.GenerateKey(mldsa.MLDSA65())
		if err != nil {
			return PrivateKey{}, err
		}
		return newPrivateKey(key)
	}
	return PrivateKey{}, fmt.Errorf("expected %s or %s, found %q", Ed25519, MLDSA65, algorithm)
}

// ParsePrivateKey reads an Ed25519 or ML-DSA-65 key in PKCS 8, DER.
func ParsePrivateKey(der []byte) (PrivateKey, error) {
	if len(der) > maxKey {
		return PrivateKey{}, fmt.Errorf("parse private key: expected at most %d bytes, found %d", maxKey, len(der))
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("parse private key: %w", err)
	}
	return newPrivateKey(key)
}

func newPrivateKey(key any) (PrivateKey, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return PrivateKey{}, fmt.Errorf("expected a key that signs, found %T", key)
	}
	public, err := newPublicKey(signer.Public())
	return PrivateKey{signer, public}, err
}

// Zero says that k is no key.
func (k PrivateKey) Zero() bool { return k.signer == nil }

// Public is what verifies what k signs.
func (k PrivateKey) Public() PublicKey { return k.public }

// DER is the key in PKCS 8. It is a secret.
func (k PrivateKey) DER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(k.signer) }

// String and GoString name the public half alone.
func (k PrivateKey) String() string { return "private key of " + k.public.String() }

// GoString is String.
func (k PrivateKey) GoString() string { return k.String() }

// Sign signs text. Neither algorithm hashes it first outside of its own rules: texts
// are short, and say what they are for.
func (k PrivateKey) Sign(text []byte) ([]byte, error) {
	if k.signer == nil {
		return nil, errors.New("sign: there is no key")
	}
	return k.signer.Sign(rand.Reader, text, crypto.Hash(0))
}
