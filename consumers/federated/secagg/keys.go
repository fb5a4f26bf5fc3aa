package secagg

import (
	"bytes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Hash is a SHA-256.
type Hash = [sha256.Size]byte

const (
	x25519Size     = 32
	publicSize     = x25519Size + mlkem.EncapsulationKeySize768
	ciphertextSize = mlkem.CiphertextSize768
	tagSize        = 16 // of AES-GCM
)

// derive is HKDF-SHA256 without a salt. info begins with the protocol and a label.
func derive(from []byte, label string, info []byte, size int) []byte {
	out, err := hkdf.Key(sha256.New, from, nil, protocol+" "+label+"\x00"+string(info), size)
	if err != nil {
		panic("secagg: a derived key of a length that is never asked for: " + err.Error())
	}
	return out
}

// streamOf is an endless stream of key material: AES-256 in counter mode from 0.
func streamOf(from []byte, label string) cipher.Stream {
	return cipher.NewCTR(newAES(derive(from, label, nil, 32)), make([]byte, 16))
}

// pair is a hybrid key pair.
type pair struct {
	x *ecdh.PrivateKey
	k *mlkem.DecapsulationKey768
}

// newPair makes the pair that belongs to a secret.
func newPair(from []byte, label string) (pair, error) {
	b := derive(from, label, nil, x25519Size+mlkem.SeedSize)
	x, err := ecdh.X25519().NewPrivateKey(b[:x25519Size])
	if err != nil {
		return pair{}, fmt.Errorf("make X25519 key: %w", err)
	}
	k, err := mlkem.NewDecapsulationKey768(b[x25519Size:])
	if err != nil {
		return pair{}, fmt.Errorf("make ML-KEM key: %w", err)
	}
	return pair{x, k}, nil
}

// public is the pair's public half: X25519, then ML-KEM.
func (p pair) public() []byte {
	return append(p.x.PublicKey().Bytes(), p.k.EncapsulationKey().Bytes()...)
}

// classical is the X25519 half of what p has in common with a public half.
func (p pair) classical(public []byte) ([]byte, error) {
	x, err := ecdh.X25519().NewPublicKey(public[:x25519Size])
	if err != nil {
		return nil, fmt.Errorf("read X25519 key: %w", err)
	}
	common, err := p.x.ECDH(x)
	if err != nil {
		return nil, fmt.Errorf("agree by X25519: %w", err)
	}
	return common, nil
}

// encapsulate is the ML-KEM half, as the one who chooses it.
func encapsulate(public []byte) (common, ciphertext []byte, err error) {
	k, err := mlkem.NewEncapsulationKey768(public[x25519Size:publicSize])
	if err != nil {
		return nil, nil, fmt.Errorf("read ML-KEM key: %w", err)
	}
	common, ciphertext = k.Encapsulate()
	return common, ciphertext, nil
}

// checkPublic says why public cannot be half of an agreement.
func checkPublic(public []byte) error {
	if _, err := mlkem.NewEncapsulationKey768(public[x25519Size:]); err != nil {
		return fmt.Errorf("read ML-KEM key: %w", err)
	}
	// A point of low order agrees with no key, so any will show it.
	x, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{1}, x25519Size))
	if err != nil {
		return fmt.Errorf("make X25519 key: %w", err)
	}
	_, err = pair{x: x}.classical(public)
	return err
}

// common is HKDF over both halves, of what two clients use for one purpose. from
// made the ciphertext that to opened; roster is the hash of the server's Roster,
// which covers training, round, attempt and all keys.
func common(label string, classical, quantum []byte, roster Hash, from, to []byte) (s secret) {
	a, b := sha256.Sum256(from), sha256.Sum256(to)
	info := bytes.Join([][]byte{roster[:], a[:], b[:]}, nil)
	copy(s[:], derive(append(bytes.Clone(classical), quantum...), label, info, secretSize))
	return s
}

// seal encrypts by AES-256-GCM under a key that is used once.
func seal(key, plain, about []byte) []byte {
	return gcm(key).Seal(nil, make([]byte, 12), plain, about)
}

// open decrypts what seal made.
func open(key, sealed, about []byte) ([]byte, error) {
	plain, err := gcm(key).Open(nil, make([]byte, 12), sealed, about)
	if err != nil {
		return nil, errors.New("it was not sealed with this key")
	}
	return plain, nil
}

func gcm(key []byte) cipher.AEAD {
	a, err := cipher.NewGCM(newAES(key))
	if err != nil {
		panic("secagg: GCM over AES: " + err.Error())
	}
	return a
}

// The two secrets of a client that are shared.
type kind uint8

const (
	seedKind kind = 1 // of its own mask
	rootKind kind = 2 // of its mask keys
)

// promise binds a client to the share that it gives of a secret to a peer; what
// it is of cannot be guessed, so it hides the share.
func promise(roster Hash, of kind, owner, holder uint16, share secret) Hash {
	b := append([]byte(protocol+" promise\x00"), roster[:]...)
	b = append(b, byte(of))
	b = binary.LittleEndian.AppendUint16(b, owner)
	b = binary.LittleEndian.AppendUint16(b, holder)
	return sha256.Sum256(append(b, share[:]...))
}

// seedPromise binds a client to the seed of its own mask.
func seedPromise(roster Hash, owner uint16, seed secret) Hash {
	return promise(roster, seedKind, owner, 0, seed)
}
