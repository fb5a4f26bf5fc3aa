package federated

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"penstock/consumers"
	"penstock/consumers/federated/trust"
)

// guild is a hall whose clients are enrolled.
type guild struct {
	*hall
	authority trust.PrivateKey
	keys      map[string]trust.PrivateKey
	log       []Update // all that was sent
}

// newGuild enrols c0 to cN-1.
func newGuild(t *testing.T, clients int, rounds int64, change func(c *Config)) *guild {
	t.Helper()
	g := &guild{authority: newKey(t), keys: map[string]trust.PrivateKey{}}
	g.hall = newHall(t, clients, rounds, func(c *Config) {
		g.hall = &hall{training: &training{t: t, publisher: c.Publisher.(*publisher)}}
		c.Roster = &RosterLog{Topic: "roster", Authority: g.authority.Public(), Broker: c.Broker, Registry: c.Registry, Group: "r"}
		g.config = *c
		for _, name := range c.Clients {
			g.enrol(name)
		}
		c.Clients = nil
		if change != nil {
			change(c)
		}
	})
	return g
}

func newKey(t testing.TB) trust.PrivateKey {
	t.Helper()
	k, err := trust.GenerateKey(trust.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (g *guild) append(e trust.Entry) {
	g.t.Helper()
	if err := g.config.Roster.Append(g.t.Context(), g.publisher, g.authority, e); err != nil {
		g.t.Fatal(err)
	}
}

// enrol gives a client a key of its own, and has it on the roster.
func (g *guild) enrol(client string) {
	g.t.Helper()
	g.keys[client] = newKey(g.t)
	g.append(trust.Entry{Action: trust.Enrol, Client: client, Key: g.keys[client].Public().DER()})
}

func (g *guild) revoke(client string) {
	g.t.Helper()
	g.append(trust.Entry{Action: trust.Revoke, Client: client, Reason: "its laptop is lost"})
}

// signedOf is what a client makes of m, with its signature.
func (g *guild) signedOf(client string, m Model) Update {
	g.t.Helper()
	u := updateOf(client, m)
	var err error
	if u.Signature, err = g.keys[client].Sign(u.signed("updates").Text()); err != nil {
		g.t.Fatal(err)
	}
	return u
}

func (g *guild) write(u Update) error {
	g.t.Helper()
	g.log = append(g.log, u)
	return g.hall.write(u)
}

// again has a new aggregator read the log from the beginning, as after a kill, and
// returns why the updates of the last round were refused.
func (g *guild) again() (why []string) {
	g.t.Helper()
	g.a = open(g.t, g.config)
	return g.reread()
}

// reread claims the partitions and reads the log.
func (g *guild) reread() (why []string) {
	g.t.Helper()
	starts := claim(g.t, g.a)
	g.next = [3]int64{}
	for _, u := range g.log {
		p := partitionOf(u.Client)
		if g.next[p] < starts[id(p)] {
			g.next[p]++
			continue
		}
		var r *Refusal
		if err := g.hall.write(u); errors.As(err, &r) {
			why = append(why, u.Client+" "+string(r.Reason))
		} else if err != nil {
			g.t.Fatal(err)
		}
	}
	return why
}

// verify checks all models and what they are made of.
func (g *guild) verify() {
	g.t.Helper()
	roster, _, err := g.config.Roster.Read(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	var at [3][]Update
	for _, u := range g.log {
		at[partitionOf(u.Client)] = append(at[partitionOf(u.Client)], u)
	}
	var before []Model
	for _, m := range g.models() {
		if n := len(before); n > 0 && m.Round == before[n-1].Round {
			before = before[:n-1] // another attempt
		} else if n > 0 {
			members, err := before[n-1].Believed(roster)
			if err != nil {
				g.t.Fatal(err)
			}
			if err := RecomputeAfter(before, m, nil, func(c Contribution) (Update, error) {
				u := at[c.Partition][c.Offset]
				return u, u.SignedBy(members, "updates")
			}); err != nil {
				g.t.Fatal(err)
			}
		}
		before = append(before, m)
	}
}

// What is not signed by the client, over this very update and for this topic, is
// refused before anything is made of it.
func TestOnlySignedUpdatesCount(t *testing.T) {
	g := newGuild(t, 2, 1, nil)
	m := g.a.Model()
	if !slices.Equal(m.Clients, []string{"c0", "c1"}) || m.Trust == nil || m.Trust.Next != 2 {
		t.Fatalf("%+v", m)
	}
	refused(t, g.write(updateOf("c0", m)), Unsigned, "found no signature")
	for name, change := range map[string]func(u *Update){
		"samples":    func(u *Update) { u.Samples++ },
		"loss":       func(u *Update) { u.Loss++ },
		"steps":      func(u *Update) { u.Steps++ },
		"parameters": func(u *Update) { u.Parameters[0].Values[0]++ },
		"sender":     func(u *Update) { u.Signature = g.signedOf("c1", m).Signature },
		"topic": func(u *Update) {
			var err error
			if u.Signature, err = g.keys["c0"].Sign(u.signed("others").Text()); err != nil {
				t.Fatal(err)
			}
		},
		"round": func(u *Update) {
			later := *u
			later.Round++
			var err error
			if u.Signature, err = g.keys["c0"].Sign(later.signed("updates").Text()); err != nil {
				t.Fatal(err)
			}
		},
		"base": func(u *Update) {
			other := *u
			other.Base[0]++
			var err error
			if u.Signature, err = g.keys["c0"].Sign(other.signed("updates").Text()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := g.signedOf("c0", m)
			change(&u)
			refused(t, g.write(u), BadSignature, "enrolled with ed25519")
		})
	}
	g.keys["c2"] = newKey(t)
	refused(t, g.write(g.signedOf("c2", m)), UnknownClient, "no client of this name is enrolled")
	if len(g.a.arrived) > 0 {
		t.Errorf("%v arrived", g.a.arrived)
	}
	if err := g.write(g.signedOf("c0", m)); err != nil {
		t.Fatal(err)
	}
	if err := g.write(g.signedOf("c1", m)); !errors.Is(err, ErrFinished) {
		t.Fatal(err)
	}
	g.verify()
}

// A client that is revoked while a round goes on is not waited for, and what it sent is
// taken out; killed and started again, the aggregator makes the same models.
func TestARevocationBeginsTheRoundAnew(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed ", killed), func(t *testing.T) {
			g := newGuild(t, 4, 2, nil)
			m := g.a.Model()
			if err := errors.Join(g.write(g.signedOf("c0", m)), g.write(g.signedOf("c2", m)), g.a.Follow(t.Context())); err != nil {
				t.Fatal(err)
			}
			g.revoke("c0")
			g.revoke("c3")
			g.enrol("c4") // which does not take part until a round is opened
			if err := g.a.Follow(t.Context()); !errors.Is(err, ErrReread) || !errors.Is(err, consumers.ErrStop) {
				t.Fatal(err)
			}
			again := g.a.Model()
			if again.Attempt != 1 || again.Hash != m.Hash || !strings.Contains(again.Aborted, "c0, c3") || !slices.Equal(again.Clients, []string{"c1", "c2", "c4"}) {
				t.Fatalf("%+v", again)
			}
			read := g.reread
			if killed {
				read = g.again
			}
			if why := read(); !slices.Equal(why, []string{"c0 revoked"}) {
				t.Errorf("refused: %q", why)
			}
			refused(t, g.write(g.signedOf("c3", m)), Revoked, "laptop")
			if err := errors.Join(g.write(g.signedOf("c1", m)), g.write(g.signedOf("c4", m))); err != nil {
				t.Fatal(err)
			}
			next := g.counted(1, Complete, "c1", "c2", "c4")
			if err := errors.Join(g.write(g.signedOf("c1", next)), g.write(g.signedOf("c2", next))); err != nil {
				t.Fatal(err)
			}
			if err := g.write(g.signedOf("c4", next)); !errors.Is(err, ErrFinished) {
				t.Fatal(err)
			}
			g.verify()
		})
	}
}

// A revocation that the aggregator sees only as a round would close takes its update
// out, too.
func TestARevocationAtTheLastMoment(t *testing.T) {
	g := newGuild(t, 3, 2, nil)
	m := g.a.Model()
	if err := errors.Join(g.write(g.signedOf("c0", m)), g.write(g.signedOf("c1", m))); err != nil {
		t.Fatal(err)
	}
	g.revoke("c1")
	if err := g.write(g.signedOf("c2", m)); !errors.Is(err, ErrReread) {
		t.Fatal(err)
	}
	if why := g.reread(); !slices.Equal(why, []string{"c1 revoked"}) {
		t.Errorf("refused: %q", why)
	}
	g.counted(1, Complete, "c0", "c2")
	g.verify()
}

// A client with another key sends its update again, and does not have to wait for the
// next round.
func TestAnotherKey(t *testing.T) {
	g := newGuild(t, 2, 2, nil)
	m := g.a.Model()
	old := g.keys["c0"]
	g.enrol("c0")
	refused(t, g.write(g.signedOf("c0", m)), BadSignature, "")
	if err := g.a.Follow(t.Context()); !errors.Is(err, ErrReread) {
		t.Fatal(err)
	}
	if why := g.reread(); len(why) > 0 {
		t.Errorf("refused: %q", why)
	}
	if err := g.write(g.signedOf("c1", m)); err != nil {
		t.Fatal(err)
	}
	next := g.counted(1, Complete, "c0", "c1")
	g.keys["c0"] = old
	refused(t, g.write(g.signedOf("c0", next)), BadSignature, "")
	g.verify()
}

// Where too few are left the training stops, and goes on when there are more.
func TestTooFewAreEnrolled(t *testing.T) {
	g := newGuild(t, 2, 2, func(c *Config) { c.Quorum = 2 })
	g.config.Quorum = 2
	m := g.a.Model()
	if err := g.write(g.signedOf("c0", m)); err != nil {
		t.Fatal(err)
	}
	g.revoke("c1")
	if err := g.a.Follow(t.Context()); !errors.Is(err, consumers.ErrStop) || errors.Is(err, ErrReread) || !strings.Contains(err.Error(), "1 clients that are enrolled") {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), g.config); err == nil {
		t.Error("an aggregator with too few clients starts")
	}
	g.enrol("c2")
	g.a = open(t, g.config)
	if err := g.a.Follow(t.Context()); !errors.Is(err, ErrReread) {
		t.Fatal(err)
	}
	g.reread()
	if err := g.write(g.signedOf("c2", m)); err != nil {
		t.Fatal(err)
	}
	g.counted(1, Complete, "c0", "c2")
	g.verify()
}

// Where there are no rounds, an update counts if its client is on the roster as of the
// newest model, whichever it answers.
func TestSignedWithoutRounds(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed ", killed), func(t *testing.T) {
			g := newGuild(t, 5, 3, func(c *Config) { c.Strategy = "fedbuff:k=3" })
			g.config.Strategy = "fedbuff:k=3"
			read := g.reread
			if killed {
				read = g.again
			}
			m := g.a.Model()
			if err := errors.Join(g.write(g.signedOf("c0", m)), g.write(g.signedOf("c1", m))); err != nil {
				t.Fatal(err)
			}
			forged := g.signedOf("c2", m)
			forged.Samples++
			refused(t, g.write(forged), BadSignature, "")
			g.revoke("c1")
			if err := g.write(g.signedOf("c2", m)); !errors.Is(err, ErrReread) {
				t.Fatal(err)
			}
			if why := read(); !slices.Equal(why, []string{"c1 revoked", "c2 bad-signature"}) {
				t.Errorf("refused: %q", why)
			}
			if err := g.write(g.signedOf("c3", m)); err != nil {
				t.Fatal(err)
			}
			next := g.counted(1, Complete, "c0", "c2", "c3")
			refused(t, g.write(g.signedOf("c1", next)), Revoked, "laptop")

			// One answers the model before, with a newer key than the newest model knows.
			g.enrol("c4")
			if err := errors.Join(g.write(g.signedOf("c0", next)), g.write(g.signedOf("c2", next))); err != nil {
				t.Fatal(err)
			}
			refused(t, g.write(g.signedOf("c4", m)), BadSignature, "")
			if err := g.a.Follow(t.Context()); !errors.Is(err, ErrReread) {
				t.Fatal(err)
			}
			if why := read(); !slices.Equal(why, []string{"c1 revoked", "c1 revoked"}) {
				t.Errorf("refused: %q", why)
			}
			last := g.counted(2, Complete, "c0", "c2", "c4")
			if !slices.ContainsFunc(last.Contributions, func(c Contribution) bool { return c.Client == "c4" && c.Stale == 1 }) {
				t.Errorf("made of %+v", last.Contributions)
			}
			g.verify()

			g.revoke("c0")
			g.revoke("c2")
			if err := g.a.Follow(t.Context()); !errors.Is(err, consumers.ErrStop) || !strings.Contains(err.Error(), "k of at most 2") {
				t.Errorf("with two clients left: %v", err)
			}
		})
	}
}

// A training does not go on without its signatures, with those of others, or from
// another roster.
func TestTrustIsNotLetGo(t *testing.T) {
	g := newGuild(t, 2, 1, nil)
	f := func(want string, change func(c *Config)) {
		t.Helper()
		c := g.config
		roster := *c.Roster
		c.Roster = &roster
		change(&c)
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f("are signed and this", func(c *Config) { c.Roster, c.Clients = nil, []string{"c0", "c1"} })
	f("no client is enrolled", func(c *Config) { c.Roster.Authority = newKey(t).Public() })
	f("found both", func(c *Config) { c.Clients = []string{"c0"} })
	m := g.a.Model()
	roster, next, err := g.config.Roster.Read(t.Context())
	if err != nil || next != 2 {
		t.Fatal(next, err)
	}
	if _, err := m.Believed(trust.NewRoster("roster", newKey(t).Public())); err == nil {
		t.Error("the roster of another key explains the clients")
	}
	m.Clients = m.Clients[:1]
	if _, err := m.Believed(roster); err == nil || !strings.Contains(err.Error(), `asks ["c0"], and the roster has ["c0" "c1"]`) {
		t.Error(err)
	}
}

// What anyone may write to the topic of a roster enrols nobody: an entry of another
// key, one that was published before, and what is none.
func TestRosterPassesOver(t *testing.T) {
	g := newGuild(t, 1, 1, nil)
	stranger := newKey(t)
	e := trust.Entry{Number: 2, Action: trust.Enrol, Client: "c9", Key: stranger.Public().DER()}
	var err error
	if e.Signature, err = stranger.Sign(e.Text("roster")); err != nil {
		t.Fatal(err)
	}
	value := func(e trust.Entry) map[string]any {
		return map[string]any{"number": e.Number, "action": e.Action, "client": e.Client, "key": e.Key, "reason": e.Reason, "signature": e.Signature}
	}
	roster, _, err := g.config.Roster.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := roster.Entry(1)
	g.revoke("c0")
	for _, v := range []map[string]any{value(e), value(first)} {
		if err := g.publisher.Publish(t.Context(), "roster", nil, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.publisher.Publish(t.Context(), "models", nil, g.a.Model().value()); err != nil {
		t.Fatal(err)
	}
	var notes []string
	log := *g.config.Roster
	log.Note = func(text string) { notes = append(notes, text) }
	roster, next, err := log.Read(t.Context())
	if err != nil || next != 4 || len(roster.At(next).Names()) > 0 || len(notes) != 2 {
		t.Errorf("%d records, %q, %q: %v", next, roster.At(next).Names(), notes, err)
	}
	log.Topic = "models"
	if roster, _, err = log.Read(t.Context()); err != nil || roster.Next() != 1 {
		t.Error(err)
	}
}

// What a client signs is what trust/testdata/vectors.json has, of tensors as they are
// sent.
func TestSignedVectors(t *testing.T) {
	text, err := os.ReadFile("trust/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Topic, Client, Base, Signed string
		Round, Samples, Steps       int64
		Loss                        float64
		Parameters                  []struct {
			Name, DType, Data string
			Shape             []int64
		}
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) == 0 {
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
		u := Update{Client: v.Client, Round: v.Round, Base: Hash(unhex(v.Base)), Samples: v.Samples, Loss: v.Loss, Steps: v.Steps}
		for _, p := range v.Parameters {
			var shape []int
			for _, n := range p.Shape {
				shape = append(shape, int(n))
			}
			tensor := Tensor{Name: p.Name, DType: p.DType, Shape: shape, Packed: unhex(p.Data)}
			if p.DType == float32s {
				tensor.DType = ""
				for b := tensor.Packed; len(b) > 0; b = b[4:] {
					tensor.Values = append(tensor.Values, math.Float32frombits(binary.LittleEndian.Uint32(b)))
				}
			}
			u.Parameters = append(u.Parameters, tensor)
		}
		if !bytes.Equal(u.signed(v.Topic).Text(), unhex(v.Signed)) {
			t.Errorf("vector %d: %x", i, u.signed(v.Topic).Text())
		}
	}
}

// Whatever lies on the topic of a roster is read or passed over, and enrols nobody
// without the authority's signature.
func FuzzRoster(f *testing.F) {
	authority, err := trust.GenerateKey(trust.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	schema := newRegistry(f)[3]
	e := trust.Entry{Number: 1, Action: trust.Enrol, Client: "c0", Key: authority.Public().DER(), Signature: make([]byte, 64)}
	value := map[string]any{"number": e.Number, "action": e.Action, "client": e.Client, "key": e.Key, "reason": e.Reason, "signature": e.Signature}
	seed, err := schema.AppendEncode(nil, value)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := schema.Decode(payload)
		if err != nil {
			return
		}
		e, err := readEntry(v)
		if err != nil {
			t.Fatalf("a value of the schema is no entry: %v", err)
		}
		r := trust.NewRoster("roster", authority.Public())
		if err := r.Add(0, e); err == nil || r.Next() != 1 {
			t.Fatalf("counts: %+v", e)
		}
	})
}
