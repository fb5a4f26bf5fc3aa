package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"penstock/consumers/sinks/postgres"
	"penstock/producers/outbox"
	"penstock/registry/client"
	"penstock/registry/logs/jetstream"
	"penstock/stream"
)

// begunError is the error of a consumer that had begun to read.
type begunError struct{ error }

func (e begunError) Unwrap() error { return e.error }

// stopped is what is left to say of a consumer's error: nothing, if it was told to
// stop before it had begun to read.
func stopped(ctx context.Context, err error) error {
	if begun := (begunError{}); ctx.Err() != nil && !errors.As(err, &begun) {
		return nil
	}
	return err
}

// The exit codes. Scripts rely on them.
const (
	exitDone        = 0
	exitNo          = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitFailed      = 4
)

// errNo ends a command whose answer is no, after it has printed that answer.
var errNo = errors.New("")

// noError is an answer of no that is still to be printed.
type noError struct{ error }

func (e noError) Unwrap() error { return e.error }

// usageError is a call that cannot be carried out as it was written.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// hinted adds to an error what the user can do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// withHint returns err with a hint behind it, or nil.
func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// sentence is what the user reads about err, on one line.
func sentence(err error) string {
	if h := (hinted{}); errors.As(err, &h) {
		return oneLine(err) + "; " + h.hint
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return oneLine(err)
}

// oneLine is the text of err, which may join several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// exitCode is the one place that maps errors to exit codes.
func exitCode(err error) int {
	var (
		parse *kong.ParseError
		usage usageError
		no    noError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errNo), errors.As(err, &no):
		return exitNo
	case errors.As(err, &parse), errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, stream.ErrUnreachable), errors.Is(err, jetstream.ErrUnreachable), errors.Is(err, client.ErrUnreachable), errors.Is(err, postgres.ErrUnreachable), errors.Is(err, outbox.ErrUnreachable):
		return exitUnreachable
	default:
		return exitFailed
	}
}
