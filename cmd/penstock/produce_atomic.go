package main

import (
	"context"
	"errors"
	"fmt"

	"penstock/producers"
	"penstock/stream"
)

// What --atomic holds in memory, and the broker holds back until its end.
const (
	maxAtomic      = 100_000
	maxAtomicBytes = 64 << 20 // as the file has it
)

// checkAtomic says what does not go with --atomic.
func (c *produceCmd) checkAtomic() error {
	switch {
	case !c.Atomic:
		return nil
	case c.Resume != "":
		return usagef("--atomic publishes a file at once, and leaves nothing to --resume")
	case c.Stop || c.Rejects != "":
		return usagef("--atomic publishes nothing where an event is refused: --stop and --rejects have nothing to do; --dry-run lists what is refused")
	case c.Rate != 0:
		return usagef("--atomic publishes a file at once, at no --rate")
	}
	return nil
}

// runAtomic publishes all events or none, and says how many.
func (p *publishing) runAtomic(ctx context.Context) error {
	var all []input
	size := 0
	for in := range p.source.all {
		size += len(in.raw)
		if len(all) == maxAtomic || size > maxAtomicBytes {
			return usagef("--atomic takes %s events and %d MiB at most, and %s has more: nothing was published; take it apart, or leave it out and use --resume", count(maxAtomic), maxAtomicBytes>>20, p.source.name)
		}
		if in.err == nil {
			in.err = p.finish(&in.event)
		}
		all = append(all, in)
	}
	do := p.producer.Check
	if p.refusedOf(all) == 0 && !p.DryRun {
		do = func(ctx context.Context, events ...producers.Event) error {
			return p.producer.PublishAtomic(ctx, stream.Conditions{}, events...)
		}
	}
	err := p.each(ctx, all, do)
	switch {
	case errors.Is(err, stream.ErrUnknownOutcome):
		return fmt.Errorf("%w: look into the topic before you publish the file again", err)
	case errors.Is(err, stream.ErrUnsupported):
		return usageError{err}
	case err != nil:
		return err
	}
	if err := p.report(all); err != nil {
		return err
	}
	if p.refused > 0 && !p.DryRun {
		p.accepted = 0
	}
	if err := p.summary(); err != nil {
		return err
	}
	if p.refused > 0 {
		return errNo
	}
	return nil
}
