package pipelines

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Event says what became of a pipeline.
type Event struct {
	Pipeline Pipeline
	What     What
	Err      error // why it failed, waits, or did not stop cleanly
	// Again is how long one that waits does.
	Again time.Duration
}

// What says in a word what became of a pipeline.
type What string

// What becomes of pipelines.
const (
	Started   What = "started"
	Waiting   What = "waiting"   // for what it needs, to be started again
	Unchanged What = "unchanged" // by new configuration; it runs on
	Halted    What = "stopped"   // because it was told to
	Done      What = "done"      // it came to its end
	Failed    What = "failed"    // the others run on
)

// Passing is an error of run that may pass: the pipeline is started again after a
// wait.
type Passing struct{ Err error }

func (p Passing) Error() string { return p.Err.Error() }

// Unwrap returns what may pass.
func (p Passing) Unwrap() error { return p.Err }

// The wait before a pipeline is started again, which doubles with each further
// time that it did not run for longer than the longest. It is drawn between half
// of that and all, so that those that wait for one server do not come together.
const (
	firstWait   = time.Second
	longestWait = time.Minute
)

// Serve runs pipelines beside one another, each in a call of run, until ctx ends
// or all have ended by themselves. One that fails does not disturb the others; if
// its error is a Passing, it is started again after a wait.
// What comes from reload is all that is to run from then on: pipelines that are
// not in it, or differ, are stopped by their context, and waited for; then those
// that are new, differ or have failed are started. The others are left alone.
//
// run returns once the pipeline has stopped, with its position kept, and without an
// error if its context ended before it had got anywhere. report is
// told of everything, by one goroutine at a time. The error joins those of the
// pipelines that had failed, or not stopped cleanly, since configuration last came.
func Serve(ctx context.Context, first []Pipeline, reload <-chan []Pipeline, run func(context.Context, Pipeline) error, report func(Event)) error {
	s := &server{ctx: ctx, run: run, report: report, ended: make(chan *process), waiting: make(chan Event), running: map[string]*process{}, failed: map[string]error{}}
	s.apply(first)
	for len(s.running) > 0 {
		select {
		case p := <-s.ended:
			s.end(p)
		case e := <-s.waiting:
			report(e)
		case next := <-reload:
			if ctx.Err() == nil {
				s.apply(next)
			}
		}
	}
	var errs []error
	for _, err := range s.failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// server is one call of Serve, whose goroutine alone touches it.
type server struct {
	ctx     context.Context
	run     func(context.Context, Pipeline) error
	report  func(Event)
	ended   chan *process
	waiting chan Event
	running map[string]*process // by name
	failed  map[string]error
}

// process is a pipeline that runs.
type process struct {
	pipeline Pipeline
	stop     context.CancelFunc
	stopping bool
	err      error // once it has ended
}

// apply makes the pipelines that run those of next.
func (s *server) apply(next []Pipeline) {
	wanted := make(map[string]Pipeline, len(next))
	for _, p := range next {
		wanted[p.Name] = p
	}
	for name, p := range s.running {
		if w, ok := wanted[name]; ok && equal(w, p.pipeline) {
			s.report(Event{Pipeline: p.pipeline, What: Unchanged})
		} else {
			p.stopping = true
			p.stop()
		}
	}
	for s.stopping() {
		select {
		case p := <-s.ended:
			s.end(p)
		case e := <-s.waiting:
			s.report(e)
		}
	}
	clear(s.failed)
	for _, p := range next {
		if s.running[p.Name] == nil {
			s.start(p)
		}
	}
}

// stopping says that one that was told to stop has not ended.
func (s *server) stopping() bool {
	for _, p := range s.running {
		if p.stopping {
			return true
		}
	}
	return false
}

func (s *server) start(pipeline Pipeline) {
	ctx, stop := context.WithCancel(s.ctx)
	p := &process{pipeline: pipeline, stop: stop}
	s.running[pipeline.Name] = p
	s.report(Event{Pipeline: pipeline, What: Started})
	go func() {
		p.err = s.keep(ctx, pipeline)
		s.ended <- p
	}()
}

// keep runs a pipeline, and again after what may pass.
func (s *server) keep(ctx context.Context, pipeline Pipeline) error {
	for most := firstWait; ; most = min(2*most, longestWait) {
		begun := time.Now()
		err := s.run(ctx, pipeline)
		if passing := (Passing{}); !errors.As(err, &passing) {
			return err
		}
		if time.Since(begun) > longestWait {
			most = firstWait
		}
		wait := most/2 + rand.N(most/2+1)
		select {
		case s.waiting <- Event{pipeline, Waiting, err, wait}:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// end notes that a pipeline has ended.
func (s *server) end(p *process) {
	p.stop()
	delete(s.running, p.pipeline.Name)
	stopped := p.stopping || s.ctx.Err() != nil
	e := Event{Pipeline: p.pipeline, What: Done, Err: p.err}
	switch {
	case stopped:
		e.What = Halted
	case p.err != nil:
		e.What = Failed
	}
	if p.err != nil {
		s.failed[p.pipeline.Name] = fmt.Errorf("pipeline %q: %w", p.pipeline.Name, p.err)
	}
	s.report(e)
}
