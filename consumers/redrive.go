package consumers

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/stream"
)

// attemptHeader of a record says how often it has been redriven.
const attemptHeader = "penstock-redrive-attempt"

// Letter is a dead letter as it lies in its topic, and what its headers say.
type Letter struct {
	stream.Record
	// From is where the record lay first. Its offset is -1 if it never lay
	// anywhere, as those that a producer set aside.
	From    Origin
	Code    Code
	Error   string
	Pointer string
	Group   string
	At      time.Time // when it was set aside last
	Attempt int       // how often it was redriven before
}

// Origin is the place of a record.
type Origin struct {
	Topic     string
	Partition int32
	Offset    int64
}

// ReadLetter reads the headers of a dead letter. What they do not say, or not
// in the way we do, is zero.
func ReadLetter(r stream.Record) Letter {
	text := func(name string) string {
		v, _ := r.Header(name)
		return string(v)
	}
	l := Letter{
		Record:  r,
		From:    Origin{Topic: text(stream.HeaderTopic), Offset: -1},
		Code:    Code(text(stream.HeaderReason)),
		Error:   text(stream.HeaderError),
		Pointer: text(stream.HeaderPointer),
		Group:   text(stream.HeaderGroup),
	}
	if p, err := strconv.ParseInt(text(stream.HeaderPartition), 10, 32); err == nil && p >= 0 {
		if o, err := strconv.ParseInt(text(stream.HeaderOffset), 10, 64); err == nil && o >= 0 {
			l.From.Partition, l.From.Offset = int32(p), o
		}
	}
	l.At, _ = time.Parse(time.RFC3339Nano, text(stream.HeaderTime))
	l.Attempt, _ = strconv.Atoi(text(attemptHeader))
	l.Attempt = max(0, l.Attempt)
	return l
}

// Outcome says what became of a dead letter.
type Outcome string

// The outcomes.
const (
	Redriven      Outcome = "redriven"        // it is in its topic again
	WouldRedrive  Outcome = "would-redrive"   // it would be
	RedrivenOnce  Outcome = "redriven-before" // it is in its topic already, by an earlier call
	StillRefused  Outcome = "refused"         // it cannot pass now either
	TooOften      Outcome = "too-often"       // it was redriven so often, and came back
	NeverAnywhere Outcome = "never-published" // it lay in no topic: publish it anew
)

// Verdict is an Outcome, and why it is no other.
type Verdict struct {
	Outcome Outcome
	Why     error // of StillRefused
}

// Redriver brings dead letters back into the topics they came from.
type Redriver struct {
	// Broker keeps what was redriven in the transaction that redrives it.
	Broker stream.Resumer
	// Decoder looks whether a record can pass now, by the schemas and rules of
	// today. Nil is not to look.
	Decoder *Decoder
	// Pipeline is the topic of dead letters: each is redriven once from it.
	Pipeline string
	// Attempts is how often a record may be redriven; 0 is 3.
	Attempts int
	// DryRun has nothing written.
	DryRun bool

	// stay are the partitions and keys of which a letter stays.
	stay map[spotOf]bool
}

type spotOf struct {
	topic string
	spot
}

// block is how many offsets share a position: what one Commit may write, and
// what a position's note has room to name.
const block = 512

// shelf is what is redriven together.
type shelf struct {
	topic     string
	partition int32
	attempt   int
	block     int64
}

// Redrive publishes letters to their topics, with the key, value, time and
// headers they had, those in penstock-dlq left out, in the order in which they lay.
// What was parked behind a letter that stays, stays too. Each original position is
// redriven once for each time that it was set aside, however often Redrive is
// called and wherever it is interrupted: which ones were is kept in the
// transaction that writes them. It says of each letter what became of it. After
// an error, call it again with the same.
func (r *Redriver) Redrive(ctx context.Context, letters []Letter) ([]Verdict, error) {
	verdicts := make([]Verdict, len(letters))
	shelves := map[shelf][]int{}
	var order []shelf
	if r.stay == nil {
		r.stay = map[spotOf]bool{}
	}
	for i, l := range letters {
		v, err := r.judge(ctx, l)
		if err != nil {
			return nil, err
		}
		at := spotOf{l.From.Topic, spot{l.From.Partition, string(l.Key)}}
		switch {
		case v.Outcome == WouldRedrive && l.Code == Parked && r.stay[at]:
			v = Verdict{StillRefused, errBehind}
		case v.Outcome != WouldRedrive && l.Key != nil:
			r.stay[at] = true
		}
		if verdicts[i] = v; v.Outcome != WouldRedrive || r.DryRun {
			continue
		}
		s := shelf{l.From.Topic, l.From.Partition, l.Attempt, l.From.Offset / block}
		if shelves[s] == nil {
			order = append(order, s)
		}
		shelves[s] = append(shelves[s], i)
	}
	slices.SortStableFunc(order, func(a, b shelf) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition), cmp.Compare(a.block, b.block), cmp.Compare(b.attempt, a.attempt))
	})
	for _, s := range order {
		slices.SortFunc(shelves[s], func(a, b int) int { return cmp.Compare(letters[a].From.Offset, letters[b].From.Offset) })
		if err := r.empty(ctx, s, shelves[s], letters, verdicts); err != nil {
			return nil, fmt.Errorf("redrive to topic %q: %w", s.topic, err)
		}
	}
	return verdicts, nil
}

// errBehind is why a parked letter stays.
var errBehind = errors.New("an earlier record of its key stays: mend that one first, or release it")

// judge says what is to become of a letter, as far as that can be said without
// asking what was redriven.
func (r *Redriver) judge(ctx context.Context, l Letter) (Verdict, error) {
	attempts := r.Attempts
	if attempts == 0 {
		attempts = 3
	}
	switch {
	case l.From.Topic == "" || l.From.Offset < 0:
		return Verdict{Outcome: NeverAnywhere}, nil
	case l.Attempt >= attempts:
		return Verdict{Outcome: TooOften}, nil
	case r.Decoder == nil:
		return Verdict{Outcome: WouldRedrive}, nil
	}
	record := l.Record
	record.Topic, record.Partition, record.Offset = l.From.Topic, l.From.Partition, l.From.Offset
	_, err := r.Decoder.Decode(ctx, record)
	var why *Reason
	switch {
	case errors.As(err, &why):
		return Verdict{StillRefused, why}, nil
	case err != nil:
		return Verdict{}, err
	}
	return Verdict{Outcome: WouldRedrive}, nil
}

// empty redrives those letters of a shelf that were not yet.
func (r *Redriver) empty(ctx context.Context, s shelf, which []int, letters []Letter, verdicts []Verdict) (err error) {
	input := fmt.Sprintf("redrive/%s/%d/%d/%d", r.Pipeline, s.partition, s.attempt, s.block)
	tx, at, err := r.Broker.Resume(ctx, s.topic, input)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tx.Close()) }()
	done, err := readDone(at.Note)
	if err != nil {
		return err
	}
	var out []stream.Record
	var sent []int
	for _, i := range which {
		if bit := letters[i].From.Offset % block; done[bit/8]&(1<<(bit%8)) == 0 {
			done[bit/8] |= 1 << (bit % 8)
			out, sent = append(out, letters[i].again()), append(sent, i)
		} else {
			verdicts[i] = Verdict{Outcome: RedrivenOnce}
		}
	}
	if len(out) == 0 {
		return nil
	}
	err = tx.Commit(ctx, out, stream.Position{Next: at.Next + int64(len(out)), Note: base64.RawStdEncoding.EncodeToString(done)})
	if err == nil {
		for _, i := range sent {
			verdicts[i] = Verdict{Outcome: Redriven}
		}
	}
	return err
}

// readDone reads which offsets of a block were redriven: a bit each.
func readDone(note string) ([]byte, error) {
	if note == "" {
		return make([]byte, block/8), nil
	}
	done, err := base64.RawStdEncoding.DecodeString(note)
	if err != nil || len(done) != block/8 {
		return nil, fmt.Errorf("read what was redriven: expected %d bytes in base64, found %q", block/8, note)
	}
	return done, nil
}

// again is the record to publish.
func (l Letter) again() stream.Record {
	out := stream.Record{Topic: l.From.Topic, Key: l.Key, Value: l.Value, Time: l.Time}
	out.Headers = slices.DeleteFunc(slices.Clone(l.Headers), func(h stream.Header) bool {
		return strings.HasPrefix(h.Key, "penstock-dlq-") || h.Key == attemptHeader
	})
	out.Headers = append(out.Headers, stream.Header{Key: attemptHeader, Value: strconv.AppendInt(nil, int64(l.Attempt)+1, 10)})
	return out
}
