package microbatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"penstock/stream"
)

// fetch is what the source gave in one call. It does not change but for what mu
// guards.
type fetch struct {
	records []stream.Record
	ack     stream.AckFunc
	at      time.Time // when it came

	mu     sync.Mutex
	open   int // how many records are not settled yet
	failed stream.BatchError
}

// part is the records of a fetch that are in one batch, there from index at on.
type part struct {
	fetch    *fetch
	from, to int
	at       int
}

// settle makes the AckFunc of a batch.
func settle(parts []part) stream.AckFunc {
	var mu sync.Mutex
	noted := false
	var fenced error // ErrFenced or ErrClosed, of a part that is done with
	return func(ctx context.Context, err error) error {
		mu.Lock()
		defer mu.Unlock()
		var passing error
		var left []part
		for _, p := range parts {
			e := p.settle(ctx, err, noted)
			switch {
			case e == nil:
			case gone(e):
				fenced = e
			default:
				passing = e
				left = append(left, p)
			}
		}
		parts, noted = left, true
		if passing != nil {
			return passing
		}
		e := fenced
		fenced = nil
		return e
	}
}

// gone says of the error of an AckFunc that there is nothing left to settle.
func gone(err error) bool {
	return errors.Is(err, stream.ErrFenced) || errors.Is(err, stream.ErrClosed)
}

// settle notes what became of the part, unless that is done already, and
// settles the fetch if no other part is open.
func (p part) settle(ctx context.Context, err error, noted bool) error {
	f := p.fetch
	f.mu.Lock()
	defer f.mu.Unlock()
	if !noted {
		var partly *stream.BatchError
		named := errors.As(err, &partly)
		for i := p.from; i < p.to; i++ {
			e := err
			if named {
				e = partly.Errs[p.at+i-p.from]
			}
			if e != nil {
				f.failed.Fail(i, e)
			}
		}
		f.open -= p.to - p.from
	}
	if f.open > 0 {
		return nil
	}
	return f.ack(ctx, f.failed.OrNil())
}
