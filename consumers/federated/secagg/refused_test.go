package secagg

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
)

// must be tested: overlapping lists refused; replayed, duplicated, wrong-round,
// wrong-roster, bad-signature messages; share of wrong index or tampered

// at runs the protocol up to and with the server's record of a stage.
func (w *world) at(stage Stage) Message {
	w.t.Helper()
	m, err := w.step()
	for i := range w.clients {
		w.send(i, w.join(i))
	}
	for ; err == nil && m.Stage < stage; m, err = w.step() {
		if m.Stage == Open {
			continue
		}
		for i, c := range w.clients {
			out, err := c.Receive(m)
			if err != nil {
				w.t.Fatal(err)
			}
			if m.Stage == Shared {
				for _, m := range w.sent[Shares] {
					_, _ = c.Receive(m)
				}
				if out, err = c.Mask(w.values[i], 1); err != nil {
					w.t.Fatal(err)
				}
			}
			w.send(i, out)
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// forged is m with another payload, signed by the server as if it were right.
func (w *world) forged(m Message, payload []byte) Message {
	m.Payload = payload
	m.sign(w.config.Key)
	return m
}

func TestClientRefusesLists(t *testing.T) {
	const n = 7
	w := newWorld(t, n, 3)
	good := w.at(Survived)
	list, err := readSurvivors(good.Payload)
	if err != nil || len(list.there) != n {
		t.Fatal(err, len(list.there))
	}
	c := w.clients[0]
	f := func(what string, want Reason, s survivors) {
		t.Helper()
		out, err := c.Receive(w.forged(good, s.append(nil)))
		if got := reasonOf(err); got != want || out != nil {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	f("overlapping", BadList, survivors{list.there, []uint16{4}})
	f("all missing again", BadList, survivors{list.there, []uint16{1, 2, 3, 4, 5, 6, 7}})
	f("a member on neither list", BadList, survivors{list.there[:6], nil})
	f("a stranger", BadList, survivors{list.there, []uint16{8}})
	f("a stranger there", BadList, survivors{append(slices.Clone(list.there), entry{9, list.there[0].data}), nil})
	f("below the threshold", BadList, survivors{list.there[:4], []uint16{5, 6, 7}})
	f("nobody", BadList, survivors{})
	f("twice there", Malformed, survivors{append(slices.Clone(list.there), list.there[6]), nil})
	f("without this client", NotOurs, survivors{list.there[1:], []uint16{1}})
	other := slices.Clone(list.there)
	other[0].data = bytes.Repeat([]byte{1}, sha256.Size)
	f("with another vector of this client", NotOurs, survivors{other, nil})

	out, err := c.Receive(good)
	if err != nil || len(out) != 1 || out[0].Stage != Confirm {
		t.Fatalf("the right list: %v, %v", out, err)
	}
	// A second list, in itself right, is the one thing a lying server needs to
	// be given both kinds of shares.
	f("a second list", Second, survivors{list.there[:6], []uint16{7}})
	w.states[0] = c.State()
	w.records = w.records[:len(w.records)-1] // the client starts again and sees the second first
	w.again(0)
	c = w.clients[0]
	f("a second list after a start", Second, survivors{list.there[:6], []uint16{7}})
	if again, err := c.Receive(good); err != nil || !bytes.Equal(again[0].Signature, out[0].Signature) {
		t.Errorf("the first list again: %v", err)
	}
}

func TestClientRefusesSecondRosterAndShared(t *testing.T) {
	w := newWorld(t, 7, 3)
	good := w.at(Roster)
	list, err := readList(good.Payload, keysEntry)
	if err != nil {
		t.Fatal(err)
	}
	c := w.clients[0]
	f := func(what string, m Message, want Reason) {
		t.Helper()
		if _, err := c.Receive(m); reasonOf(err) != want {
			t.Errorf("%s: %q, want %q", what, reasonOf(err), want)
		}
	}
	swapped := slices.Clone(list)
	swapped[1].data = append(bytes.Clone(list[2].data[:keysSize]), list[1].data[keysSize:]...)
	f("keys that their client has not signed", w.forged(good, appendEntries(nil, swapped)), BadSignature)
	f("too few", w.forged(good, appendEntries(nil, list[:4])), BadList)
	f("without this client", w.forged(good, appendEntries(nil, list[1:])), NotOurs)
	f("a tail", w.forged(good, append(bytes.Clone(good.Payload), 0)), Malformed)
	f("of the right list", good, "")
	f("another roster", w.forged(good, appendEntries(nil, list[:6])), Second)

	w = newWorld(t, 7, 3)
	good = w.at(Shared)
	c = w.clients[0]
	if list, err = readList(good.Payload, sha256.Size); err != nil {
		t.Fatal(err)
	}
	f("too few shared", w.forged(good, appendEntries(nil, list[:4])), BadList)
	f("without this client's", w.forged(good, appendEntries(nil, list[1:])), NotOurs)
	f("shared", good, "")
	f("another list", w.forged(good, appendEntries(nil, list[:6])), Second)
}

// Shares are given for a list that enough clients have signed, and for no other.
func TestConfirmations(t *testing.T) {
	w := newWorld(t, 7, 3)
	good := w.at(Agreed)
	list, err := readList(good.Payload, ed25519.SignatureSize)
	if err != nil || len(list) != 7 {
		t.Fatal(err, len(list))
	}
	c := w.clients[0]
	f := func(what string, list []entry, want Reason) {
		t.Helper()
		out, err := c.Receive(w.forged(good, appendEntries(nil, list)))
		if reasonOf(err) != want || (out == nil) != (want != "") {
			t.Errorf("%s: %q, want %q", what, reasonOf(err), want)
		}
	}
	swapped := slices.Clone(list)
	swapped[1].data = list[2].data
	f("somebody else's signature", swapped, BadSignature)
	f("below the threshold", list[:4], BadList)
	f("a stranger's", append(slices.Clone(list), entry{8, list[0].data}), BadList)
	f("at the threshold", list[:5], "")
}

func TestServerRefuses(t *testing.T) {
	w := newWorld(t, 4, 3)
	if _, err := w.step(); err != nil {
		t.Fatal(err)
	}
	var keys []Message
	for i := range w.clients {
		keys = append(keys, w.join(i)...)
	}
	f := func(what string, m Message, want Reason) {
		t.Helper()
		if got := reasonOf(w.server.Receive(m)); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	signed := func(change func(*Message)) Message {
		m := keys[1]
		change(&m)
		m.sign(w.keys[1])
		return m
	}
	f("the first", keys[0], "")
	f("replayed", keys[0], Duplicate)
	f("another round", signed(func(m *Message) { m.Round++ }), WrongRound)
	f("another attempt", signed(func(m *Message) { m.Attempt-- }), WrongRound)
	f("another training", signed(func(m *Message) { m.Training = "faces" }), WrongRound)
	f("another base model", signed(func(m *Message) { m.Base[0]++ }), WrongRound)
	f("under another record", signed(func(m *Message) { m.After[31]++ }), WrongRoster)
	f("a stranger", signed(func(m *Message) { m.Sender = "mallory" }), UnknownClient)
	f("of another client", signed(func(m *Message) { m.Sender = w.config.Settings.Clients[2].Name }), BadSignature)
	f("of a stage to come", signed(func(m *Message) { m.Stage = Shares }), WrongStage)
	f("of the server's", signed(func(m *Message) { m.Stage = Roster }), WrongStage)
	f("short keys", signed(func(m *Message) { m.Payload = m.Payload[1:] }), Malformed)
	f("a point of low order", signed(func(m *Message) { m.Payload = append(make([]byte, 32), m.Payload[32:]...) }), Malformed)
	f("no ML-KEM key", signed(func(m *Message) { m.Payload = bytes.Repeat([]byte{0xff}, keysSize) }), Malformed)
	f("a long name", signed(func(m *Message) { m.Sender = string(make([]byte, 300)) }), Malformed)
	f("a negative round", signed(func(m *Message) { m.Round = -1 }), Malformed)
	f("no signature", func() Message { m := keys[1]; m.Signature = nil; return m }(), Malformed)
	for at := range keys[1].Payload {
		if at%97 == 0 { // a changed byte anywhere
			m := keys[1]
			m.Payload = bytes.Clone(m.Payload)
			m.Payload[at] ^= 1
			f("changed", m, BadSignature)
		}
	}
	for _, m := range keys[1:] {
		f("the right ones", m, "")
	}
	if _, err := w.step(); err != nil {
		t.Fatal(err)
	}
	f("after its stage", keys[0], Late)
}

// The server's own records: only those that go on from what is there count, and
// the first of each stage.
func TestServerRefusesRecords(t *testing.T) {
	w := newWorld(t, 4, 3)
	w.at(Shared)
	f := func(what string, m Message, want Reason) {
		t.Helper()
		if got := reasonOf(w.server.Record(m)); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	f("again", w.records[1], "")
	f("another of the stage", w.forged(w.records[1], w.records[1].Payload[1:]), Duplicate)
	skipped := Message{Stage: Agreed, Training: "digits", Round: 3, Attempt: 1, Base: w.config.Base, After: w.server.last.Hash(), Payload: []byte{0, 0}}
	f("of a stage further on", w.forged(skipped, skipped.Payload), WrongRoster)
	stale := Message{Stage: Survived, Training: "digits", Round: 3, Attempt: 1, Base: w.config.Base, After: w.records[0].Hash()}
	f("after an older one", w.forged(stale, nil), WrongRoster)
	bad := skipped
	bad.Stage = Survived
	bad.sign(w.keys[0])
	f("of somebody else", bad, BadSignature)
	f("no list", w.forged(bad, []byte{9}), Malformed)
	abort := w.server.Aborted("enough")
	f("an end", abort, "")
	bad.After = abort.Hash()
	f("after the end", w.forged(bad, nil), WrongRoster)
	if _, ok := w.server.Collecting(); ok {
		t.Error("an attempt that was given up collects on")
	}

	fresh := w.newServer()
	open := w.records[0]
	settings := w.config.Settings
	settings.Clip = 9
	if got := reasonOf(fresh.Record(w.forged(open, settings.append(nil)))); got != Malformed {
		t.Errorf("other settings: %q", got)
	}
}

// A share that is not the one its dealer promised to its holder is refused, and
// the round goes on with those of others.
func TestTamperedShares(t *testing.T) {
	for name, change := range map[string]func(r *revealed){
		"tampered":           func(r *revealed) { r.share[5] ^= 1 },
		"of another owner":   func(r *revealed) { r.owner = 3 },
		"of the other kind":  func(r *revealed) { r.kind = 3 - r.kind },
		"of no kind":         func(r *revealed) { r.kind = 0 },
		"of nobody's secret": func(r *revealed) { r.owner = 9 },
	} {
		w := newWorld(t, 7, 3)
		liars := 0
		w.tamper = func(m *Message) {
			if m.Stage != Unmask || m.Sender != "c001" && m.Sender != "c004" {
				return
			}
			list, err := readRevealed(m.Payload)
			if err != nil {
				t.Fatal(err)
			}
			change(&list[1])
			slices.SortFunc(list, func(a, b revealed) int { return int(a.owner) - int(b.owner) })
			list = slices.CompactFunc(list, func(a, b revealed) bool { return a.owner == b.owner })
			m.Payload = appendRevealed(nil, list)
			m.sign(keyOf(m.Sender))
			if reasonOf(w.resume().Receive(*m)) != BadShare {
				t.Errorf("%s: %v", name, w.resume().Receive(*m))
			}
			liars++
		}
		w.mustSum(nil)
		if liars != 2 {
			t.Errorf("%s: %d liars", name, liars)
		}
	}
}

// A client that gives the server of a survivor the share that is for the missing
// is not heard.
func TestOtherKindOfShare(t *testing.T) {
	w := newWorld(t, 7, 3)
	lied := false
	w.tamper = func(m *Message) {
		if m.Stage != Unmask || m.Sender != "c001" {
			return
		}
		list, err := readRevealed(m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		list[0].kind, list[0].share = rootKind, w.clients[1].held[list[0].owner][1]
		m.Payload = appendRevealed(nil, list)
		m.sign(keyOf(m.Sender))
		if got := reasonOf(w.resume().Receive(*m)); got != BadShare {
			t.Errorf("got %q", got)
		}
		lied = true
	}
	w.mustSum(nil)
	if !lied {
		t.Error("nobody lied")
	}
}

// The share of one holder, sent by another, has the wrong index.
func TestShareOfWrongIndex(t *testing.T) {
	w := newWorld(t, 7, 3)
	var first []byte
	w.tamper = func(m *Message) {
		if m.Stage != Unmask {
			return
		}
		if first == nil {
			first = m.Payload
			return
		}
		m.Payload = first
		m.sign(keyOf(m.Sender))
		if got := reasonOf(w.resume().Receive(*m)); got != BadShare {
			t.Errorf("got %q", got)
		}
	}
	if _, err := w.run(nil); !errors.Is(err, ErrTooFew) {
		t.Errorf("got %v", err)
	}
}

// One whose sealed share cannot be opened is told from the others, and the sum
// stands: its holder gives none of it.
func TestTamperedDealing(t *testing.T) {
	w := newWorld(t, 7, 3)
	w.tamper = func(m *Message) {
		if m.Stage == Shares && m.Sender == "c002" {
			m.Payload = bytes.Clone(m.Payload)
			d, err := readDealt(m.Payload, 3, w.server.members)
			if err != nil {
				t.Fatal(err)
			}
			d.members[1].sealed[4] ^= 1
			m.sign(keyOf(m.Sender))
			w.clients[2].state.shares = m.Payload
		}
	}
	w.mustSum(nil)
	if _, held := w.clients[0].held[3]; held {
		t.Error("a share that cannot be opened is held")
	}
	if got := len(w.server.revealed[3]); got != 6 {
		t.Errorf("%d shares of the dealer, want 6", got)
	}
}

// Who deals shares of another secret than it promised spoils the attempt, and is
// named.
func TestDealerOfAnotherSecret(t *testing.T) {
	for _, missing := range []bool{false, true} {
		w := newWorld(t, 7, 3)
		d := drops{}
		if missing {
			d[2] = Masked
		}
		w.tamper = func(m *Message) {
			if m.Stage == Keys && m.Sender == "c002" {
				// From now on its shares are of what its keys are not made of.
				w.clients[2].root[0] ^= 1
			}
			if m.Stage == Shares && m.Sender == "c002" {
				m.Payload = bytes.Clone(m.Payload)
				m.Payload[0] ^= 1
				m.sign(keyOf(m.Sender))
				w.clients[2].state.shares = m.Payload
			}
		}
		_, err := w.run(d)
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(`"c002"`)) {
			t.Errorf("missing %v: %v", missing, err)
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	w := newWorld(t, 4, 3)
	open, err := w.step()
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, m Message, want Reason, change func(*ClientConfig)) {
		t.Helper()
		config := w.clientConfig(0)
		if change != nil {
			change(&config)
		}
		if _, _, err := Join(config, m, nil); reasonOf(err) != want {
			t.Errorf("%s: %q, want %q", what, reasonOf(err), want)
		}
	}
	f("as it is", open, "", nil)
	f("with whom it trusts", open, "", func(c *ClientConfig) { c.Trusted = w.config.Settings.Clients })
	f("with others", open, BadSettings, func(c *ClientConfig) { c.Trusted = w.config.Settings.Clients[:3] })
	f("another training", open, WrongRound, func(c *ClientConfig) { c.Training = "x" })
	f("another server", open, BadSignature, func(c *ClientConfig) { c.Server = keyOf("x").Public().(ed25519.PublicKey) })
	f("another client", open, NotOurs, func(c *ClientConfig) { c.Name = "x" })
	f("another key", open, NotOurs, func(c *ClientConfig) { c.Key = keyOf("x") })
	bad := func(change func(*Settings)) Message {
		s := w.config.Settings
		s.Clients = slices.Clone(s.Clients)
		change(&s)
		return w.forged(open, s.append(nil))
	}
	f("a low threshold", bad(func(s *Settings) { s.Threshold = 2 }), BadSettings, nil)
	f("a ring that overflows", bad(func(s *Settings) { s.MaxWeight *= 1000 }), BadSettings, nil)
	f("no elements", bad(func(s *Settings) { s.Elements = 0 }), BadSettings, nil)
	f("a client alone", bad(func(s *Settings) { s.Clients = s.Clients[:1] }), BadSettings, nil)
	f("names not in order", bad(func(s *Settings) { s.Clients[0], s.Clients[1] = s.Clients[1], s.Clients[0] }), BadSettings, nil)
	f("a tail", w.forged(open, append(bytes.Clone(open.Payload), 1)), Malformed, nil)
	f("too short", w.forged(open, open.Payload[:9]), Malformed, nil)
	if _, _, err := Join(w.clientConfig(0), open, []byte("x")); err == nil {
		t.Error("a kept state that is none")
	}
}
