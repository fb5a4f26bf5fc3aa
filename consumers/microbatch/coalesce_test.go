package microbatch_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/stream"
)

type sinkFunc func(consumers.Batch) error

func (f sinkFunc) Write(_ context.Context, b consumers.Batch) error { return f(b) }

func TestCoalesce(t *testing.T) {
	var got []int64
	var answer error
	sink := microbatch.Coalesce(sinkFunc(func(b consumers.Batch) error {
		if b.First != 0 || b.Next != 10 {
			t.Errorf("batch from %d to %d, want 0 to 10", b.First, b.Next)
		}
		got = nil
		for _, m := range b.Messages {
			got = append(got, m.Offset)
		}
		return answer
	}))
	write := func(err error, want []int64, keys ...string) error {
		t.Helper()
		answer = err
		b := consumers.Batch{Next: 10}
		for _, r := range keyed(keys...) {
			b.Messages = append(b.Messages, consumers.Message{Record: r})
		}
		err = sink.Write(t.Context(), b)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
		return err
	}
	if err := write(nil, []int64{1, 3, 4, 5}, "a", "", "b", "b", "", "a"); err != nil {
		t.Error(err)
	}
	bad := errors.New("bad")
	refusal := errors.Join(&stream.BatchError{Errs: map[int]error{1: bad}}, stream.ErrUnreachable)
	err := write(refusal, []int64{1, 2}, "a", "a", "b")
	var partly *stream.BatchError
	if !errors.As(err, &partly) || len(partly.Errs) != 1 || !errors.Is(partly.Errs[2], bad) {
		t.Errorf("Write: %v, want message 2 named", err)
	}
	if !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("Write: %v, want ErrUnreachable in it", err)
	}
	// What is refused for good leaves, and then the one before counts.
	if err := write(nil, []int64{0, 1}, "a", "b"); err != nil {
		t.Error(err)
	}
}
