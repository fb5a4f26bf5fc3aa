package consumers

import (
	"context"
	"errors"
	"fmt"

	"penstock/stream"
)

// WriteClaimed has write store b by what a sink holds of its partition; nil, if
// it holds nothing, is stream.ErrFenced. An error says which partition and offset
// it is of, but for a *stream.BatchError, which is returned as it is.
func WriteClaimed[C any](ctx context.Context, b Batch, claim *C, write func(context.Context, *C, Batch) error) error {
	if claim == nil {
		return fmt.Errorf("write %s[%d]: it is not assigned to this sink: %w", b.Topic, b.Partition, stream.ErrFenced)
	}
	err := write(ctx, claim, b)
	if refused := (*stream.BatchError)(nil); err == nil || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("write %v from offset %d: %w", claim, b.First, err)
}

// Renumbered is the error of a sink that was given some messages of a batch alone:
// a *stream.BatchError in it names those of the whole batch. at are their indexes
// there. Everything else is as in err.
func Renumbered(err error, at []int) error {
	var partly *stream.BatchError
	if !errors.As(err, &partly) {
		return err
	}
	named := &stream.BatchError{}
	for i, err := range partly.Errs {
		if i >= 0 && i < len(at) {
			named.Fail(at[i], err)
		}
	}
	return renumbered{err, named}
}

type renumbered struct {
	error
	named *stream.BatchError
}

// As implements errors.As.
func (e renumbered) As(target any) bool {
	if partly, ok := target.(**stream.BatchError); ok {
		*partly = e.named
		return true
	}
	return false
}

func (e renumbered) Unwrap() error { return e.error }
