// Package trust tells who a client of a training is: keys, what is signed by them,
// and the roster, which is the log of who was enrolled and revoked.
//
// It knows texts and bytes, and nothing of brokers, schemas or tensors. What a
// signature covers begins with what it is for, and holds every field with its
// length or at a fixed size, so that no two things that could be signed are one
// text. The bytes are in docs/federated-wire.md.
//
// One key, that of the authority, signs all entries of a roster. They are numbered
// from 1, and one that is not the next number does not count: an entry that someone
// publishes again, to bring back a client that was revoked, is passed over. So who
// may write to the topic of the roster may fill it, and enrol nobody.
package trust

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"
)

// Update is what the signature of an update covers.
type Update struct {
	Topic      string // of the updates: one for another training is none for this
	Client     string
	Round      int64
	Base       [sha256.Size]byte // hash of the model that it was trained from
	Samples    int64
	Loss       float64
	Steps      int64
	Parameters [sha256.Size]byte // hash of the tensors as they are sent
	// Partial is, of a sum of updates, what it says beside the tensors; nil is no sum.
	Partial []byte
}

// Text is what is signed.
func (u Update) Text() []byte {
	b := AppendText([]byte("penstock-update-v1\x00"), u.Topic)
	b = AppendText(b, u.Client)
	b = AppendNumber(b, u.Round)
	b = append(b, u.Base[:]...)
	b = AppendNumber(b, u.Samples)
	b = AppendNumber(b, int64(math.Float64bits(u.Loss)))
	b = AppendNumber(b, u.Steps)
	b = append(b, u.Parameters[:]...)
	if u.Partial == nil {
		return b
	}
	return AppendText(b, string(u.Partial))
}

// The actions of entries.
const (
	Enrol  = "enrol"  // the client signs with this key from now on
	Revoke = "revoke" // the client does not take part any more
	// Quarantine is Revoke by a policy, for what the client sent: someone is to look
	// into it, and to enrol the client again or not.
	Quarantine = "quarantine"
)

// Entry enrols a client, or revokes it.
type Entry struct {
	Number    int64 // counted from 1, without a gap
	Action    string
	Client    string
	Key       []byte // of an enrolment, in PKIX, DER
	Reason    string // of a revocation, for people
	Signature []byte // of the authority
}

// Text is what is signed. topic is that of the roster.
func (e Entry) Text(topic string) []byte {
	b := AppendText([]byte("penstock-roster-v1\x00"), topic)
	b = AppendNumber(b, e.Number)
	b = AppendText(b, e.Action)
	b = AppendText(b, e.Client)
	b = AppendText(b, string(e.Key))
	return AppendText(b, e.Reason)
}

// AppendNumber appends a number as texts that are signed have it.
func AppendNumber(b []byte, n int64) []byte {
	return binary.LittleEndian.AppendUint64(b, uint64(n))
}

// AppendText appends a text behind its length, as texts that are signed have it.
func AppendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

// The limits of a roster, which lies in memory.
const (
	MaxEntries = 100_000
	MaxName    = 200  // bytes of a client's name
	MaxReason  = 1000 // bytes
)

// Member is a client at a position of the log.
type Member struct {
	Key    PublicKey // none of one who is gone
	Number int64     // of the entry that says so
	Action string    // of that entry
	Gone   bool      // it was revoked, or put under quarantine
	Reason string    // why
}

// Roster is what the entries of a topic say, as far as they have been added. It is
// not safe for concurrent use.
type Roster struct {
	topic     string
	authority PublicKey
	entries   []entry
	now       Members // after all of them
}

type entry struct {
	Entry
	key    PublicKey
	offset int64
}

// NewRoster returns that of a topic without entries. authority signs them.
func NewRoster(topic string, authority PublicKey) *Roster {
	return &Roster{topic: topic, authority: authority, now: Members{}}
}

// Authority is the key that entries are signed with.
func (r *Roster) Authority() PublicKey { return r.authority }

// Next is the number of the entry to come.
func (r *Roster) Next() int64 { return int64(len(r.entries)) + 1 }

// Add adds the entry at an offset, which is above those before. The error says why
// it does not count; the roster is then what it was.
func (r *Roster) Add(offset int64, e Entry) error {
	if n := len(r.entries); n > 0 && offset <= r.entries[n-1].offset {
		return fmt.Errorf("expected an offset above %d, found %d", r.entries[n-1].offset, offset)
	}
	key, err := r.check(e)
	if err != nil {
		return err
	}
	added := entry{e, key, offset}
	r.entries = append(r.entries, added)
	r.now.apply(added)
	return nil
}

// Check says why e would not count as the next entry.
func (r *Roster) Check(e Entry) error {
	_, err := r.check(e)
	return err
}

func (r *Roster) check(e Entry) (key PublicKey, err error) {
	switch {
	case len(r.entries) >= MaxEntries:
		return key, fmt.Errorf("expected at most %d entries", MaxEntries)
	case e.Number != r.Next():
		return key, fmt.Errorf("expected entry number %d, found %d", r.Next(), e.Number)
	case e.Client == "" || len(e.Client) > MaxName || len(e.Reason) > MaxReason || !utf8.ValidString(e.Client):
		return key, fmt.Errorf("expected a name of 1 to %d bytes of UTF-8, and a reason of at most %d", MaxName, MaxReason)
	case !r.authority.Verify(e.Text(r.topic), e.Signature):
		return key, fmt.Errorf("expected an entry signed by %v", r.authority)
	}
	m, known := r.now[e.Client]
	switch e.Action {
	case Enrol:
		if key, err = ParsePublicKey(e.Key); err == nil && known && !m.Gone && m.Key.Equal(key) {
			err = fmt.Errorf("client %q is enrolled with this key already", e.Client)
		}
		return key, err
	case Revoke, Quarantine:
		if !known || m.Gone || len(e.Key) > 0 {
			err = fmt.Errorf("expected the name of an enrolled client, and no key, found %q", e.Client)
		}
		return key, err
	}
	return key, fmt.Errorf("expected %s, %s or %s, found %.40q", Enrol, Revoke, Quarantine, e.Action)
}

// Entry is the one with that number, or nothing.
func (r *Roster) Entry(number int64) Entry {
	if number < 1 || number >= r.Next() {
		return Entry{}
	}
	return r.entries[number-1].Entry
}

// Now is what all entries say of each client that they name. It is not to be changed.
func (r *Roster) Now() Members { return r.now }

// At is what the entries below an offset say of each client that they name.
func (r *Roster) At(offset int64) Members {
	members := Members{}
	for _, e := range r.entries {
		if e.offset >= offset {
			break
		}
		members.apply(e)
	}
	return members
}

// Members are clients by name.
type Members map[string]Member

func (m Members) apply(e entry) {
	m[e.Client] = Member{Key: e.key, Number: e.Number, Action: e.Action, Gone: e.Action != Enrol, Reason: e.Reason}
}

// Names are those of the clients that are enrolled, sorted.
func (m Members) Names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(name string) bool { return m[name].Gone })
}

// Why an update is not accepted.
var (
	ErrUnknown = errors.New("no client of this name is enrolled")
	ErrRevoked = errors.New("the client was revoked")
	// ErrQuarantined is of a client under quarantine.
	ErrQuarantined = errors.New("the client is under quarantine")
	ErrUnsigned    = errors.New("expected an update signed with the client's key, found no signature")
	ErrSignature   = errors.New("the signature is not one of the client's key over this update for this topic")
)

// Check says why an update is not one of an enrolled client, in an error that wraps
// one of those above, or nil.
func (m Members) Check(u Update, signature []byte) error {
	member, ok := m[u.Client]
	switch {
	case !ok:
		return ErrUnknown
	case member.Gone:
		why := ErrRevoked
		if member.Action == Quarantine {
			why = ErrQuarantined
		}
		if member.Reason != "" {
			return fmt.Errorf("%w: %s", why, member.Reason)
		}
		return why
	case len(signature) == 0:
		return ErrUnsigned
	case !member.Key.Verify(u.Text(), signature):
		return fmt.Errorf("%w; it is enrolled with %v", ErrSignature, member.Key)
	}
	return nil
}

// Changed are those of names of whom n has another entry than m.
func (m Members) Changed(n Members, names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return m[name].Number == n[name].Number
	})
}
