package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"pgregory.net/rapid"

	"penstock/servertest"
)

// seeded is a key that is always the same.
func seeded(t testing.TB, algorithm string, seed byte) PrivateKey {
	t.Helper()
	b := bytes.Repeat([]byte{seed}, 32)
	var key any = ed25519.NewKeyFromSeed(b)
	if algorithm == MLDSA65 {
		var err error
		if key, err = mldsa.NewPrivateKey(mldsa.MLDSA65(), b); err != nil {
			t.Fatal(err)
		}
	}
	k, err := newPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeys(t *testing.T) {
	for _, algorithm := range []string{Ed25519, MLDSA65} {
		k, err := GenerateKey(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		der, err := k.DER()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePrivateKey(der)
		if err != nil || !again.Public().Equal(k.Public()) {
			t.Errorf("%s: %v", algorithm, err)
		}
		public, err := ParsePublicKey(k.Public().DER())
		if err != nil {
			t.Fatal(err)
		}
		signature, err := again.Sign([]byte("text"))
		if err != nil || !public.Verify([]byte("text"), signature) || public.Verify([]byte("test"), signature) {
			t.Errorf("%s: %v", algorithm, err)
		}
		if (PublicKey{}).Verify([]byte("text"), signature) || (PublicKey{}).Equal(PublicKey{}) {
			t.Error("no key verifies, or is one")
		}
		secret, shown := hex.EncodeToString(der[len(der)-32:]), fmt.Sprintf("%v %+v %#v %s", k, k, k, k)
		if strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprint(der[len(der)-8:])) || !strings.Contains(shown, algorithm+" ") {
			t.Errorf("a key shows itself as %s", shown)
		}
		if _, err := ParsePublicKey(append(public.DER(), 0)); err == nil {
			t.Error("a byte too many is taken")
		}
	}
	if _, err := GenerateKey("rsa"); err == nil {
		t.Error("an unknown algorithm is taken")
	}
	other, err := mldsa.GenerateKey(mldsa.MLDSA44())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newPrivateKey(other); err == nil {
		t.Error("ML-DSA-44 is taken")
	}
	if _, err := (PrivateKey{}).Sign(nil); err == nil {
		t.Error("no key signs")
	}
}

// No two updates, and no two entries, are one text; and none is that of the other.
func TestTextsAreTold(t *testing.T) {
	names := rapid.SampledFrom([]string{"", "a", "b", "ab", "\x00", "\x01\x00\x00\x00a"})
	update := rapid.Custom(func(t *rapid.T) Update {
		number := rapid.Int64Range(0, 1)
		u := Update{
			Topic: names.Draw(t, "topic"), Client: names.Draw(t, "client"), Round: number.Draw(t, "round"),
			Samples: number.Draw(t, "samples"), Loss: float64(number.Draw(t, "loss")), Steps: number.Draw(t, "steps"),
		}
		u.Base[0], u.Parameters[31] = byte(number.Draw(t, "base")), byte(number.Draw(t, "parameters"))
		if rapid.Bool().Draw(t, "sum") {
			u.Partial = []byte(names.Draw(t, "partial"))
		}
		return u
	})
	record := rapid.Custom(func(t *rapid.T) Entry {
		return Entry{
			Number: rapid.Int64Range(0, 1).Draw(t, "number"), Action: names.Draw(t, "action"), Client: names.Draw(t, "client"),
			Key: []byte(names.Draw(t, "key")), Reason: names.Draw(t, "reason"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		u, v := update.Draw(t, "u"), update.Draw(t, "v")
		if bytes.Equal(u.Text(), v.Text()) != reflect.DeepEqual(u, v) {
			t.Fatalf("%+v and %+v", u, v)
		}
		e, f := record.Draw(t, "e"), record.Draw(t, "f")
		topic, other := names.Draw(t, "topic"), names.Draw(t, "other")
		if same := topic == other && fmt.Sprint(e) == fmt.Sprint(f); bytes.Equal(e.Text(topic), f.Text(other)) != same {
			t.Fatalf("%+v and %+v", e, f)
		}
		if bytes.Equal(u.Text(), e.Text(topic)) {
			t.Fatal("an update is an entry")
		}
	})
}

func sign(t testing.TB, k PrivateKey, topic string, e Entry) Entry {
	t.Helper()
	var err error
	if e.Signature, err = k.Sign(e.Text(topic)); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRoster(t *testing.T) {
	authority, ann, bob := seeded(t, Ed25519, 1), seeded(t, MLDSA65, 2), seeded(t, Ed25519, 3)
	r := NewRoster("t.roster", authority.Public())
	enrol := func(number int64, client string, k PrivateKey) Entry {
		return sign(t, authority, "t.roster", Entry{Number: number, Action: Enrol, Client: client, Key: k.Public().DER()})
	}
	revoke := func(number int64, client string) Entry {
		return sign(t, authority, "t.roster", Entry{Number: number, Action: Revoke, Client: client, Reason: "lost"})
	}
	add := func(offset int64, e Entry, want string) {
		t.Helper()
		err, before := r.Check(e), r.Next()
		if added := r.Add(offset, e); want != "" {
			if added == nil || !strings.Contains(added.Error(), want) || r.Next() != before {
				t.Errorf("got %v, want %q", added, want)
			}
		} else if err != nil || added != nil || r.Next() != before+1 {
			t.Errorf("%v, %v", err, added)
		}
	}
	add(3, enrol(2, "ann", ann), "expected entry number 1")
	add(3, revoke(1, "ann"), "an enrolled client")
	add(3, sign(t, bob, "t.roster", Entry{Number: 1, Action: Enrol, Client: "bob", Key: bob.Public().DER()}), "signed by ed25519")
	add(3, sign(t, authority, "u.roster", Entry{Number: 1, Action: Enrol, Client: "ann", Key: ann.Public().DER()}), "signed by")
	add(3, sign(t, authority, "t.roster", Entry{Number: 1, Action: "promote", Client: "ann"}), "promote")
	add(3, sign(t, authority, "t.roster", Entry{Number: 1, Action: Enrol, Client: "ann", Key: []byte("key")}), "parse public key")
	add(3, sign(t, authority, "t.roster", Entry{Number: 1, Action: Enrol, Key: ann.Public().DER()}), "a name")
	add(3, enrol(1, "ann", ann), "")
	add(3, enrol(2, "bob", bob), "an offset above 3")
	add(4, enrol(2, "ann", ann), "already")
	add(5, enrol(2, "bob", bob), "")
	add(6, revoke(3, "ann"), "")
	add(7, enrol(1, "ann", ann), "expected entry number 4") // published again by someone
	add(7, revoke(4, "ann"), "an enrolled client")
	add(9, enrol(4, "ann", bob), "")
	quarantine := func(number int64, client string) Entry {
		return sign(t, authority, "t.roster", Entry{Number: number, Action: Quarantine, Client: client, Reason: "off"})
	}
	add(11, quarantine(5, "bob"), "")
	add(12, quarantine(6, "bob"), "an enrolled client")
	add(12, enrol(6, "bob", bob), "") // the same key again

	u := Update{Topic: "t.updates", Client: "ann", Round: 1}
	at := func(offset int64, k PrivateKey, want error) {
		t.Helper()
		var signature []byte
		if !k.Zero() {
			var err error
			if signature, err = k.Sign(u.Text()); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.At(offset).Check(u, signature); !errors.Is(err, want) {
			t.Errorf("at %d: got %v, want %v", offset, err, want)
		}
	}
	at(3, ann, ErrUnknown)
	at(4, ann, nil)
	at(4, bob, ErrSignature)
	at(4, PrivateKey{}, ErrUnsigned)
	at(6, ann, nil)
	at(7, ann, ErrRevoked)
	at(10, ann, ErrSignature)
	at(10, bob, nil)
	if got := fmt.Sprint(r.At(4).Names(), r.At(7).Names(), r.At(10).Names()); got != "[ann] [bob] [ann bob]" {
		t.Error(got)
	}
	if got := fmt.Sprint(r.At(4).Changed(r.At(6), []string{"ann"}), r.At(6).Changed(r.At(10), []string{"ann", "bob"})); got != "[] [ann]" {
		t.Error(got)
	}
	if err := r.At(12).Check(Update{Client: "bob"}, nil); !errors.Is(err, ErrQuarantined) || !strings.HasSuffix(err.Error(), ": off") || r.At(13)["bob"].Gone {
		t.Error(err)
	}
	if e := r.Entry(3); e.Action != Revoke || r.Entry(7).Number != 0 || r.Entry(0).Number != 0 {
		t.Errorf("%+v", e)
	}
}

// vector is a signature that other implementations are compared with.
type vector struct {
	Algorithm string   `json:"algorithm"`
	Seed      string   `json:"private_key_seed"`
	Public    string   `json:"public_key_pkix"`
	Topic     string   `json:"topic"`
	Client    string   `json:"client"`
	Round     int64    `json:"round"`
	Base      string   `json:"base"`
	Samples   int64    `json:"samples"`
	Loss      float64  `json:"loss"`
	Steps     int64    `json:"steps"`
	Tensors   []tensor `json:"parameters"`
	Hash      string   `json:"parameters_hash"`
	Text      string   `json:"signed"`
	Signature string   `json:"signature"`
}

type tensor struct {
	Name  string  `json:"name"`
	DType string  `json:"dtype"`
	Shape []int64 `json:"shape"`
	Data  string  `json:"data"`
}

// What is signed is what testdata/vectors.json says, which changes with the protocol's
// version alone, and Python agrees. ML-DSA signs at random: a signature is verified.
func TestVectors(t *testing.T) {
	file := filepath.Join("testdata", "vectors.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, v := range vectors {
		k := seeded(t, v.Algorithm, unhex(v.Seed)[0])
		u := Update{
			Topic: v.Topic, Client: v.Client, Round: v.Round, Base: [32]byte(unhex(v.Base)), Samples: v.Samples,
			Loss: v.Loss, Steps: v.Steps, Parameters: [32]byte(unhex(v.Hash)),
		}
		if got := hex.EncodeToString(u.Text()); got != v.Text {
			t.Errorf("vector %d: signed is\n%s", i, got)
		}
		if got := hex.EncodeToString(k.Public().DER()); got != v.Public {
			t.Errorf("vector %d: the public key is %s", i, got)
		}
		if !k.Public().Verify(unhex(v.Text), unhex(v.Signature)) {
			made, err := k.Sign(u.Text())
			t.Errorf("vector %d: the signature does not verify; one that does: %x, %v", i, made, err)
		}
	}
	if len(vectors) != 3 {
		t.Errorf("%d vectors", len(vectors))
	}

	// What Python signs is verified here.
	client, err := filepath.Abs("../../../clients/python")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), servertest.Python(t), "vectors.py", "vectors.json")
	cmd.Dir, cmd.Env = "testdata", append(cmd.Environ(), "PYTHONPATH="+client, "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	signatures := strings.Fields(string(out))
	for i, v := range vectors {
		if !seeded(t, v.Algorithm, unhex(v.Seed)[0]).Public().Verify(unhex(v.Text), unhex(signatures[i])) {
			t.Errorf("vector %d: what Python signs does not verify", i)
		}
	}
}

func FuzzPublicKey(f *testing.F) {
	f.Add(seeded(f, Ed25519, 1).Public().DER())
	f.Add(seeded(f, MLDSA65, 1).Public().DER()[:40])
	f.Fuzz(func(t *testing.T, der []byte) {
		key, err := ParsePublicKey(der)
		if err == nil && !bytes.Equal(key.DER(), der) {
			t.Errorf("%x is read as %x", der, key.DER())
		}
	})
}
