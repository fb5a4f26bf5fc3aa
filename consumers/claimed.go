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
