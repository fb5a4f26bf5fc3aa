package secagg

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// protocol begins everything that is signed or derived.
const protocol = "penstock-secagg-v1"

// Limits of what is read from outside.
const (
	MaxClients  = 256     // a complete graph; the Roster of so many has 650 KB
	maxName     = 255     // bytes
	MaxElements = 1 << 28 // of a vector, without its weight
	MaxChunk    = 1 << 17 // elements in a Masked message: half a megabyte
	keysSize    = 2 * publicSize
)

// Stage is the kind of a message: those of the clients are odd numbers in the
// order of the protocol, and the server's record that ends each is the even
// number after.
type Stage uint8

// The stages.
const (
	Open     Stage = 0
	Keys     Stage = 1
	Roster   Stage = 2
	Shares   Stage = 3
	Shared   Stage = 4
	Masked   Stage = 5
	Survived Stage = 6
	Confirm  Stage = 7
	Agreed   Stage = 8
	Unmask   Stage = 9
	Abort    Stage = 10 // the attempt is over without a sum; the payload says why
	Closed   Stage = 12 // the training is over; the base model is the last
)

var stageNames = map[Stage]string{
	Open: "open", Keys: "keys", Roster: "roster", Shares: "shares", Shared: "shared", Masked: "masked",
	Survived: "survived", Confirm: "confirm", Agreed: "agreed", Unmask: "unmask", Abort: "abort", Closed: "closed",
}

// String is the stage's name.
func (s Stage) String() string {
	if name, ok := stageNames[s]; ok {
		return name
	}
	return fmt.Sprintf("stage %d", uint8(s))
}

// ParseStage reads a stage's name.
func ParseStage(name string) (Stage, bool) {
	for stage, n := range stageNames {
		if n == name {
			return stage, true
		}
	}
	return 0, false
}

// ofServer says that the server sends it.
func (s Stage) ofServer() bool { return s%2 == 0 }

// Message is what client and server send. Its bytes on the log are the caller's
// business; what is signed is in docs/federated-wire.md.
type Message struct {
	Stage     Stage
	Training  string
	Round     int64
	Attempt   int32
	Base      Hash   // of the round's model
	Sender    string // a client's name; empty is the server
	After     Hash   // of the server's record that this answers; zero for Open
	Payload   []byte
	Signature []byte
}

// signed are the bytes that the signature is over.
func (m *Message) signed() []byte {
	b := append([]byte(protocol), 0, byte(m.Stage))
	for _, s := range []string{m.Training, m.Sender} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Round))
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Attempt))
	b = append(b, m.Base[:]...)
	b = append(b, m.After[:]...)
	payload := sha256.Sum256(m.Payload)
	return append(b, payload[:]...)
}

// Hash is the SHA-256 of what is signed. It stands for the message, and, since
// that holds the hash of the server's record before, for all records before.
func (m *Message) Hash() Hash { return sha256.Sum256(m.signed()) }

func (m *Message) sign(key ed25519.PrivateKey) { m.Signature = ed25519.Sign(key, m.signed()) }

// readable says why m cannot be signed bytes of anyone.
func (m *Message) readable() error {
	switch {
	case len(m.Training) == 0 || len(m.Training) > maxName || len(m.Sender) > maxName:
		return fmt.Errorf("expected names of at most %d bytes", maxName)
	case m.Round < 0 || m.Attempt < 0:
		return fmt.Errorf("expected a round and an attempt of 0 or more, found %d and %d", m.Round, m.Attempt)
	case len(m.Signature) != ed25519.SignatureSize:
		return fmt.Errorf("expected a signature of %d bytes, found %d", ed25519.SignatureSize, len(m.Signature))
	}
	return nil
}

// refuse makes a Refusal of m.
func (m *Message) refuse(reason Reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Stage: m.Stage, Sender: m.Sender, Detail: fmt.Sprintf(format, args...)}
}

// Participant is a client and the key that its messages are signed with.
type Participant struct {
	Name string
	Key  ed25519.PublicKey
}

// Settings are what a round is about: the payload of Open.
type Settings struct {
	Threshold uint16 // how many clients it takes to take the masks off
	Elements  uint32 // of a vector, without its weight
	Encoding
	Clients []Participant // by name; the index of a client is its place here, from 1
}

// LeastThreshold is the smallest threshold for so many clients: more than two
// thirds of them.
func LeastThreshold(clients int) int { return 2*clients/3 + 1 }

// Check says why no round is run with these settings. Its sum fits into the ring
// if Check is nil.
func (s *Settings) Check() error {
	n := len(s.Clients)
	if n < 2 || n > MaxClients {
		return fmt.Errorf("expected 2 to %d clients, found %d", MaxClients, n)
	}
	for i, c := range s.Clients {
		if c.Name == "" || len(c.Name) > maxName || len(c.Key) != ed25519.PublicKeySize {
			return fmt.Errorf("client %d: expected a name of at most %d bytes and a key of %d", i, maxName, ed25519.PublicKeySize)
		}
		if i > 0 && s.Clients[i-1].Name >= c.Name {
			return fmt.Errorf("client %d: expected names in order, each once, found %.100q after %.100q", i, c.Name, s.Clients[i-1].Name)
		}
	}
	if t := int(s.Threshold); t < LeastThreshold(n) || t > n {
		return fmt.Errorf("expected a threshold from %d to %d for %d clients, found %d", LeastThreshold(n), n, n, t)
	}
	if s.Elements < 1 || s.Elements > MaxElements {
		return fmt.Errorf("expected 1 to %d elements, found %d", MaxElements, s.Elements)
	}
	if s.Noise != (Noise{}) {
		return s.checkNoise(n, s.Elements)
	}
	return s.check(n)
}

func (s *Settings) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, s.Threshold)
	b = binary.LittleEndian.AppendUint32(b, s.Elements)
	b = append(b, s.Bits)
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.Clip))
	b = binary.LittleEndian.AppendUint32(b, s.MaxWeight)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s.Clients)))
	for _, c := range s.Clients {
		b = append(b, byte(len(c.Name)))
		b = append(b, c.Name...)
		b = append(b, c.Key...)
	}
	if s.Bits == 0 {
		b = binary.LittleEndian.AppendUint32(b, s.Bound)
		b = binary.LittleEndian.AppendUint32(b, s.Sigma)
	}
	return b
}

// reader takes a payload apart. After the first byte that is missing everything
// it returns is empty or zero.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) number(size int) (v uint64) {
	for i, c := range r.bytes(size) {
		v |= uint64(c) << (8 * i)
	}
	return v
}

func (r *reader) u16() uint16 { return uint16(r.number(2)) }

func (r *reader) hash() (h Hash) {
	copy(h[:], r.bytes(len(h)))
	return h
}

// count reads how many entries of at least size bytes follow.
func (r *reader) count(most, size int) int {
	n := int(r.u16())
	if n > most || n*size > len(r.b) {
		r.short = true
		return 0
	}
	return n
}

// end says why the payload is not what it should be.
func (r *reader) end() error {
	if r.short {
		return fmt.Errorf("its payload is too short")
	}
	if len(r.b) > 0 {
		return fmt.Errorf("its payload has %d bytes too many", len(r.b))
	}
	return nil
}

func readSettings(payload []byte) (s Settings, err error) {
	r := reader{b: payload}
	s.Threshold = r.u16()
	s.Elements = uint32(r.number(4))
	s.Bits = uint8(r.number(1))
	s.Clip = math.Float64frombits(r.number(8))
	s.MaxWeight = uint32(r.number(4))
	n := r.count(MaxClients, 1+ed25519.PublicKeySize)
	for range n {
		name := string(r.bytes(int(r.number(1))))
		s.Clients = append(s.Clients, Participant{name, bytes.Clone(r.bytes(ed25519.PublicKeySize))})
	}
	if s.Bits == 0 {
		s.Bound, s.Sigma = uint32(r.number(4)), uint32(r.number(4))
	}
	return s, r.end()
}

// entry is a client in a list of the server's: its index, and what was its
// message.
type entry struct {
	index uint16
	data  []byte
}

func appendEntries(b []byte, entries []entry) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(entries)))
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.index)
		b = append(b, e.data...)
	}
	return b
}

// entries reads a list of entries of size bytes, in the order of their indexes.
func (r *reader) entries(size int) ([]entry, error) {
	n := r.count(MaxClients, 2+size)
	out := make([]entry, n)
	for i := range out {
		out[i] = entry{r.u16(), r.bytes(size)}
		if out[i].index == 0 || i > 0 && out[i].index <= out[i-1].index {
			return nil, fmt.Errorf("its list is not in order: %d at entry %d", out[i].index, i)
		}
	}
	return out, nil
}

func indexesOf(entries []entry) []uint16 {
	out := make([]uint16, len(entries))
	for i, e := range entries {
		out[i] = e.index
	}
	return out
}

// keysEntry is the size of a client's data in Roster: its Keys payload and the
// signature of that message.
const keysEntry = keysSize + ed25519.SignatureSize

// channelOf and maskOf are the two public halves in a Keys payload.
func channelOf(keys []byte) []byte { return keys[:publicSize] }
func maskOf(keys []byte) []byte    { return keys[publicSize:keysSize] }

// survivors is the payload of Survived.
type survivors struct {
	there   []entry // with the hash of what they sent
	missing []uint16
}

func (s survivors) append(b []byte) []byte {
	b = appendEntries(b, s.there)
	missing := make([]entry, len(s.missing))
	for i, index := range s.missing {
		missing[i].index = index
	}
	return appendEntries(b, missing)
}

func readSurvivors(payload []byte) (s survivors, err error) {
	r := reader{b: payload}
	if s.there, err = r.entries(sha256.Size); err != nil {
		return s, err
	}
	missing, err := r.entries(0)
	if err != nil {
		return s, err
	}
	s.missing = indexesOf(missing)
	return s, r.end()
}

// readList reads a payload that is one list.
func readList(payload []byte, size int) ([]entry, error) {
	r := reader{b: payload}
	list, err := r.entries(size)
	if err != nil {
		return nil, err
	}
	return list, r.end()
}

// dealt is the payload of Shares, taken apart: what one client gives each member
// of the roster.
type dealt struct {
	seed    Hash // the promise of the seed
	escrow  []byte
	members map[uint16]dealtTo
}

type dealtTo struct {
	promised [2]Hash // of the shares: seed, root
	// The rest is absent for the dealer itself.
	channel []byte // a ciphertext
	sealed  []byte // both shares
	mask    []byte // a ciphertext, for members of a higher index
}

const sealedSize = 2*secretSize + tagSize

func escrowSize(higher int) int { return secretSize*higher + tagSize }

func (d dealt) append(b []byte, from uint16, members []uint16) []byte {
	b = append(b, d.seed[:]...)
	b = append(b, d.escrow...)
	for _, index := range members {
		to := d.members[index]
		b = append(b, to.promised[0][:]...)
		b = append(b, to.promised[1][:]...)
		if index != from {
			b = append(b, to.channel...)
			b = append(b, to.sealed...)
		}
		if index > from {
			b = append(b, to.mask...)
		}
	}
	return b
}

func readDealt(payload []byte, from uint16, members []uint16) (dealt, error) {
	r := reader{b: payload}
	higher := 0
	for _, index := range members {
		if index > from {
			higher++
		}
	}
	d := dealt{members: map[uint16]dealtTo{}}
	d.seed = r.hash()
	d.escrow = r.bytes(escrowSize(higher))
	for _, index := range members {
		to := dealtTo{promised: [2]Hash{r.hash(), r.hash()}}
		if index != from {
			to.channel = r.bytes(ciphertextSize)
			to.sealed = r.bytes(sealedSize)
		}
		if index > from {
			to.mask = r.bytes(ciphertextSize)
		}
		d.members[index] = to
	}
	return d, r.end()
}

// The payload of Masked is a part of the vector: how long the whole is, where
// the part begins, and its elements.
const maskedHeader = 8

func appendMasked(b []byte, whole, from int, part []byte) []byte {
	b = slices.Grow(b, maskedHeader+len(part))
	b = binary.LittleEndian.AppendUint32(b, uint32(whole))
	b = binary.LittleEndian.AppendUint32(b, uint32(from))
	return append(b, part...)
}

func appendElements(b []byte, v []uint32) []byte {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// readMasked returns where the part begins, and its bytes: at least one element
// and no more than MaxChunk, within the whole.
func readMasked(payload []byte, whole int) (from int, part []byte, err error) {
	r := reader{b: payload}
	total := int(r.number(4))
	from = int(r.number(4))
	part = r.b
	n := len(part) / 4
	switch {
	case r.short:
		return 0, nil, r.end()
	case total != whole:
		return 0, nil, fmt.Errorf("expected a vector of %d elements with its weight, found %d", whole, total)
	case len(part)%4 != 0 || n == 0 || n > MaxChunk || from+n > whole:
		return 0, nil, fmt.Errorf("expected 1 to %d elements of 4 bytes within the vector, found %d bytes at element %d", MaxChunk, len(part), from)
	}
	return from, part, nil
}

// revealed is an entry of Unmask: a share of a client's secret.
type revealed struct {
	owner uint16
	kind  kind
	share secret
}

const revealedSize = 1 + secretSize

func appendRevealed(b []byte, list []revealed) []byte {
	entries := make([]entry, len(list))
	for i, r := range list {
		entries[i] = entry{r.owner, append([]byte{byte(r.kind)}, r.share[:]...)}
	}
	return appendEntries(b, entries)
}

func readRevealed(payload []byte) ([]revealed, error) {
	entries, err := readList(payload, revealedSize)
	if err != nil {
		return nil, err
	}
	out := make([]revealed, len(entries))
	for i, e := range entries {
		out[i] = revealed{owner: e.index, kind: kind(e.data[0]), share: secret(e.data[1:])}
	}
	return out, nil
}

// FromServer says why m was not signed by a server's key as a record of a
// training. Whether it goes on from what is on the log is for Join and Receive to
// say.
func (m *Message) FromServer(training string, key ed25519.PublicKey) error {
	switch err := m.readable(); {
	case err != nil:
		return m.refuse(Malformed, "%v", err)
	case m.Training != training:
		return m.refuse(WrongRound, "expected training %q, found %.100q", training, m.Training)
	case m.Sender != "" || !m.Stage.ofServer():
		return m.refuse(WrongStage, "expected a record of the server")
	case !ed25519.Verify(key, m.signed(), m.Signature):
		return m.refuse(BadSignature, "expected a signature of the server's key")
	}
	return nil
}
