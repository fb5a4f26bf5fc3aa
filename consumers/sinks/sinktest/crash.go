package sinktest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/schemas"
	"penstock/stream"
)

// The log of the crash test: so many partitions, with a record at each offset
// below the end but for every seventh, as after compaction.
const (
	logPartitions = 3
	logEnd        = 4000
	logGap        = 7
)

// childEnv holds the address for a child process of Crash.
const childEnv = "SINKTEST_CHILD"

// Main is TestMain of a package that calls Crash.
func Main(m *testing.M, open Opener) {
	if address, ok := os.LookupEnv(childEnv); ok {
		if err := child(address, open); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// Crash has child processes microbatch the log by sinks that are opened at an
// address, each killed (-9) at some moment and followed by the next, until one
// reaches the end, and compares what they stored with the log.
func Crash(t *testing.T, address string, rows Rows) {
	kills := 0
	for done := false; !done; {
		done = crash(t, address)
		if !done {
			kills++
		}
	}
	t.Logf("killed %d times", kills)
	if kills < 10 {
		t.Errorf("killed %d times, want 10 or more", kills)
	}
	Whole(t, rows)
}

// Whole sees that each record of Crash's log is stored, once.
func Whole(t *testing.T, rows Rows) {
	t.Helper()
	var want []Row
	for p := range logPartitions {
		for o := range int64(logEnd) {
			if o%logGap != 0 {
				want = append(want, Row{int64(p), o})
			}
		}
	}
	compare(t, want, rows(t))
}

// Child is a process that is yet to be started: it microbatches the log by a sink
// that is opened at an address, and ends when all of it is stored. It writes a line
// for each batch, "given back" for one that it could not store.
func Child(t *testing.T, address string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+address)
	return cmd
}

// crash runs one child and kills it after it has settled a few batches. It
// says whether the child came to its end before.
func crash(t *testing.T, address string) bool {
	cmd := Child(t, address)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 1 + rand.IntN(12) {
		if !lines.Scan() {
			if err := cmd.Wait(); err != nil {
				t.Fatalf("child: %v\n%s", err, stderr.String())
			}
			return true
		}
	}
	// What it is at when it dies is left to chance.
	for end := time.Now().Add(rand.N(5 * time.Millisecond)); time.Now().Before(end); {
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	return cmd.Wait() == nil
}

// child consumes the log to its end, and writes a line for each batch. A partition
// of which all is stored already may have none.
func child(address string, open Opener) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	sink, err := open(ctx, address)
	if err != nil {
		return err
	}
	src, err := openLog(ctx, sink)
	if err != nil {
		return err
	}
	stored, whole := src.next, [logPartitions]int64{logEnd, logEnd, logEnd}
	batches := microbatch.Batch(src, microbatch.Policy{Count: 60, Linger: 5 * time.Millisecond})
	if stored == whole {
		stop()
	}
	settled := make(chan consumers.Batch)
	go func() {
		for b := range settled {
			fmt.Println(b.Partition, b.First, b.Next)
			stored[b.Partition] = b.Next
			if stored == whole {
				stop()
			}
		}
	}()
	err = consumers.Run(ctx, batches, sink, consumers.Config{
		Registry: registry{newLogSchema()},
		Hooks: consumers.Hooks{
			Settled:   func(b consumers.Batch, _ time.Duration) { settled <- b },
			GivenBack: func(consumers.Batch, error) { fmt.Println("given back") },
		},
	})
	close(settled)
	return errors.Join(err, batches.Close(), sink.Close())
}

// source gives each partition of the log in small pieces, from where its owner
// left off or a little before.
type source struct {
	next [logPartitions]int64
}

func openLog(ctx context.Context, owner stream.Owner) (*source, error) {
	var all []stream.Partition
	for p := range int32(logPartitions) {
		all = append(all, stream.Partition{Cluster: "c", Topic: "log", Number: p})
	}
	positions, err := owner.Assigned(ctx, all)
	if err != nil {
		return nil, err
	}
	s := &source{}
	for i, p := range all {
		s.next[i] = max(0, positions[p]-rand.Int64N(100))
	}
	return s, nil
}

// Fetch implements stream.Source.
func (s *source) Fetch(ctx context.Context, max int) ([]stream.Record, stream.AckFunc, error) {
	var open []int32
	for p, at := range s.next {
		if at < logEnd {
			open = append(open, int32(p))
		}
	}
	if len(open) == 0 {
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}
	p := open[rand.IntN(len(open))]
	var records []stream.Record
	for n := 1 + rand.IntN(min(max, 20)); n > 0 && s.next[p] < logEnd; s.next[p]++ {
		if at := s.next[p]; at%logGap != 0 {
			records = append(records, logRecord(p, at))
			n--
		}
	}
	return records, func(context.Context, error) error { return nil }, nil
}

// registry has the schema of the log, and no other.
type registry struct{ schema *logSchema }

// Schema implements consumers.Registry.
func (r registry) Schema(context.Context, schemas.ID) (schemas.Schema, error) { return r.schema, nil }

type logSchema struct{ Schema }

func newLogSchema() *logSchema {
	return &logSchema{*Record(Field("part", long), Field("at", long), Field("kind", text))}
}

// Decode implements schemas.Schema.
func (*logSchema) Decode(src []byte) (any, error) {
	return logData(int32(binary.BigEndian.Uint32(src)), int64(binary.BigEndian.Uint64(src[4:]))), nil
}
