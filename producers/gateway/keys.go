package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"penstock/access"
	"penstock/stream"
)

// keyHeader is the header of a request that may be sent again, as the draft
// "The Idempotency-Key HTTP Header Field" of the IETF has it.
const keyHeader = "Idempotency-Key"

// replayedHeader says that an answer is that to an earlier request.
const replayedHeader = "Idempotent-Replayed"

const (
	maxKeys      = 64 << 20 // bytes of keys that all books hold in memory
	keyBytes     = 250      // what a key takes there besides its answer and places
	maxBooks     = 256      // topics with keys at a time
	bookIdle     = 10 * time.Minute
	maxKeyLength = 255
	booksName    = "gateway"
)

// once names a request: by id which one, by print what it asks for.
type once struct{ id, print [16]byte }

// onceOf returns what the key of a request names; nil is a request without one.
func onceOf(r *http.Request, body []byte) (*once, error) {
	given := r.Header.Values(keyHeader)
	if len(given) == 0 {
		return nil, nil //nolint:nilnil // no key is no error
	}
	key := strings.TrimSpace(given[0])
	if n := len(key); n >= 2 && key[0] == '"' && key[n-1] == '"' {
		key = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(key[1 : n-1])
	}
	if len(given) > 1 || !isKey(key) {
		return nil, faultf(codeShape, "header %s: expected one string of 1 to %d printable ASCII characters, found %q", keyHeader, maxKeyLength, clip(strings.Join(given, ", ")))
	}
	asked := []string{r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type")}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if strings.HasPrefix(name, "Ce-") {
			asked = append(asked, name, strings.Join(r.Header[name], ","))
		}
	}
	return newOnce(r.Context(), key, append(asked, string(body))...), nil
}

func isKey(key string) bool {
	return key != "" && len(key) <= maxKeyLength && !strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' })
}

// newOnce names what is asked for by a key of the caller's.
func newOnce(ctx context.Context, key string, asked ...string) *once {
	caller, _ := access.PrincipalOf(ctx)
	return &once{id: digest(caller.Name, key), print: digest(asked...)}
}

// nth names a record of a stream by its number in it.
func (o once) nth(n int, text []byte) *once {
	o.id = digest(string(o.id[:]), strconv.Itoa(n))
	o.print = digest(string(o.print[:]), string(text))
	return &o
}

func digest(parts ...string) (sum [16]byte) {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	copy(sum[:], h.Sum(nil))
	return sum
}

// ledger publishes requests once each. What it knows lies beside the records of
// each topic; so it outlives the process, and other gateways know it too.
type ledger struct {
	keeper stream.Keeper
	within time.Duration // for the broker to answer
	ctx    context.Context
	cancel context.CancelFunc
	end    chan struct{} // closed by close
	all    sync.WaitGroup

	mu    sync.Mutex
	books map[string]*book // by topic
	bytes int              // of what all know
	over  bool
}

func newLedger(k stream.Keeper, within time.Duration) *ledger {
	l := &ledger{keeper: k, within: within, end: make(chan struct{}), books: map[string]*book{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// close ends all books when they have done what they were given, or ctx ends.
func (l *ledger) close(ctx context.Context) error {
	l.mu.Lock()
	if !l.over {
		l.over = true
		close(l.end)
	}
	l.mu.Unlock()
	defer context.AfterFunc(ctx, l.cancel)()
	l.all.Wait()
	l.cancel()
	return ctx.Err()
}

// kept is a request that has been published.
type kept struct {
	once
	answer json.RawMessage
	places []stream.Place
	time   time.Time
}

func (k *kept) size() int { return keyBytes + len(k.answer) + 16*len(k.places) }

// keyed is a request that is on its way. done is called once, with what is known of it
// or why it was not published.
type keyed struct {
	once
	records []stream.Record
	answer  json.RawMessage
	done    func(k *kept, err error)
}

// book is what is known of one topic. Its goroutine alone writes.
type book struct {
	l     *ledger
	topic string
	ready chan struct{} // closed when it was read for the first time, or failed
	err   error         // then; not to be changed after
	queue chan *keyed

	mu      sync.Mutex
	known   map[[16]byte]*kept
	order   []*kept // of known, the oldest first
	pending map[[16]byte]once
	closed  bool // nothing is taken any more
}

// open returns the book of a topic, once it has been read.
func (l *ledger) open(ctx context.Context, topic string) (*book, error) {
	l.mu.Lock()
	b := l.books[topic]
	switch {
	case b != nil:
	case l.over:
		l.mu.Unlock()
		return nil, stream.ErrClosed
	case len(l.books) >= maxBooks:
		l.mu.Unlock()
		return nil, faultf(codeBusy, "%d topics have keys at the moment, which is the limit; try again in a while", maxBooks)
	default:
		b = &book{
			l: l, topic: topic, ready: make(chan struct{}), queue: make(chan *keyed, stream.MaxCommit),
			known: map[[16]byte]*kept{}, pending: map[[16]byte]once{},
		}
		l.books[topic] = b
		l.all.Go(b.run)
	}
	l.mu.Unlock()
	select {
	case <-b.ready:
		return b, b.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// publish publishes once what prepare returns, together with what other requests
// have, and keeps the answer with it. It calls prepare only if nothing is known of
// the request, and done, from another goroutine, only if it returns nil.
func (l *ledger) publish(ctx context.Context, topic string, o *once, prepare func() ([]stream.Record, any, error), done func(*kept, error)) error {
	var b *book
	for begun := false; !begun; {
		var err error
		if b, err = l.open(ctx, topic); err != nil {
			return err
		}
		var k *kept
		if k, begun, err = b.begin(*o); err != nil {
			return err
		}
		if k != nil {
			again := *k
			done(&again, nil)
			return nil
		}
	}
	records, answer, err := prepare()
	item := &keyed{once: *o, records: records, done: done}
	if err == nil {
		item.answer, err = json.Marshal(answer)
	}
	switch {
	case err != nil:
	case len(records) > stream.MaxCommit:
		err = faultf(codeTooLarge, "expected at most %d records with an %s, found %d; send fewer at a time", stream.MaxCommit, keyHeader, len(records))
	case slices.ContainsFunc(records, func(r stream.Record) bool { return r.Topic != topic }):
		err = faultf(codeNotKept, "an event that does not fit goes to another topic, with which no key can be kept; send the request without %s", keyHeader)
	case len(note([]*keyed{item})) > stream.MaxNote:
		err = faultf(codeTooLarge, "the answer to this request is too large to be kept; send fewer records at a time")
	}
	if err != nil || len(records) == 0 { // nothing to publish, nothing to keep
		b.forget(o)
		if err == nil {
			done(&kept{answer: item.answer}, nil)
		}
		return err
	}
	b.queue <- item // bounded by those who wait: run takes until nothing is pending
	return nil
}

// begin says what is known of a request, or notes that it is on its way; false is
// a book that was closed.
func (b *book) begin(o once) (k *kept, begun bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, false, nil
	}
	other := faultf(codeReused, "the key of header %s was used for another request; send that one again, or choose a new key", keyHeader)
	if k := b.known[o.id]; k != nil && time.Since(k.time) < stream.KeepFor {
		if k.print != o.print {
			return nil, true, other
		}
		return k, true, nil
	}
	if p, ok := b.pending[o.id]; ok {
		if p.print != o.print {
			return nil, true, other
		}
		return nil, true, faultf(codePending, "the request with this %s is on its way; ask again in a second", keyHeader)
	}
	b.pending[o.id] = o
	return nil, true, nil
}

func (b *book) forget(o *once) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pending, o.id)
}

// keep notes what has been published, and lets go of the oldest where there is too
// much or it is too old.
func (b *book) keep(k *kept) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known[k.id] != nil {
		return // read again
	}
	b.known[k.id] = k
	b.order = append(b.order, k)
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	b.l.bytes += k.size()
	for len(b.order) > 1 && (b.l.bytes > maxKeys || time.Since(b.order[0].time) > stream.KeepFor) {
		old := b.order[0]
		b.order[0] = nil
		b.order = b.order[1:]
		delete(b.known, old.id)
		b.l.bytes -= old.size()
	}
}

// storedKey is a request as the note of an entry has it.
type storedKey struct {
	ID      []byte          `json:"id"`
	Print   []byte          `json:"print"`
	Records int             `json:"n"`
	Answer  json.RawMessage `json:"answer"`
}

func note(items []*keyed) []byte {
	keys := make([]storedKey, len(items))
	for i, item := range items {
		keys[i] = storedKey{item.id[:], item.print[:], len(item.records), item.answer}
	}
	b, _ := json.Marshal(keys) // of bytes, numbers and JSON
	return b
}

// read takes in an entry.
func (b *book) read(e stream.Entry) error {
	var keys []storedKey
	if err := json.Unmarshal(e.Note, &keys); err != nil {
		return err
	}
	for _, s := range keys {
		if s.Records > len(e.Places) || len(s.ID) != 16 || len(s.Print) != 16 {
			return errors.New("an entry that is not of a gateway")
		}
		b.keep(&kept{once{[16]byte(s.ID), [16]byte(s.Print)}, s.Answer, e.Places[:s.Records:s.Records], e.Time})
		e.Places = e.Places[s.Records:]
	}
	return nil
}

// run reads the book and writes to it, until nobody asks for it any more.
func (b *book) run() {
	open, cancel := context.WithTimeout(b.l.ctx, b.l.within)
	written, err := b.l.keeper.Keep(open, b.topic, booksName)
	if err == nil {
		defer written.Close()
		err = written.Take(open, b.read)
	}
	cancel()
	defer b.leave()
	if err != nil {
		b.err = err
		b.leave()
		close(b.ready)
		return
	}
	close(b.ready)
	taken := true
	idle := time.NewTimer(bookIdle)
	defer idle.Stop()
	var left *keyed // of what was gathered
	for end := b.l.end; ; {
		items := []*keyed{left}
		if left == nil {
			select {
			case items[0] = <-b.queue:
			case <-end:
				end = nil
			case <-idle.C:
			case <-b.l.ctx.Done(): // what is on its way is given up
				return
			}
		}
		if items[0] == nil {
			if b.retire() {
				return
			}
			idle.Reset(bookIdle)
			continue
		}
		items, left = b.gather(items)
		taken = b.commit(written, items, taken)
		idle.Reset(bookIdle)
		if end == nil && b.retire() {
			return
		}
	}
}

// retire closes the book if nothing is on its way.
func (b *book) retire() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = len(b.pending) == 0
	return b.closed
}

// leave takes the book out of the ledger. It may be called twice.
func (b *book) leave() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	if b.l.books[b.topic] == b {
		delete(b.l.books, b.topic)
		for _, k := range b.order {
			b.l.bytes -= k.size()
		}
	}
}

// gather adds what waits to what one commit holds, and returns the first that has
// no room.
func (b *book) gather(items []*keyed) ([]*keyed, *keyed) {
	records, size := len(items[0].records), len(note(items))
	for {
		select {
		case item := <-b.queue:
			records += len(item.records)
			size += len(note([]*keyed{item}))
			if records > stream.MaxCommit || size > stream.MaxNote {
				return items, item
			}
			items = append(items, item)
		default:
			return items, nil
		}
	}
}

// commit publishes requests, and tells each what came of it. It reports whether the
// book is still taken.
func (b *book) commit(written stream.Book, items []*keyed, taken bool) bool {
	ctx, cancel := context.WithTimeout(b.l.ctx, b.l.within)
	defer cancel()
	finish := func(item *keyed, k *kept, err error) {
		b.forget(&item.once)
		item.done(k, err)
	}
	var err error
	const attempts = 5
	for attempt := 0; len(items) > 0 && attempt < attempts; {
		if !taken {
			attempt++
			if err = written.Take(ctx, b.read); err != nil {
				break
			}
			taken = true
			// Some may have been published, by the last attempt or by another
			// gateway.
			items = slices.DeleteFunc(items, func(item *keyed) bool {
				b.mu.Lock()
				k := b.known[item.id]
				b.mu.Unlock()
				switch {
				case k == nil:
					return false
				case k.print != item.print:
					finish(item, nil, faultf(codeReused, "the key of header %s was used for another request, at the same time", keyHeader))
				default:
					finish(item, k, nil)
				}
				return true
			})
			if len(items) == 0 {
				break
			}
		}
		var records []stream.Record
		for _, item := range items {
			records = append(records, item.records...)
		}
		err = written.Commit(ctx, records, note(items))
		var failed *stream.BatchError
		switch {
		case err == nil:
			for _, item := range items {
				k := &kept{once: item.once, answer: item.answer, time: time.Now()}
				for _, r := range records[:len(item.records)] {
					k.places = append(k.places, stream.Place{Partition: r.Partition, Offset: r.Offset})
				}
				records = records[len(item.records):]
				b.keep(k)
				finish(item, k, nil)
			}
			return true
		case errors.As(err, &failed):
			items = without(items, failed, finish)
		default:
			taken = false
		}
	}
	for _, item := range items {
		finish(item, nil, fmt.Errorf("publish once: %w", err))
	}
	return taken
}

// without ends the requests whose records cannot be written, and returns the others.
func without(items []*keyed, failed *stream.BatchError, finish func(*keyed, *kept, error)) (rest []*keyed) {
	first := 0
	for _, item := range items {
		of := &stream.BatchError{}
		for i := range item.records {
			if err := failed.Errs[first+i]; err != nil {
				of.Fail(i, err)
			}
		}
		first += len(item.records)
		if of.OrNil() == nil {
			rest = append(rest, item)
		} else {
			finish(item, nil, of)
		}
	}
	return rest
}
