package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"penstock/consumers"
	"penstock/consumers/microbatch"
	"penstock/consumers/sinks/postgres"
	"penstock/consumers/sinks/sqlsink"
	"penstock/stream"
)

// processes compares two processes, each with its half of the partitions, with one
// that has them all. The time counts from when all are assigned.
func (c *benchMicrobatchCmd) processes(ctx context.Context, t *terminal, conn *pgx.Conn, data *benchData) (err error) {
	b, err := openBench(ctx, t, c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if b.conn != nil {
		return usagef("--broker: this benchmark reads from Kafka; write kafka://HOST:PORT")
	}
	if _, err := b.rawProduce(c.Records, data.record)(ctx); err != nil {
		return err
	}
	table := "penstock_bench_" + strings.ToLower(rand.Text()[:8])
	defer func() { // what is left has a name of its own
		_, _ = conn.Exec(context.Background(), "DROP TABLE IF EXISTS "+table)
	}()
	of := func(n int) side {
		return func(ctx context.Context) (time.Duration, error) {
			if _, err := conn.Exec(ctx, "DROP TABLE IF EXISTS "+table); err != nil {
				return 0, err
			}
			return c.members(ctx, n, b.topic, table)
		}
	}
	return c.compare(ctx, t, "microbatch postgres, Avro, two processes", fmt.Sprintf("one process, COPY of %d rows", c.Count), of(2), of(1))
}

// members has n processes store a topic together.
func (c *benchMicrobatchCmd) members(ctx context.Context, n int, topic, table string) (took time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	type line struct {
		from int
		what string
		n    int
	}
	said := make(chan line)
	group := "bench-" + rand.Text()
	var begin []io.WriteCloser
	var running sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		cmd := exec.CommandContext(ctx, exe, "bench", "member", topic, "--broker", c.Broker, "--to", c.To, "--group", group, "--table", table, "--count", fmt.Sprint(c.Count))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return 0, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		begin = append(begin, in)
		running.Go(func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				l := line{from: i}
				if _, err := fmt.Sscan(lines.Text(), &l.what, &l.n); err == nil {
					select {
					case said <- l:
					case <-ctx.Done():
					}
				}
			}
			if errs[i] = cmd.Wait(); errs[i] != nil {
				cancel()
			}
		})
	}
	defer func() {
		for _, in := range begin {
			_ = in.Close() // which tells it to stop
		}
		running.Wait()
		err = errors.Join(append(errs, err)...)
	}()
	held := make([]int, n)
	var start time.Time
	for left := c.Records; left > 0; {
		select {
		case l := <-said:
			if l.what == "stored" {
				left -= l.n
				continue
			}
			held[l.from] = l.n
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		even := start.IsZero()
		for _, h := range held {
			even = even && h == benchPartitions/n
		}
		if even {
			start = time.Now()
			for _, in := range begin {
				if _, err := fmt.Fprintln(in); err != nil {
					return 0, err
				}
			}
		}
	}
	took = time.Since(start)
	go func() { // what else they say is of no account
		for {
			select {
			case <-said:
			case <-ctx.Done():
				return
			}
		}
	}()
	return took, nil
}

// benchMemberCmd is one process of several that store a topic: it says how many
// partitions it holds, waits for a line, says what it stores, and ends with its
// input.
type benchMemberCmd struct {
	brokerFlag
	Topic string `arg:""`
	To    string `required:""`
	Group string `required:""`
	Table string `required:""`
	Count int    `required:""`
}

// Run stores until the input ends.
func (c *benchMemberCmd) Run(ctx context.Context, t *terminal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	data, err := newBenchData()
	if err != nil {
		return err
	}
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return err
	}
	defer broker.Close()
	sink, err := postgres.Open(ctx, c.To, sqlsink.Config{Table: c.Table, Pipeline: c.Group})
	if err != nil {
		return err
	}
	defer sink.Close()
	src, err := broker.Open(ctx, stream.Subscription{Topic: c.Topic, Group: c.Group, Owner: &countedOwner{Owner: sink, t: t}})
	if err != nil {
		return err
	}
	in := bufio.NewReader(t.in)
	if _, err := in.ReadString('\n'); err != nil {
		return errors.Join(err, src.Close())
	}
	go func() {
		_, _ = in.ReadString('\n') // its end
		cancel()
	}()
	batches := microbatch.Batch(src, microbatch.Policy{Count: c.Count, Bytes: 64 << 20, Linger: 20 * time.Millisecond})
	err = consumers.Run(ctx, batches, sink, consumers.Config{
		Registry: oneSchema{data.ours}, MaxRecords: c.Count,
		Hooks: consumers.Hooks{Settled: func(b consumers.Batch, _ time.Duration) { t.printf("stored %d\n", len(b.Messages)) }},
	})
	return errors.Join(err, batches.Close(), src.Close())
}

// countedOwner says how many partitions it holds.
type countedOwner struct {
	stream.Owner
	t    *terminal
	mu   sync.Mutex
	held int
}

// Assigned implements stream.Owner.
func (o *countedOwner) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	starts, err := o.Owner.Assigned(ctx, partitions)
	if err == nil {
		o.count(len(partitions))
	}
	return starts, err
}

// Lost implements stream.Owner.
func (o *countedOwner) Lost(ctx context.Context, partitions []stream.Partition) error {
	o.count(-len(partitions))
	return o.Owner.Lost(ctx, partitions)
}

func (o *countedOwner) count(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held += n
	o.t.printf("held %d\n", o.held)
}
