package federated

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"math"
	"os"

	"penstock/consumers"
)

const (
	// defaultPiece is how many bytes of numbers a record has: half of what brokers
	// carry unless told to, so that there is room for the rest of it.
	defaultPiece = 512 << 10
	// largestModel is how many bytes of numbers a model may have that is read.
	largestModel = 64 << 30
	// unspilled is how many bytes of messages that are not whole a partition of an
	// aggregator keeps in memory, and unspilledJoiner a Joiner: fewer than a piece has,
	// unless pieces are small.
	unspilled       = 16 << 20
	unspilledJoiner = 128 << 10
	blockSize       = 64 << 10 // of numbers, when they are read
	// inlineBlock is that where they lie in the record: it stays in the processor's first
	// cache, and so does what it is compared with.
	inlineBlock = 8 << 10
)

// piece is what a record says of a message that takes several.
type piece struct {
	index, count int32
	hash         Hash
	sizes        []int64
	data         []byte
}

// last says that the record is the message, which needs those before it.
func (p *piece) last() bool { return p.index == p.count-1 }

// readPiece returns nil for a message that lies in one record.
func readPiece(v any) (*piece, error) {
	if v == nil {
		return nil, nil
	}
	f, _ := v.(map[string]any)
	var p piece
	var ok [5]bool
	p.index, ok[0] = f["index"].(int32)
	p.count, ok[1] = f["count"].(int32)
	p.hash, ok[2] = readHash(f["hash"])
	p.data, ok[3] = f["data"].([]byte)
	sizes, ok4 := f["sizes"].([]any)
	ok[4] = ok4 && len(sizes) <= maxTensors+maxState
	for i := 0; ok[4] && i < len(sizes); i++ {
		size, isLong := sizes[i].(int64)
		ok[4] = isLong && size >= 0
		p.sizes = append(p.sizes, size)
	}
	for i, name := range []string{"index", "count", "hash", "data", "sizes"} {
		if !ok[i] {
			return nil, fmt.Errorf("at /piece/%s: expected what penstock.federated.Piece has, found %.60v", name, f[name])
		}
	}
	if p.index < 0 || p.index >= p.count {
		return nil, fmt.Errorf("at /piece/index: expected a number below %d, found %d", p.count, p.index)
	}
	return &p, nil
}

// split are the records of a message, with at most size bytes of numbers in each.
// A message of no more is a record by itself.
func split(value map[string]any, size int) iter.Seq[map[string]any] {
	return func(yield func(map[string]any) bool) {
		var parts [][]byte
		var sizes []any
		total := 0
		bare := maps.Clone(value)
		sum := sha256.New()
		for _, name := range []string{"parameters", "state"} {
			list, _ := value[name].([]any)
			var heads []any
			for _, v := range list {
				head := maps.Clone(v.(map[string]any))
				data := head["data"].([]byte)
				sum.Write(data)
				parts, sizes, total = append(parts, data), append(sizes, int64(len(data))), total+len(data)
				head["data"] = []byte{}
				heads = append(heads, head)
			}
			if list != nil {
				bare[name] = append([]any{}, heads...)
			}
		}
		if total <= size {
			yield(value)
			return
		}
		count := (total + size - 1) / size
		empty := maps.Clone(bare)
		for name, v := range empty {
			if _, ok := v.([]any); ok {
				empty[name] = []any{}
			}
		}
		if _, ok := empty["partial"]; ok {
			empty["partial"] = nil
		}
		for i := range count {
			data := make([]byte, 0, min(size, total-i*size))
			for len(data) < cap(data) {
				n := min(cap(data)-len(data), len(parts[0]))
				data = append(data, parts[0][:n]...)
				if parts[0] = parts[0][n:]; len(parts[0]) == 0 {
					parts = parts[1:]
				}
			}
			p := map[string]any{"index": int32(i), "count": int32(count), "hash": sum.Sum(nil), "sizes": []any{}, "data": data}
			record := maps.Clone(empty)
			if i == count-1 {
				record, p["sizes"] = bare, sizes
			}
			record["piece"] = p
			if !yield(record) {
				return
			}
		}
	}
}

// sender publishes one message, in as many records as it takes.
type sender struct {
	to     Publisher
	topic  string
	size   int    // of a piece; 0 is 512 KiB
	key    string // of the message
	pieces string // the other records have this as their key, and their index after it; "" is key alone
	sent   int    // how many records are durable
}

// records are those of the message, by their keys.
func (s *sender) records(value map[string]any) iter.Seq2[string, map[string]any] {
	return func(yield func(string, map[string]any) bool) {
		i := -1
		for record := range split(value, cmp.Or(s.size, defaultPiece)) {
			i++
			key := s.key
			if p, ok := record["piece"].(map[string]any); ok && s.pieces != "" && len(p["sizes"].([]any)) == 0 {
				key = fmt.Sprint(s.pieces, i)
			}
			if !yield(key, record) {
				return
			}
		}
	}
}

// send publishes the records that are not durable yet.
func (s *sender) send(ctx context.Context, value map[string]any) error {
	i := -1
	for key, record := range s.records(value) {
		if i++; i < s.sent {
			continue
		}
		if err := s.to.Publish(ctx, s.topic, []byte(key), record); err != nil {
			return err
		}
		s.sent++
	}
	return nil
}

// modelKey is the key of every model, so that a compacted topic keeps the last. A
// piece of one has a key that no other has.
const modelKey = "model"

// publishModel publishes m, in pieces of size bytes where it is large, and returns how
// many records those were.
func publishModel(ctx context.Context, to Publisher, topic string, m Model, size int) (int64, error) {
	s := modelSender(to, topic, m, size)
	if err := s.send(ctx, m.value()); err != nil {
		return 0, publishing(fmt.Sprintf("model of round %d", m.Round), err)
	}
	return int64(s.sent), nil
}

func modelSender(to Publisher, topic string, m Model, size int) *sender {
	return &sender{to: to, topic: topic, size: size, key: modelKey, pieces: fmt.Sprintf("%s/%v/", modelKey, m.Hash)}
}

// errIncomplete is the error of the last record of a message whose others are not there.
var errIncomplete = errors.New("its pieces are not all there")

// largestUpdate is how many bytes of numbers an update of a model may have: eight
// for each element (the largest differences of all), and as many blocks.
func largestUpdate(model []Tensor) int64 {
	return 8*int64(elements(model)) + 4*int64(len(model))
}

// halves are messages of which the last record has not come, one at most of each
// sender: a message that begins takes the place of one that did not end. Numbers for
// which there is no room lie in files that have no name.
//
// The last record changes nothing.
type halves struct {
	of    map[string]*half
	limit int64 // how many bytes of numbers a message may have
	room  int64 // how many are still kept in memory, of all messages
	// spare is the memory of a message that was dropped, where reuse says that nobody
	// needs its numbers then.
	spare []byte
	reuse bool
	// hashed says that the hash of a message's numbers is looked at. Of an update each
	// tensor has a checksum, and the hash is only what its pieces are known by.
	hashed bool
	// kept says that messages are read for as long as somebody may want to, however many
	// there are: they share one file, which is common, and end is where it ends.
	kept   bool
	common *os.File
	end    int64
}

type half struct {
	hash        Hash
	count, have int32
	size        int64
	few         []byte   // the numbers, as many as fit
	file        *os.File // or all of them, where extents says
	extents     []extent
	from, at    int64 // the offsets of the first and the last record that came of it
	round       int64 // of an update
}

// extent is a part of a file.
type extent struct{ from, to int64 }

// numbers reads those that are in the file.
func (m *half) numbers() io.Reader {
	var all []io.Reader
	for _, e := range m.extents {
		all = append(all, io.NewSectionReader(m.file, e.from, e.to-e.from))
	}
	return io.MultiReader(all...)
}

// begin makes room for all of a message that begins with p.
func (h *halves) begin(p *piece, offset int64) *half {
	m := &half{hash: p.hash, count: p.count, from: offset}
	size := min(h.limit, int64(p.count)*int64(len(p.data)))
	if size > h.room {
		return m
	}
	h.room -= size
	if int64(cap(h.spare)) < size {
		h.spare = make([]byte, size)
	}
	m.few, h.spare = h.spare[:0:size], nil
	return m
}

// append keeps more numbers of m.
func (h *halves) append(m *half, data []byte) error {
	if m.file == nil && len(m.few)+len(data) <= cap(m.few) {
		m.few = append(m.few, data...)
		m.size += int64(len(data))
		return nil
	}
	if m.file == nil {
		file, err := h.spill()
		if err != nil {
			return err
		}
		m.file = file
		if err := h.write(m, m.few); err != nil {
			return err
		}
		h.room += int64(cap(m.few))
		m.few = nil
	}
	if err := h.write(m, data); err != nil {
		return err
	}
	m.size += int64(len(data))
	return nil
}

// spill is a file for a message.
func (h *halves) spill() (file *os.File, err error) {
	if h.common != nil {
		return h.common, nil
	}
	if file, err = newSpill(); h.kept {
		h.common = file
	}
	return file, err
}

// write adds to what m has in its file.
func (h *halves) write(m *half, data []byte) error {
	last := len(m.extents) - 1
	e := extent{from: h.end}
	if !h.kept && last >= 0 {
		e.from = m.extents[last].to
	}
	e.to = e.from + int64(len(data))
	if _, err := m.file.WriteAt(data, e.from); err != nil {
		return err
	}
	if h.kept {
		h.end = e.to
	}
	if last >= 0 && m.extents[last].to == e.from {
		m.extents[last].to = e.to
	} else {
		m.extents = append(m.extents, e)
	}
	return nil
}

// add keeps a piece that is not the last one. One that is out of order is passed
// over: what it leads to is known when the last one comes. The error is that of the
// disk.
func (h *halves) add(sender string, p *piece, offset int64) error {
	m := h.of[sender]
	switch {
	case p.index == 0 && (m == nil || m.hash != p.hash || m.count != p.count):
		h.drop(sender)
		m = h.begin(p, offset)
		if h.of == nil {
			h.of = map[string]*half{}
		}
		h.of[sender] = m
	case m == nil || m.hash != p.hash || m.count != p.count || p.index != m.have || int64(len(p.data)) > h.limit-m.size:
		return nil
	}
	if err := h.append(m, p.data); err != nil {
		return fmt.Errorf("keep a piece: %w: %w", errDisk, err)
	}
	m.have, m.at = m.have+1, offset
	return nil
}

// whole opens the numbers of the message that ends with p, at offset. Without p, which
// is a message in one record, it returns nil.
func (h *halves) whole(sender string, p *piece, offset int64) (*numbers, error) {
	if p == nil {
		return nil, nil
	}
	if p.count == 1 {
		return newNumbers(&half{}, p, h.hashed)
	}
	m := h.of[sender]
	switch {
	case m == nil || m.hash != p.hash || m.count != p.count || m.at >= offset:
		return nil, fmt.Errorf("%w: expected %d records of it before this one, none of another between them; send it again", errIncomplete, p.index)
	case m.have < p.index:
		return nil, fmt.Errorf("%w: piece %d is missing, or there are more than %d bytes of numbers; send it again", errIncomplete, m.have, h.limit)
	case int64(len(p.data)) > h.limit-m.size:
		return nil, fmt.Errorf("expected at most %d bytes of numbers, found more", h.limit)
	}
	return newNumbers(m, p, h.hashed)
}

// drop forgets what has come of a sender's message.
func (h *halves) drop(sender string) {
	if m := h.of[sender]; m != nil {
		h.room += int64(cap(m.few))
		if m.file != nil && m.file != h.common {
			_ = m.file.Close() // nobody needs what it holds
		}
		if h.reuse && m.few != nil {
			h.spare = m.few[:0]
		}
		delete(h.of, sender)
	}
}

// clear forgets what is of rounds before one.
func (h *halves) clear(round int64) {
	for sender, m := range h.of {
		if m.round < round {
			h.drop(sender)
		}
	}
}

// first is where the first message begins that may still end behind next, or next.
func (h *halves) first(next int64) int64 {
	for _, m := range h.of {
		next = min(next, m.from)
	}
	return next
}

// numbers reads the data of the tensors of a message in pieces, one after the other,
// a block at a time. A nil *numbers stands for a message whose tensors have theirs.
type numbers struct {
	memory []byte    // what is to come, where it lies in memory
	file   io.Reader // or else
	sizes  []int64
	sum    hash.Hash // nil where the hash is not looked at
	right  bool      // they are known to be, and are not looked at again
	want   Hash
	buf    []byte // a block of file

	// each, if it is not nil, is given the values of float32 tensors, which are not
	// kept then: of which tensor, and from which element on.
	each func(tensor, from int, values []float32)
}

func newNumbers(m *half, p *piece, hashed bool) (*numbers, error) {
	size := m.size + int64(len(p.data))
	var sum int64
	for _, n := range p.sizes {
		if sum += n; n > size || sum > size {
			break
		}
	}
	if sum != size {
		return nil, fmt.Errorf("at /piece/sizes: expected a sum of %d bytes, found other sizes", size)
	}
	n := &numbers{sizes: p.sizes, want: p.hash}
	if hashed {
		n.sum = sha256.New()
	}
	switch {
	case m.file != nil:
		n.file = io.MultiReader(m.numbers(), bytes.NewReader(p.data))
		n.buf = make([]byte, min(blockSize, size))
	case m.size > 0:
		n.memory = append(m.few, p.data...) // in its room, where it is not looked for
	default:
		n.memory = p.data
	}
	return n, nil
}

// known says that the numbers were right before.
func (n *numbers) known() bool { return n != nil && n.right }

// next says how many bytes the next data has, where the record holds inline.
func (n *numbers) next(inline []byte) (int64, error) {
	if n == nil {
		return int64(len(inline)), nil
	}
	if len(n.sizes) == 0 || len(inline) > 0 {
		return 0, errors.New("expected one size in /piece/sizes for each data, and no data beside it")
	}
	size := n.sizes[0]
	n.sizes = n.sizes[1:]
	return size, nil
}

// block reads on, where left bytes of the data are to come: what fits into a block.
// inline are those bytes, where they lie in the record.
func (n *numbers) block(inline []byte, left int64) ([]byte, error) {
	if n == nil {
		return inline[:min(inlineBlock, len(inline))], nil
	}
	size := min(blockSize, left)
	if n.file == nil {
		return n.take(n.memory[:size], nil)
	}
	b := n.buf[:size]
	_, err := io.ReadFull(n.file, b)
	return n.take(b, err)
}

// take makes b part of what was read.
func (n *numbers) take(b []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, fmt.Errorf("read pieces: %w: %w", errDisk, err)
	}
	if n.file == nil {
		n.memory = n.memory[len(b):]
	}
	if n.sum != nil {
		n.sum.Write(b)
	}
	return b, nil
}

// all reads a data whole.
func (n *numbers) all(inline []byte, size int64) ([]byte, error) {
	switch {
	case n == nil:
		return inline, nil
	case n.file == nil:
		return n.take(bytes.Clone(n.memory[:size]), nil)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(n.file, b)
	return n.take(b, err)
}

// end says what is wrong with the numbers as a whole, once they are read.
func (n *numbers) end() error {
	if n == nil {
		return nil
	}
	if len(n.sizes) > 0 {
		return fmt.Errorf("at /piece/sizes: expected one for each data, found %d more", len(n.sizes))
	}
	if n.sum == nil {
		return nil
	}
	if got := Hash(n.sum.Sum(nil)); got != n.want {
		return fmt.Errorf("expected pieces with hash %v, found %v: they were damaged on the way", n.want, got)
	}
	return nil
}

// Joiner reads messages of which some take several records. It is given the records
// of a partition in their order, as they were decoded. It is not for concurrent use.
type Joiner struct{ halves halves }

// NewJoiner returns a Joiner.
func NewJoiner() *Joiner {
	return &Joiner{halves{limit: largestModel, room: unspilledJoiner, hashed: true}}
}

// Close forgets what has not been put together.
func (j *Joiner) Close() { j.halves.clear(math.MaxInt64) }

// Model reads a record of the models topic. whole is false for one that only has
// numbers of a model to come. Of the same records a second time it makes the same.
func (j *Joiner) Model(v any) (m Model, whole bool, err error) {
	fields, _ := v.(map[string]any)
	p, err := readPiece(fields["piece"])
	if err == nil && p != nil && !p.last() {
		return m, false, j.halves.add(modelKey, p, 0)
	}
	if err == nil {
		var n *numbers
		if n, err = j.halves.whole(modelKey, p, 1); err == nil {
			m, err = readModel(fields, n)
		}
	}
	if err != nil {
		return Model{}, false, fmt.Errorf("read model: %w", err)
	}
	return m, true, nil
}

// Update reads a record of the updates topic, if counts says that the update whose it
// is may count: it is given all but the parameters. update is nil for one that may
// not, and for one that only has numbers of an update to come; else it reads the
// update, more than once if need be. The error is that of the disk.
func (j *Joiner) Update(m consumers.Message, counts func(Update) bool) (update func() (Update, error), err error) {
	u, p, err := readHead(m.Data)
	if mayCount := err == nil && string(m.Key) == u.Client && counts(u); !mayCount {
		return nil, nil
	}
	j.halves.kept = true
	sender := fmt.Sprintf("%d %s", u.Round, u.Client) // a late piece is nothing to those of another round
	if p != nil && !p.last() {
		return nil, j.halves.add(sender, p, m.Offset)
	}
	kept := halves{limit: math.MaxInt64}
	if h := j.halves.of[sender]; p != nil && h != nil {
		same := *h // what still comes changes nothing of a whole message
		kept.of = map[string]*half{sender: &same}
	}
	return func() (Update, error) {
		u := u
		n, err := kept.whole(sender, p, m.Offset)
		if err == nil {
			err = u.read(m.Data, n, nil)
		}
		if err != nil {
			return u, fmt.Errorf("read update: %w", err)
		}
		return u, nil
	}, nil
}
