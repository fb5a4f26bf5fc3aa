package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/consumers/federated/kernels"
	"penstock/schemas"
	"penstock/stream"
)

//go:embed bench_federated_flower.py
var flowerScript string

// flower compares a round of an Aggregator with Flower's. Both begin with updates that
// have arrived, encoded as they travel, and end with the next model, encoded.
func (c *benchFederatedCmd) flower(ctx context.Context, t *terminal, flags benchFlags) (err error) {
	if c.Tensors < 1 || c.Tensors > c.Parameters {
		return usagef("--tensors: expected from 1 to %d, as many as there are parameters, found %d", c.Parameters, c.Tensors)
	}
	script, stop, err := startFlower(ctx, c.Flower, c.Updates, c.Parameters, c.Tensors)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	round, err := newMemoryRound(ctx, c.Updates, c.Parameters, c.Tensors)
	if err != nil {
		return err
	}
	flower := func(context.Context) (time.Duration, error) {
		seconds, first, err := script()
		if want := float64(parameter(0)); err == nil && math.Abs(first-want) > 1e-5 {
			err = fmt.Errorf("expected a model that begins with %v, found Flower's with %v", want, first)
		}
		return time.Duration(seconds * float64(time.Second)), err
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for cores := range min(2, runtime.GOMAXPROCS(0)) {
		runtime.GOMAXPROCS(cores + 1)
		settings := fmt.Sprintf("Flower's FedAvg.aggregate_train; %s kernel, cores: %d, %d updates of %d float32 in %d tensors", kernels.Name(), cores+1, c.Updates, c.Parameters, c.Tensors)
		if err := flags.compare(ctx, t, fmt.Sprintf("federated flower %d", cores+1), settings, round.run, flower); err != nil {
			return err
		}
	}
	return nil
}

// startFlower starts the script, which has its updates when it is returned. Each call of
// run is a round: the seconds it took, and the first value of its model.
func startFlower(ctx context.Context, python string, updates, parameters, tensors int) (run func() (seconds, first float64, err error), stop func() error, err error) {
	cmd := exec.CommandContext(ctx, python, "-c", flowerScript, strconv.Itoa(updates), strconv.Itoa(parameters), strconv.Itoa(tensors))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, usagef("--flower: expected a Python that has flwr: %v", err)
	}
	lines := bufio.NewReader(out)
	stop = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		return nil, nil, errors.Join(usagef("--flower: expected a Python that has flwr, found that its script said %q", line), stop())
	}
	return func() (seconds, first float64, err error) {
		if _, err := io.WriteString(in, "go\n"); err != nil {
			return 0, 0, err
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			return 0, 0, err
		}
		_, err = fmt.Sscan(line, &seconds, &first)
		return seconds, first, err
	}, stop, nil
}

// memoryRound is an Aggregator whose updates lie in memory, decoded but for their
// numbers, and whose models go nowhere.
type memoryRound struct {
	aggregator *federated.Aggregator
	messages   []consumers.Message
	next       int64
}

const memoryBatch = 16 // records of a batch

func newMemoryRound(ctx context.Context, updates, parameters, tensors int) (*memoryRound, error) {
	var r memoryRound
	var initial []federated.Tensor
	for i := range tensors {
		n := parameters*(i+1)/tensors - parameters*i/tensors
		initial = append(initial, federated.Tensor{Name: strconv.Itoa(i), Shape: []int{n}, Values: make([]float32, n)})
	}
	var clients []string
	for k := range updates {
		client := fmt.Sprintf("c%06d", k)
		clients = append(clients, client)
		var encoded []any
		at := 0
		for _, t := range initial {
			data := make([]byte, 0, 4*len(t.Values))
			for range t.Values {
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(parameter(at)))
				at++
			}
			encoded = append(encoded, map[string]any{
				"name": t.Name, "dtype": "float32", "shape": []any{int64(t.Shape[0])}, "data": data, "crc": int64(crc32.ChecksumIEEE(data)),
			})
		}
		r.messages = append(r.messages, consumers.Message{
			Record: stream.Record{Topic: "updates", Key: []byte(client)},
			Data:   map[string]any{"client": client, "samples": int64(k + 1), "parameters": encoded},
		})
	}
	var err error
	r.aggregator, err = federated.Open(ctx, federated.Config{
		Models: "models", Updates: "updates", Group: "bench", Clients: clients, Rounds: math.MaxInt64, Initial: initial,
		Broker: nowhere{}, Registry: nowhere{}, Publisher: nowhere{},
	})
	if err != nil {
		return nil, err
	}
	_, err = r.aggregator.Assigned(ctx, []stream.Partition{{Topic: "updates"}})
	return &r, err
}

// run is a round.
func (r *memoryRound) run(ctx context.Context) (time.Duration, error) {
	model := r.aggregator.Model()
	for i := range r.messages {
		fields, _ := r.messages[i].Data.(map[string]any)
		fields["round"], fields["base"] = model.Round, model.Hash[:]
		r.messages[i].Offset = r.next + int64(i)
	}
	began := time.Now()
	for rest := r.messages; len(rest) > 0; {
		batch := rest[:min(memoryBatch, len(rest))]
		first := r.next
		r.next += int64(len(batch))
		if err := r.aggregator.Write(ctx, consumers.Batch{Topic: "updates", First: first, Next: r.next, Messages: batch}); err != nil {
			return 0, err
		}
		rest = rest[len(batch):]
	}
	took := time.Since(began)
	after := r.aggregator.Model()
	if got, want := after.Parameters[0].Values[0], parameter(0); after.Round != model.Round+1 || math.Abs(float64(got-want)) > 1e-5 {
		return 0, fmt.Errorf("expected a model of round %d that begins with %v, found one of %d with %v", model.Round+1, want, after.Round, got)
	}
	return took, nil
}

// parameter is what all updates have at an index.
func parameter(at int) float32 { return float32(at%1013)/1013 - 0.5 }

// nowhere is a broker that has nothing and keeps nothing.
type nowhere struct{}

func (nowhere) Ranges(context.Context, string) ([]stream.Range, error) {
	return make([]stream.Range, 1), nil
}

func (nowhere) Open(context.Context, stream.Subscription) (stream.SourceCloser, error) {
	return nil, errors.New("there is nothing to read")
}

func (nowhere) Schema(context.Context, schemas.ID) (schemas.Schema, error) {
	return nil, schemas.ErrNoSchema
}

func (nowhere) Publish(context.Context, string, []byte, any) error { return nil }
