package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"penstock/consumers/federated/kernels"
)

// benchFederatedCmd measures how fast updates are folded.
type benchFederatedCmd struct {
	outputFlag
	Updates    int    `default:"16" placeholder:"N" help:"Updates to fold (default ${default})."`
	Parameters int    `default:"2000000" placeholder:"N" help:"Parameters of each (default ${default})."`
	Pairs      int    `default:"9" placeholder:"N" help:"Runs of each side, taken in turn (default ${default})."`
	Secure     int    `placeholder:"N" help:"Measure a round of secure aggregation among N clients, once, and nothing else."`
	Broker     string `placeholder:"URL" help:"Measure folding updates as they come from a broker, and nothing else."`
	Flower     string `placeholder:"PYTHON" help:"Measure rounds against those of Flower, which the interpreter has, and nothing else."`
	Tensors    int    `default:"1" placeholder:"N" help:"With --flower: tensors of a model (default ${default})."`
	Partitions int    `default:"1" placeholder:"N" help:"With --broker: partitions of the updates (default ${default})."`
}

// Help says how to read the figures.
func (benchFederatedCmd) Help() string {
	return `Updates of float32 lie in memory. The raw side reads as many bytes once and adds
them up as integers, which is as fast as memory goes; the ratio is the share of
that at which they are folded, run by run, on one core and on two.

  federated fold          weighted sum of the updates
  federated fold checked  and the norm of each, and whether it is finite

With --secure a round of secure aggregation is run in memory, as many clients dropping
out as may; its raw side makes as many masks by AES and adds them to nothing.

With --broker the updates lie on a topic, in pieces as clients send them. Penstock's
side is the aggregator, from the first record until its model is published; the raw
side fetches the same records and drops them. memory is the most that the process took
during it, over its start, in models of float32: each partition that has updates in the
round takes two.

With --flower the raw side is Flower's own FedAvg. Both sides begin with the updates
that have arrived, encoded as they travel, and end with the next model; ours checks each
update's CRC-32, its numbers and its norm.

Examples:
  penstock bench federated --updates 100
  penstock bench federated --flower .venv/bin/python --updates 100
  penstock bench federated --broker kafka://127.0.0.1:9092 --updates 100
  penstock bench federated --secure 100 --parameters 1000000`
}

// Run measures both rows on one core and on two.
func (c *benchFederatedCmd) Run(ctx context.Context, t *terminal) error {
	if c.Secure != 0 {
		return c.secure(ctx, t)
	}
	if c.Broker != "" {
		return c.throughBroker(ctx, t)
	}
	if c.Updates < 2 || c.Updates%2 == 1 || c.Parameters < 1 || c.Pairs < 1 || c.Updates > 1<<33/c.Parameters {
		return usagef("expected an even number of updates, at least one parameter and run, and at most 32 GiB of updates")
	}
	flags := benchFlags{outputFlag: c.outputFlag, Pairs: c.Pairs, Records: 4 * c.Updates * c.Parameters, unit: "bytes/s"}
	if c.Flower != "" {
		return c.flower(ctx, t, flags)
	}
	updates, weights := make([][]float32, c.Updates), make([]float64, c.Updates)
	for k := range updates {
		updates[k] = make([]float32, c.Parameters)
		weights[k] = float64(k + 1)
		for i := range updates[k] {
			updates[k][i] = float32(i%1013)/1013 - 0.5
		}
	}
	sum, base := make([]float64, c.Parameters), make([]float32, c.Parameters)
	whole, sums := make([]kernels.Update, c.Updates), [][]float64{sum}
	for k, x := range updates {
		whole[k] = kernels.Update{Values: [][]float32{x}, Weight: weights[k]}
	}
	words := make([]uint64, (c.Updates+1)/2*c.Parameters)
	for i := range words {
		words[i] = uint64(i)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for cores := range min(2, runtime.GOMAXPROCS(0)) {
		cores++
		runtime.GOMAXPROCS(cores)
		read := timing(func() {
			var all sync.WaitGroup
			for i := range cores {
				all.Go(func() { runtime.KeepAlive(addUp(words[len(words)*i/cores : len(words)*(i+1)/cores])) })
			}
			all.Wait()
		})
		fold := timing(func() { kernels.Fold(sum, updates, weights) })
		checked := timing(func() { kernels.FoldChecked(sums, sums, [][]float32{base}, whole) })
		settings := fmt.Sprintf("%s kernel, cores: %d, %d updates of %d float32", kernels.Name(), cores, c.Updates, c.Parameters)
		if err := flags.compare(ctx, t, fmt.Sprintf("federated fold %d", cores), settings, fold, read); err != nil {
			return err
		}
		if err := flags.compare(ctx, t, fmt.Sprintf("federated fold checked %d", cores), settings, checked, read); err != nil {
			return err
		}
	}
	return nil
}

// timing runs fn.
func timing(fn func()) side {
	return func(context.Context) (time.Duration, error) {
		began := time.Now()
		fn()
		return time.Since(began), nil
	}
}

// addUp reads words as fast as a plain loop can: 64 bytes a turn.
func addUp(words []uint64) uint64 {
	var a, b, c, d uint64
	for ; len(words) >= 8; words = words[8:] {
		a += words[0] + words[4]
		b += words[1] + words[5]
		c += words[2] + words[6]
		d += words[3] + words[7]
	}
	return a + b + c + d
}
