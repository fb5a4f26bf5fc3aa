package secagg

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ClientConfig says who a client is and whom it trusts.
type ClientConfig struct {
	Training string
	Name     string
	Key      ed25519.PrivateKey
	Server   ed25519.PublicKey
	// Trusted are those whose sum the client is willing to be part of. nil is
	// whomever Open names, which trusts the server not to invent clients.
	Trusted []Participant
	// Random is where secrets come from; nil is crypto/rand.
	Random io.Reader

	encapsulate func(public []byte) (common, ciphertext []byte, err error) // tests set it
}

// Client takes part in one attempt at one round. It may not be used by several
// goroutines at once.
//
// Before anything it returns is sent, State has to be kept: a client that is
// started again with it sends the same bytes. Two vectors under the same masks
// would give away their difference, so a Client masks one only.
type Client struct {
	config   ClientConfig
	settings Settings
	index    uint16
	state    state
	channel  pair
	masks    pair
	root     secret
	seed     secret // of its own mask

	open, roster Message
	keys         map[uint16][]byte // of the roster
	members      []uint16          // of the roster
	shared       []entry           // nil until Shared came
	sharedHash   Hash
	got          map[uint16]dealt     // of those in shared
	held         map[uint16][2]secret // shares, by owner and kind
	survivors    *survivors
	survived     Message
}

// state is what a client keeps. A hash is zero where its record did not come yet.
type state struct {
	entropy  secret // what all secrets are made of
	open     Hash
	roster   Hash   // that shares were made under
	shares   []byte // the payload
	shared   Hash   // that masked was made under
	masked   []byte // the elements
	survived Hash   // that was confirmed
}

func (s *state) append(b []byte) []byte {
	b = append(b, s.entropy[:]...)
	b = append(b, s.open[:]...)
	b = append(b, s.roster[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.shares)))
	b = append(b, s.shares...)
	b = append(b, s.shared[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.masked)))
	b = append(b, s.masked...)
	return append(b, s.survived[:]...)
}

func readState(b []byte) (s state, err error) {
	r := reader{b: b}
	s.entropy, s.open, s.roster = r.hash(), r.hash(), r.hash()
	s.shares = r.bytes(int(r.number(4)))
	s.shared = r.hash()
	s.masked = r.bytes(int(r.number(4)))
	s.survived = r.hash()
	return s, r.end()
}

// Join takes part in the attempt that open announces. kept is the last State of
// this client, which is of no use if it is of another attempt, or nil. It returns
// what to send.
func Join(config ClientConfig, open Message, kept []byte) (*Client, []Message, error) {
	c := &Client{config: config, open: open}
	if err := c.check(&open, Open, Hash{}); err != nil {
		return nil, nil, err
	}
	var err error
	if c.settings, err = readSettings(open.Payload); err != nil {
		return nil, nil, open.refuse(Malformed, "%v", err)
	}
	if err := c.settings.Check(); err != nil {
		return nil, nil, open.refuse(BadSettings, "%v", err)
	}
	same := func(a, b Participant) bool { return a.Name == b.Name && a.Key.Equal(b.Key) }
	for _, p := range c.settings.Clients {
		if config.Trusted != nil && !slices.ContainsFunc(config.Trusted, func(q Participant) bool { return same(p, q) }) {
			return nil, nil, open.refuse(BadSettings, "client %.100q with its key is not one that this client trusts", p.Name)
		}
	}
	at := slices.IndexFunc(c.settings.Clients, func(p Participant) bool { return p.Name == config.Name })
	if at < 0 || !c.settings.Clients[at].Key.Equal(config.Key.Public()) {
		return nil, nil, open.refuse(NotOurs, "it does not expect client %.100q with this key", config.Name)
	}
	c.index = uint16(at + 1)
	if kept != nil {
		if c.state, err = readState(kept); err != nil {
			return nil, nil, fmt.Errorf("read kept state: %w", err)
		}
	}
	if c.state.open != open.Hash() {
		if config.Random == nil {
			config.Random = rand.Reader
		}
		if _, err := io.ReadFull(config.Random, c.state.entropy[:]); err != nil {
			return nil, nil, fmt.Errorf("draw secrets: %w", err)
		}
		c.state = state{entropy: c.state.entropy, open: open.Hash()}
	}
	if c.config.encapsulate == nil {
		c.config.encapsulate = encapsulate
	}
	c.root = secret(derive(c.state.entropy[:], "root", nil, secretSize))
	c.seed = secret(derive(c.state.entropy[:], "self mask", nil, secretSize))
	if c.channel, err = newPair(c.state.entropy[:], "channel keys"); err != nil {
		return nil, nil, err
	}
	if c.masks, err = newPair(c.root[:], "mask keys"); err != nil {
		return nil, nil, err
	}
	return c, []Message{c.message(Keys, open.Hash(), c.publicKeys())}, nil
}

// State is what has to be kept before anything that was returned is sent. It
// holds secrets.
func (c *Client) State() []byte { return c.state.append(nil) }

// Settings are those of the round.
func (c *Client) Settings() Settings { return c.settings }

func (c *Client) publicKeys() []byte { return append(c.channel.public(), c.masks.public()...) }

func (c *Client) message(stage Stage, after Hash, payload []byte) Message {
	m := Message{
		Stage: stage, Training: c.open.Training, Round: c.open.Round, Attempt: c.open.Attempt, Base: c.open.Base,
		Sender: c.config.Name, After: after, Payload: payload,
	}
	m.sign(c.config.Key)
	return m
}

// check says why m is not the server's record of a stage after another.
func (c *Client) check(m *Message, stage Stage, after Hash) error {
	if err := m.readable(); err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	switch {
	case m.Stage != stage || m.Sender != "":
		return m.refuse(WrongStage, "expected %v of the server", stage)
	case m.Training != c.config.Training || m.Round != c.open.Round || m.Attempt != c.open.Attempt || m.Base != c.open.Base:
		return m.refuse(WrongRound, "expected training %q, round %d, attempt %d and its base model, found training %.100q, round %d, attempt %d",
			c.config.Training, c.open.Round, c.open.Attempt, m.Training, m.Round, m.Attempt)
	case m.After != after:
		return m.refuse(WrongRoster, "it does not go on from the record before it")
	case !ed25519.Verify(c.config.Server, m.signed(), m.Signature):
		return m.refuse(BadSignature, "expected a signature of the server's key")
	}
	return nil
}

// Receive takes a record of the server, or Shares of a client after Shared, in
// the order of the protocol, and returns what to send. A record that came before
// has the same answer again.
func (c *Client) Receive(m Message) ([]Message, error) {
	switch m.Stage {
	case Roster:
		return c.onRoster(m)
	case Shares:
		return nil, c.onShares(m)
	case Shared:
		return nil, c.onShared(m)
	case Survived:
		return c.onSurvived(m)
	case Agreed:
		return c.onAgreed(m)
	}
	return nil, m.refuse(WrongStage, "expected a record of this attempt that a client answers")
}

func (c *Client) onRoster(m Message) ([]Message, error) {
	if err := c.check(&m, Roster, c.open.Hash()); err != nil {
		return nil, err
	}
	if c.state.roster != (Hash{}) && c.state.roster != m.Hash() {
		return nil, m.refuse(Second, "there was another roster in this attempt")
	}
	list, err := readList(m.Payload, keysEntry)
	if err != nil {
		return nil, m.refuse(Malformed, "%v", err)
	}
	if err := c.enough(&m, indexesOf(list)); err != nil {
		return nil, err
	}
	keys := map[uint16][]byte{}
	for _, e := range list {
		who := c.settings.Clients[e.index-1]
		sent := Message{Stage: Keys, Training: m.Training, Round: m.Round, Attempt: m.Attempt, Base: m.Base,
			Sender: who.Name, After: c.open.Hash(), Payload: e.data[:keysSize]}
		if !ed25519.Verify(who.Key, sent.signed(), e.data[keysSize:]) {
			return nil, m.refuse(BadSignature, "expected keys that client %q has signed", who.Name)
		}
		keys[e.index] = e.data[:keysSize]
	}
	if !bytes.Equal(keys[c.index], c.publicKeys()) {
		return nil, m.refuse(NotOurs, "it does not have the keys of this client, which sits the attempt out")
	}
	c.roster, c.keys, c.members = m, keys, indexesOf(list)
	if len(c.state.shares) == 0 {
		payload, err := c.deal()
		if err != nil {
			return nil, m.refuse(Malformed, "%v", err)
		}
		c.state.roster, c.state.shares = m.Hash(), payload
	}
	return []Message{c.message(Shares, m.Hash(), c.state.shares)}, nil
}

// enough says why a list of the server has too few members, or unknown ones.
func (c *Client) enough(m *Message, list []uint16) error {
	if len(list) < int(c.settings.Threshold) {
		return m.refuse(BadList, "expected at least %d clients, found %d", c.settings.Threshold, len(list))
	}
	if last := list[len(list)-1]; int(last) > len(c.settings.Clients) {
		return m.refuse(BadList, "there is no client %d", last)
	}
	return nil
}

// deal makes the payload of Shares.
func (c *Client) deal() ([]byte, error) {
	roster := c.roster.Hash()
	seed, root := c.sharings()
	d := dealt{seed: seedPromise(roster, c.index, c.seed), members: map[uint16]dealtTo{}}
	var chosen, ciphertexts []byte
	for _, index := range c.members {
		a, b := seed.share(index), root.share(index)
		to := dealtTo{promised: [2]Hash{promise(roster, seedKind, c.index, index, a), promise(roster, rootKind, c.index, index, b)}}
		if index != c.index {
			classical, err := c.channel.classical(channelOf(c.keys[index]))
			if err != nil {
				return nil, err
			}
			quantum, ciphertext, err := c.config.encapsulate(channelOf(c.keys[index]))
			if err != nil {
				return nil, err
			}
			key := common("channel", classical, quantum, roster, c.keys[c.index], c.keys[index])
			to.channel, to.sealed = ciphertext, seal(key[:], append(a[:], b[:]...), roster[:])
		}
		if index > c.index {
			quantum, ciphertext, err := c.config.encapsulate(maskOf(c.keys[index]))
			if err != nil {
				return nil, err
			}
			to.mask = ciphertext
			chosen, ciphertexts = append(chosen, quantum...), append(ciphertexts, ciphertext...)
		}
		d.members[index] = to
	}
	d.escrow = seal(escrowKey(c.root, ciphertexts), chosen, roster[:])
	return d.append(nil, c.index, c.members), nil
}

// escrowKey seals what a client chose for the masks with members of a higher
// index, for whoever has its root: the secret of a ciphertext cannot be had from
// the keys of the one who made it.
func escrowKey(root secret, ciphertexts []byte) []byte {
	about := sha256.Sum256(ciphertexts)
	return derive(root[:], "escrow", about[:], 32)
}

// chosen opens d's escrow: the ML-KEM halves by index.
func (d dealt) chosen(root secret, roster Hash, from uint16, members []uint16) (map[uint16][]byte, error) {
	var ciphertexts []byte
	for _, index := range members {
		ciphertexts = append(ciphertexts, d.members[index].mask...)
	}
	plain, err := open(escrowKey(root, ciphertexts), d.escrow, roster[:])
	if err != nil {
		return nil, fmt.Errorf("open escrow: %w", err)
	}
	out := map[uint16][]byte{}
	for _, index := range members {
		if index > from {
			out[index], plain = plain[:secretSize], plain[secretSize:]
		}
	}
	return out, nil
}

func (c *Client) onShared(m Message) error {
	if err := c.check(&m, Shared, c.roster.Hash()); err != nil {
		return err
	}
	if c.keys == nil {
		return m.refuse(WrongStage, "expected the roster before it")
	}
	if old := c.state.shared; old != (Hash{}) && old != m.Hash() || c.shared != nil && c.sharedHash != m.Hash() {
		return m.refuse(Second, "there was another such list in this attempt")
	}
	if c.shared != nil {
		return nil
	}
	list, err := readList(m.Payload, sha256.Size)
	if err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	if err := c.enough(&m, indexesOf(list)); err != nil {
		return err
	}
	ours := false
	for _, e := range list {
		if c.keys[e.index] == nil {
			return m.refuse(BadList, "client %d is not in the roster", e.index)
		}
		if e.index == c.index {
			own := c.message(Shares, c.roster.Hash(), c.state.shares)
			hash := own.Hash()
			ours = bytes.Equal(e.data, hash[:])
		}
	}
	if !ours {
		return m.refuse(NotOurs, "it does not have the shares of this client, which sits the attempt out")
	}
	c.shared, c.sharedHash = list, m.Hash()
	c.got, c.held = map[uint16]dealt{}, map[uint16][2]secret{}
	return c.take(c.index, c.state.shares)
}

// Roster is the hash of the record that shares are made under.
func (c *Client) Roster() Hash { return c.roster.Hash() }

// Masked says that there is a vector under masks, and Mask returns it.
func (c *Client) Masked() bool { return len(c.state.masked) > 0 }

// Owns says that m is a message of this client's.
func (c *Client) Owns(m Message) bool { return m.Sender == c.config.Name }

// Missing says that Shares of clients are needed before a vector can be masked.
func (c *Client) Missing() bool { return c.shared != nil && len(c.got) < len(c.shared) }

// Ready says that Mask can be called.
func (c *Client) Ready() bool { return c.shared != nil && !c.Missing() }

func (c *Client) onShares(m Message) error {
	if c.shared == nil {
		return m.refuse(WrongStage, "expected the list of those whose shares count before it")
	}
	hash := m.Hash()
	for _, e := range c.shared {
		who := c.settings.Clients[e.index-1]
		if who.Name != m.Sender {
			continue
		}
		switch _, there := c.got[e.index]; {
		case there:
			return m.refuse(Duplicate, "the first one counts")
		case !bytes.Equal(e.data, hash[:]):
			return m.refuse(Late, "it is not the one on the server's list")
		case !ed25519.Verify(who.Key, m.signed(), m.Signature):
			return m.refuse(BadSignature, "expected a signature of the client's key")
		}
		if err := c.take(e.index, m.Payload); err != nil {
			return m.refuse(BadShare, "%v", err)
		}
		return nil
	}
	return m.refuse(Late, "its sender is not on the server's list")
}

// take keeps what a client dealt. One who dealt this client no share that keeps
// its promise is kept without; the error says so.
func (c *Client) take(from uint16, payload []byte) error {
	d, err := readDealt(payload, from, c.members)
	if err != nil {
		return err
	}
	c.got[from] = d
	roster := c.roster.Hash()
	if from == c.index {
		return nil
	}
	classical, err := c.channel.classical(channelOf(c.keys[from]))
	if err != nil {
		return err
	}
	to := d.members[c.index]
	quantum, err := c.channel.k.Decapsulate(to.channel)
	if err != nil {
		return fmt.Errorf("open ML-KEM: %w", err)
	}
	key := common("channel", classical, quantum, roster, c.keys[from], c.keys[c.index])
	plain, err := open(key[:], to.sealed, roster[:])
	if err != nil {
		return err
	}
	shares := [2]secret{secret(plain[:secretSize]), secret(plain[secretSize:])}
	for i, share := range shares {
		if promise(roster, kind(i+1), from, c.index, share) != to.promised[i] {
			return errors.New("its share is not the one it promised")
		}
	}
	c.held[from] = shares
	return nil
}

// Mask returns the client's vector under masks, in parts. values are as many as
// Settings.Elements. Called again, or after a start with the State that followed,
// it returns the same whatever it is given.
func (c *Client) Mask(values []float32, weight uint32) ([]Message, error) {
	if !c.Ready() {
		return nil, errors.New("mask vector: expected Shared, and the shares of all on it, first")
	}
	if !c.Masked() {
		if len(values) != int(c.settings.Elements) {
			return nil, fmt.Errorf("mask vector: expected %d elements, found %d", c.settings.Elements, len(values))
		}
		v, err := c.settings.encode(values, weight, streamOf(c.state.entropy[:], "rounding"))
		if err != nil {
			return nil, fmt.Errorf("mask vector: %w", err)
		}
		c.settings.blur(v, streamOf(c.state.entropy[:], "noise"))
		seeds, err := c.seeds()
		if err != nil {
			return nil, fmt.Errorf("mask vector: %w", err)
		}
		apply(v, seeds)
		c.state.shared, c.state.masked = c.sharedHash, appendElements(make([]byte, 0, 4*len(v)), v)
	}
	return c.masked(), nil
}

// masked are the parts of the masked vector.
func (c *Client) masked() (out []Message) {
	whole := len(c.state.masked) / 4
	for from := 0; from < whole; from += MaxChunk {
		part := c.state.masked[4*from : 4*min(from+MaxChunk, whole)]
		out = append(out, c.message(Masked, c.sharedHash, appendMasked(nil, whole, from, part)))
	}
	return out
}

// seeds are those of all masks of the client.
func (c *Client) seeds() ([]mask, error) {
	out := []mask{{c.seed, false}}
	roster := c.roster.Hash()
	chosen, err := c.got[c.index].chosen(c.root, roster, c.index, c.members)
	if err != nil {
		return nil, err
	}
	for _, e := range c.shared {
		if e.index == c.index {
			continue
		}
		quantum := chosen[e.index]
		if e.index < c.index {
			if quantum, err = c.masks.k.Decapsulate(c.got[e.index].members[c.index].mask); err != nil {
				return nil, fmt.Errorf("open ML-KEM of client %d: %w", e.index, err)
			}
		}
		m, err := pairMask(c.masks, c.index, e.index, quantum, roster, c.keys)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// pairMask is what a client adds for its peer: the one of the lower index adds
// the mask, and the other takes it away.
func pairMask(own pair, index, peer uint16, quantum []byte, roster Hash, keys map[uint16][]byte) (mask, error) {
	classical, err := own.classical(maskOf(keys[peer]))
	if err != nil {
		return mask{}, err
	}
	low, high := min(index, peer), max(index, peer)
	return mask{common("mask", classical, quantum, roster, keys[low], keys[high]), index > peer}, nil
}

func (c *Client) onSurvived(m Message) ([]Message, error) {
	if !c.Ready() || !c.Masked() {
		return nil, m.refuse(WrongStage, "expected this client's vector before it")
	}
	if err := c.check(&m, Survived, c.sharedHash); err != nil {
		return nil, err
	}
	if c.state.survived != (Hash{}) && c.state.survived != m.Hash() {
		return nil, m.refuse(Second, "there was another such list in this attempt")
	}
	s, err := readSurvivors(m.Payload)
	if err != nil {
		return nil, m.refuse(Malformed, "%v", err)
	}
	if err := c.enough(&m, indexesOf(s.there)); err != nil {
		return nil, err
	}
	all := append(indexesOf(s.there), s.missing...)
	slices.Sort(all)
	if !slices.Equal(all, indexesOf(c.shared)) {
		return nil, m.refuse(BadList, "expected each client of the list before once, as there or as missing")
	}
	hash := vectorHash(c.masked())
	if !slices.ContainsFunc(s.there, func(e entry) bool { return e.index == c.index && bytes.Equal(e.data, hash[:]) }) {
		return nil, m.refuse(NotOurs, "it does not have the vector of this client, which sits the attempt out")
	}
	c.survivors, c.survived, c.state.survived = &s, m, m.Hash()
	return []Message{c.message(Confirm, m.Hash(), nil)}, nil
}

// vectorHash stands for a vector: the SHA-256 of the hashes of its parts.
func vectorHash(parts []Message) Hash {
	sum := sha256.New()
	for _, m := range parts {
		h := m.Hash()
		sum.Write(h[:])
	}
	return Hash(sum.Sum(nil))
}

func (c *Client) onAgreed(m Message) ([]Message, error) {
	if c.survivors == nil {
		return nil, m.refuse(WrongStage, "expected the list of survivors before it")
	}
	if err := c.check(&m, Agreed, c.survived.Hash()); err != nil {
		return nil, err
	}
	list, err := readList(m.Payload, ed25519.SignatureSize)
	if err != nil {
		return nil, m.refuse(Malformed, "%v", err)
	}
	if err := c.enough(&m, indexesOf(list)); err != nil {
		return nil, err
	}
	there := indexesOf(c.survivors.there)
	for _, e := range list {
		who := c.settings.Clients[e.index-1]
		sent := Message{Stage: Confirm, Training: m.Training, Round: m.Round, Attempt: m.Attempt, Base: m.Base,
			Sender: who.Name, After: c.survived.Hash()}
		if !slices.Contains(there, e.index) || !ed25519.Verify(who.Key, sent.signed(), e.data) {
			return nil, m.refuse(BadSignature, "expected a confirmation that client %q has signed", who.Name)
		}
	}
	seed, root := c.sharings()
	own := [2]secret{seed.share(c.index), root.share(c.index)}
	var out []revealed
	for _, e := range c.shared {
		held, ok := c.held[e.index]
		if e.index == c.index {
			held, ok = own, true
		}
		switch {
		case !ok:
		case slices.Contains(there, e.index):
			out = append(out, revealed{e.index, seedKind, held[0]})
		default:
			out = append(out, revealed{e.index, rootKind, held[1]})
		}
	}
	return []Message{c.message(Unmask, m.Hash(), appendRevealed(nil, out))}, nil
}

// sharings are the polynomials of the client's two secrets.
func (c *Client) sharings() (seed, root sharing) {
	stream := streamOf(c.state.entropy[:], "coefficients")
	random := func(b []byte) {
		clear(b)
		stream.XORKeyStream(b, b)
	}
	t := int(c.settings.Threshold)
	return newSharing(c.seed, t, random), newSharing(c.root, t, random)
}
