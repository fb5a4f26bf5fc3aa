package secagg

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"penstock/consumers/federated/kernels"
)

// ErrTooFew is wrapped where so many clients dropped out that the masks cannot
// be taken off. The attempt is over.
var ErrTooFew = errors.New("too few clients are left")

// ServerConfig says which attempt a server runs.
type ServerConfig struct {
	Training string
	Round    int64
	Attempt  int32
	Base     Hash // of the round's model
	Key      ed25519.PrivateKey
	Settings Settings
	// Spill makes a file for vectors of which parts are there, until the others are;
	// nil keeps them in memory. Close closes it.
	Spill func() (File, error)
}

// File is what a server asks of a file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// Server runs one attempt at one round. What it is follows from the records of
// the server that are on the log (Record) and the messages of clients on their
// lists (Receive), so it can be made again from the log at any time. It may not
// be used by several goroutines at once.
type Server struct {
	config  ServerConfig
	records map[Stage]Message
	last    Message // the newest record

	// What came, by index. A list that is on the log bounds what is here.
	keys     map[uint16]Message
	dealt    map[uint16]dealt
	shares   map[uint16]Hash // of the message in dealt
	parts    map[uint16]*arriving
	spilled  File            // of parts: of each client at its index, as much as a vector takes
	arrived  map[uint16]Hash // of the vectors in sum
	sum      []uint32
	confirms map[uint16][]byte // signatures
	unmasked map[uint16]bool
	// revealed are shares by owner and holder: of the seed where the owner
	// survived, else of the root, and never of both.
	revealed map[uint16]map[uint16]secret

	members   []uint16 // of the roster
	shared    []entry
	survivors survivors
}

// arriving is a vector of which parts are there.
type arriving struct {
	have     int    // bytes
	elements []byte // those, unless they are in a file
	parts    hash.Hash
}

// keep keeps one more part of a client's vector.
func (s *Server) keep(index uint16, a *arriving, part []byte) (err error) {
	if s.config.Spill == nil {
		a.elements = append(a.elements, part...)
		a.have += len(part)
		return nil
	}
	if s.spilled == nil {
		if s.spilled, err = s.config.Spill(); err != nil {
			return fmt.Errorf("keep part of a vector: %w", err)
		}
	}
	if _, err := s.spilled.WriteAt(part, s.place(index)+int64(a.have)); err != nil {
		return fmt.Errorf("keep part of a vector: %w", err)
	}
	a.have += len(part)
	return nil
}

// kept are the parts of a client's vector.
func (s *Server) kept(index uint16, a *arriving) ([]byte, error) {
	if s.spilled == nil || a.have == 0 {
		return a.elements, nil
	}
	b := make([]byte, a.have)
	if _, err := s.spilled.ReadAt(b, s.place(index)); err != nil {
		return nil, fmt.Errorf("read part of a vector: %w", err)
	}
	return b, nil
}

func (s *Server) place(index uint16) int64 {
	return int64(index) * 4 * int64(s.config.Settings.whole())
}

// Close lets go of what Spill made. The server takes no messages after it.
func (s *Server) Close() error {
	if s.spilled == nil {
		return nil
	}
	return s.spilled.Close()
}

// NewServer returns a server whose log is empty.
func NewServer(config ServerConfig) (*Server, error) {
	if err := config.Settings.Check(); err != nil {
		return nil, fmt.Errorf("new server: %w", err)
	}
	if config.Training == "" || len(config.Training) > maxName || config.Round < 0 || config.Attempt < 0 || len(config.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("new server: expected a training of at most %d bytes, a round, an attempt and a key", maxName)
	}
	return &Server{
		config: config, records: map[Stage]Message{},
		keys: map[uint16]Message{}, dealt: map[uint16]dealt{}, shares: map[uint16]Hash{},
		parts: map[uint16]*arriving{}, arrived: map[uint16]Hash{}, sum: make([]uint32, config.Settings.whole()),
		confirms: map[uint16][]byte{}, unmasked: map[uint16]bool{}, revealed: map[uint16]map[uint16]secret{},
	}, nil
}

// whole is the length of a vector with its weight.
func (s *Settings) whole() int { return 1 + int(s.Elements) }

func (s *Server) message(stage Stage, payload []byte) Message {
	m := Message{Stage: stage, Training: s.config.Training, Round: s.config.Round, Attempt: s.config.Attempt, Base: s.config.Base, Payload: payload}
	if stage != Open {
		m.After = s.last.Hash()
	}
	m.sign(s.config.Key)
	return m
}

// Collecting is the stage whose messages the server waits for: the one after
// its newest record, or an earlier one if its list is on the log and something
// on it was not received, as after a start. Before Open is on the log, and after
// Abort, ok is false.
func (s *Server) Collecting() (stage Stage, ok bool) {
	switch {
	case s.records[Open].Signature == nil || s.last.Stage == Abort:
		return 0, false
	case s.listed(Shared) && len(s.dealt) < len(s.shared):
		return Shares, true
	case s.listed(Survived) && len(s.arrived) < len(s.survivors.there):
		return Masked, true
	}
	return s.last.Stage + 1, true
}

func (s *Server) listed(stage Stage) bool {
	_, ok := s.records[stage]
	return ok
}

// Complete says that there is nothing more to wait for in the stage that the
// server collects: all came that could, or, of confirmations and unmaskings, as
// many as it takes.
func (s *Server) Complete() bool {
	switch s.last.Stage {
	case Open:
		return s.listed(Open) && len(s.keys) == len(s.config.Settings.Clients)
	case Roster:
		return len(s.dealt) == len(s.members)
	case Shared:
		return len(s.dealt) == len(s.shared) && len(s.arrived) == len(s.shared)
	case Survived:
		return len(s.confirms) >= s.threshold()
	case Agreed:
		return s.unmaskable()
	}
	return false
}

func (s *Server) threshold() int { return int(s.config.Settings.Threshold) }

// unmaskable says that each secret that is needed can be put together.
func (s *Server) unmaskable() bool {
	if stage, _ := s.Collecting(); stage != Unmask {
		return false
	}
	for _, e := range s.shared {
		if len(s.revealed[e.index]) < s.threshold() {
			return false
		}
	}
	return true
}

// Next is the record that ends the stage with what has come, or Open if nothing
// is on the log. It becomes true when it is on the log, and the first there of
// its stage: hand what is there to Record. The error wraps ErrTooFew if the
// attempt has failed.
func (s *Server) Next() (Message, error) {
	if !s.listed(Open) {
		return s.message(Open, s.config.Settings.append(nil)), nil
	}
	var list []entry
	switch s.last.Stage {
	case Open:
		for _, index := range sorted(s.keys) {
			m := s.keys[index]
			list = append(list, entry{index, append(bytes.Clone(m.Payload), m.Signature...)})
		}
	case Roster:
		list = hashes(s.shares)
	case Shared:
		list = hashes(s.arrived)
	case Survived:
		for _, index := range sorted(s.confirms) {
			list = append(list, entry{index, s.confirms[index]})
		}
	default:
		return Message{}, fmt.Errorf("end stage: none of a list follows %v", s.last.Stage)
	}
	stage := s.last.Stage + 2
	if len(list) < s.threshold() {
		return Message{}, fmt.Errorf("end stage %v: %w: expected at least %d, found %d", s.last.Stage+1, ErrTooFew, s.threshold(), len(list))
	}
	if stage != Survived {
		return s.message(stage, appendEntries(nil, list)), nil
	}
	there := survivors{there: list}
	for _, e := range s.shared {
		if _, ok := s.arrived[e.index]; !ok {
			there.missing = append(there.missing, e.index)
		}
	}
	return s.message(stage, there.append(nil)), nil
}

// Aborted is the record that gives the attempt up.
func (s *Server) Aborted(why string) Message { return s.message(Abort, []byte(why)) }

// Closing is the record that tells clients that the training is over, with the
// round and the hash of its last model.
func Closing(training string, round int64, model Hash, key ed25519.PrivateKey) Message {
	m := Message{Stage: Closed, Training: training, Round: round, Base: model}
	m.sign(key)
	return m
}

func hashes(of map[uint16]Hash) (list []entry) {
	for _, index := range sorted(of) {
		h := of[index]
		list = append(list, entry{index, h[:]})
	}
	return list
}

func sorted[V any](m map[uint16]V) []uint16 {
	keys := make([]uint16, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// same says why m is not of this attempt.
func (s *Server) same(m *Message) error {
	if err := m.readable(); err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	c := s.config
	if m.Training != c.Training || m.Round != c.Round || m.Attempt != c.Attempt || m.Base != c.Base {
		return m.refuse(WrongRound, "expected training %q, round %d, attempt %d and its base model, found training %.100q, round %d, attempt %d",
			c.Training, c.Round, c.Attempt, m.Training, m.Round, m.Attempt)
	}
	return nil
}

// Record takes a record of the server from the log. The first of its stage
// counts; one that is there for the second time changes nothing.
func (s *Server) Record(m Message) error {
	if err := s.same(&m); err != nil {
		return err
	}
	key, _ := s.config.Key.Public().(ed25519.PublicKey)
	if m.Sender != "" || !ed25519.Verify(key, m.signed(), m.Signature) {
		return m.refuse(BadSignature, "expected a signature of the server's key")
	}
	if old, ok := s.records[m.Stage]; ok {
		if old.Hash() == m.Hash() {
			return nil
		}
		return m.refuse(Duplicate, "the first record of the stage counts")
	}
	var after Hash
	if m.Stage != Open {
		after = s.last.Hash()
	}
	if m.After != after || m.Stage != Open && m.Stage != Abort && m.Stage != s.last.Stage+2 || s.last.Stage == Abort {
		return m.refuse(WrongRoster, "it does not go on from the record before it")
	}
	if err := s.adopt(&m); err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	s.records[m.Stage], s.last = m, m
	return nil
}

// adopt takes over the list of a record. What came and is not on it is dropped,
// and what is on it and did not come has to be received again.
func (s *Server) adopt(m *Message) (err error) {
	switch m.Stage {
	case Open:
		if !bytes.Equal(m.Payload, s.config.Settings.append(nil)) {
			return errors.New("it has other settings than this server")
		}
	case Roster:
		list, err := readList(m.Payload, keysEntry)
		if err != nil {
			return err
		}
		if err := within(indexesOf(list), len(s.config.Settings.Clients)); err != nil {
			return err
		}
		clear(s.keys)
		for _, e := range list {
			s.keys[e.index] = Message{Payload: e.data[:keysSize], Signature: e.data[keysSize:]}
		}
		s.members = indexesOf(list)
	case Shared:
		if s.shared, err = readList(m.Payload, sha256.Size); err != nil {
			return err
		}
		listed := map[uint16]Hash{}
		for _, e := range s.shared {
			listed[e.index] = Hash(e.data)
		}
		for index, h := range s.shares {
			if listed[index] != h {
				delete(s.shares, index)
				delete(s.dealt, index)
			}
		}
	case Survived:
		if s.survivors, err = readSurvivors(m.Payload); err != nil {
			return err
		}
		clear(s.parts)
		if !slices.EqualFunc(s.survivors.there, hashes(s.arrived), func(a, b entry) bool { return a.index == b.index && bytes.Equal(a.data, b.data) }) {
			clear(s.arrived)
			clear(s.sum)
		}
	}
	return nil
}

func within(list []uint16, clients int) error {
	if n := len(list); n > 0 && int(list[n-1]) > clients {
		return fmt.Errorf("there is no client %d", list[n-1])
	}
	return nil
}

// Receive takes a message of a client. A *Refusal says why it does not count; any other
// error is that of a file, and m may be received again.
func (s *Server) Receive(m Message) error {
	if err := s.same(&m); err != nil {
		return err
	}
	index := uint16(1 + slices.IndexFunc(s.config.Settings.Clients, func(p Participant) bool { return p.Name == m.Sender }))
	collecting, ok := s.Collecting()
	switch {
	case index == 0:
		return m.refuse(UnknownClient, "the round does not expect this client")
	case !ok || m.Stage.ofServer() || m.Stage > Unmask:
		return m.refuse(WrongStage, "expected %v", collecting)
	case m.Stage < collecting:
		return m.refuse(Late, "the list of its stage is on the log")
	case m.Stage > collecting:
		return m.refuse(WrongStage, "expected %v", collecting)
	case m.After != s.after(m.Stage):
		return m.refuse(WrongRoster, "it was made under another record of the server")
	case !ed25519.Verify(s.config.Settings.Clients[index-1].Key, m.signed(), m.Signature):
		return m.refuse(BadSignature, "expected a signature of the client's key")
	}
	switch m.Stage {
	case Keys:
		return s.onKeys(index, &m)
	case Shares:
		return s.onShares(index, &m)
	case Masked:
		return s.onMasked(index, &m)
	case Confirm:
		return s.onConfirm(index, &m)
	default:
		return s.onUnmask(index, &m)
	}
}

// after is the hash of the record that messages of a stage answer.
func (s *Server) after(stage Stage) Hash {
	m := s.records[stage-1]
	return m.Hash()
}

func (s *Server) onKeys(index uint16, m *Message) error {
	if _, there := s.keys[index]; there {
		return m.refuse(Duplicate, "the first one counts")
	}
	if len(m.Payload) != keysSize {
		return m.refuse(Malformed, "expected keys of %d bytes, found %d", keysSize, len(m.Payload))
	}
	if err := errors.Join(checkPublic(channelOf(m.Payload)), checkPublic(maskOf(m.Payload))); err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	s.keys[index] = *m
	return nil
}

func (s *Server) onShares(index uint16, m *Message) error {
	if !slices.Contains(s.members, index) {
		return m.refuse(Late, "the roster is without this client")
	}
	if _, there := s.dealt[index]; there {
		return m.refuse(Duplicate, "the first one counts")
	}
	if s.listed(Shared) {
		h := m.Hash()
		if !on(s.shared, index, h) {
			return m.refuse(Late, "it is not the one on the list")
		}
	}
	d, err := readDealt(m.Payload, index, s.members)
	if err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	s.dealt[index], s.shares[index] = d, m.Hash()
	return nil
}

// on says that a list has this hash of a client.
func on(list []entry, index uint16, h Hash) bool {
	return slices.ContainsFunc(list, func(e entry) bool { return e.index == index && bytes.Equal(e.data, h[:]) })
}

func (s *Server) onMasked(index uint16, m *Message) error {
	if !slices.ContainsFunc(s.shared, func(e entry) bool { return e.index == index }) {
		return m.refuse(Late, "the list of those who shared is without this client")
	}
	if _, there := s.arrived[index]; there {
		return m.refuse(Duplicate, "the first one counts")
	}
	whole := s.config.Settings.whole()
	from, part, err := readMasked(m.Payload, whole)
	if err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	a := s.parts[index]
	if a == nil {
		a = &arriving{parts: sha256.New()}
	}
	switch have := a.have / 4; {
	case from < have:
		return m.refuse(Duplicate, "the first one counts")
	case from > have:
		return m.refuse(Malformed, "expected the part from element %d, found that from %d", have, from)
	}
	h := m.Hash()
	if a.have+len(part) < 4*whole {
		if err := s.keep(index, a, part); err != nil {
			return err
		}
		a.parts.Write(h[:])
		s.parts[index] = a
		return nil
	}
	before, err := s.kept(index, a)
	if err != nil {
		return err
	}
	a.parts.Write(h[:])
	delete(s.parts, index)
	hash := Hash(a.parts.Sum(nil))
	if s.listed(Survived) && !on(s.survivors.there, index, hash) {
		return m.refuse(Late, "it is not the one on the list")
	}
	kernels.AddWords(s.sum[:from], before)
	kernels.AddWords(s.sum[from:], part)
	s.arrived[index] = hash
	return nil
}

func (s *Server) onConfirm(index uint16, m *Message) error {
	if !s.survived(index) {
		return m.refuse(Late, "the list of survivors is without this client")
	}
	if _, there := s.confirms[index]; there {
		return m.refuse(Duplicate, "the first one counts")
	}
	if len(m.Payload) != 0 {
		return m.refuse(Malformed, "expected no payload, found %d bytes", len(m.Payload))
	}
	s.confirms[index] = m.Signature
	return nil
}

func (s *Server) survived(index uint16) bool {
	return slices.ContainsFunc(s.survivors.there, func(e entry) bool { return e.index == index })
}

func (s *Server) onUnmask(index uint16, m *Message) error {
	if !s.survived(index) {
		return m.refuse(Late, "the list of survivors is without this client")
	}
	if s.unmasked[index] {
		return m.refuse(Duplicate, "the first one counts")
	}
	list, err := readRevealed(m.Payload)
	if err != nil {
		return m.refuse(Malformed, "%v", err)
	}
	roster := s.after(Shares)
	for _, r := range list {
		d, ok := s.dealt[r.owner]
		if !ok {
			return m.refuse(BadShare, "client %d dealt no shares", r.owner)
		}
		want := rootKind
		if s.survived(r.owner) {
			want = seedKind
		}
		if r.kind != want {
			return m.refuse(BadShare, "expected of client %d a share of kind %d, found one of kind %d", r.owner, want, r.kind)
		}
		if promise(roster, r.kind, r.owner, index, r.share) != d.members[index].promised[r.kind-1] {
			return m.refuse(BadShare, "its share of client %d is not the one that was promised", r.owner)
		}
	}
	for _, r := range list {
		if s.revealed[r.owner] == nil {
			s.revealed[r.owner] = map[uint16]secret{}
		}
		s.revealed[r.owner][index] = r.share
	}
	s.unmasked[index] = true
	return nil
}

// Attempt is its number.
func (s *Server) Attempt() int32 { return s.config.Attempt }

// Listed says that the list of those whose messages of a stage count is on the
// log.
func (s *Server) Listed(stage Stage) bool { return s.listed(stage + 1) }

// Aborts says that the attempt was given up.
func (s *Server) Aborts() bool { return s.last.Stage == Abort }

// Contributors are the clients whose vectors are in the sum, by name.
func (s *Server) Contributors() []string {
	var names []string
	for _, e := range s.survivors.there {
		names = append(names, s.config.Settings.Clients[e.index-1].Name)
	}
	return names
}

// Sum takes the masks off and returns the sum of the survivors' vectors: their
// weights, then the numbers as Encoding has them. It is called once, when
// Unmask is Complete. The error names a client that dealt shares of something
// else than it promised, and then the attempt has failed.
func (s *Server) Sum() ([]uint32, error) {
	if !s.unmaskable() {
		return nil, fmt.Errorf("take masks off: %w", ErrTooFew)
	}
	roster := s.after(Shares)
	keys := map[uint16][]byte{}
	for _, index := range s.members {
		keys[index] = s.keys[index].Payload
	}
	var off []mask
	putTogether := s.combiner()
	for _, e := range s.shared {
		secret, err := putTogether(e.index)
		if err != nil {
			return nil, err
		}
		name := s.config.Settings.Clients[e.index-1].Name
		if s.survived(e.index) {
			if seedPromise(roster, e.index, secret) != s.dealt[e.index].seed {
				return nil, fmt.Errorf("take masks off: client %q dealt shares of another seed than it promised", name)
			}
			off = append(off, mask{secret, true})
			continue
		}
		masks, err := s.masksOf(e.index, secret, roster, keys)
		if err != nil {
			return nil, fmt.Errorf("take masks off: client %q: %w", name, err)
		}
		off = append(off, masks...)
	}
	apply(s.sum, off)
	return s.sum, nil
}

// combiner returns what puts a client's secret together.
func (s *Server) combiner() func(owner uint16) (secret, error) {
	var holders []uint16 // of the last one, which mostly are those of all
	var factors []block
	return func(owner uint16) (secret, error) {
		shares := s.revealed[owner]
		from := sorted(shares)[:s.threshold()]
		if !slices.Equal(from, holders) {
			var err error
			if factors, err = weights(gf128{}, from); err != nil {
				return secret{}, fmt.Errorf("put secret together: %w", err)
			}
			holders = from
		}
		values := make([]secret, len(from))
		for i, holder := range from {
			values[i] = shares[holder]
		}
		return recombine(factors, values), nil
	}
}

// masksOf are the masks that survivors added for a client that went missing
// after they had.
func (s *Server) masksOf(index uint16, root secret, roster Hash, keys map[uint16][]byte) ([]mask, error) {
	own, err := newPair(root[:], "mask keys")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(own.public(), maskOf(keys[index])) {
		return nil, errors.New("it dealt shares of another root than that of its keys")
	}
	chosen, err := s.dealt[index].chosen(root, roster, index, s.members)
	if err != nil {
		return nil, err
	}
	var out []mask
	for _, e := range s.survivors.there {
		quantum := chosen[e.index]
		if e.index < index {
			if quantum, err = own.k.Decapsulate(s.dealt[e.index].members[index].mask); err != nil {
				return nil, fmt.Errorf("open ML-KEM of client %d: %w", e.index, err)
			}
		}
		// What the missing client would have added is what its peers lack.
		m, err := pairMask(own, index, e.index, quantum, roster, keys)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}
