package diffing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/consumers"
	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/nats"
)

// childVariable has the process be one that compares records, and that ends by a
// kill: BROKER FOLDER TOPIC STEP TIMES, and FILE for one that applies events to a
// table there.
const childVariable = "PENSTOCK_DIFF_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childVariable); args != "" {
		if err := child(strings.Fields(args)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type closing interface {
	stream.Broker
	Broker
}

// connect opens a broker by its address.
func connect(ctx context.Context, address string) (closing, error) {
	if seeds, ok := strings.CutPrefix(address, "kafka://"); ok {
		return kafka.Open(ctx, kafka.Config{Seeds: strings.Split(seeds, ",")})
	}
	return nats.Open(ctx, nats.Config{URL: address})
}

const (
	crashRecords = 400
	crashBatch   = 20
)

// crashValue is record i of a partition of which the records are known.
func crashValue(i int) string {
	key := fmt.Sprintf("k%d", i*7%13)
	if i%11 == 0 {
		return key
	}
	return fmt.Sprintf(`%s={"n":%d,"text":"%s"}`, key, i/40, strings.Repeat("x", i%5))
}

func crashBatchAt(from, size int) consumers.Batch {
	var values []string
	for i := from; i < min(from+size, crashRecords); i++ {
		values = append(values, crashValue(i))
	}
	return batchOf(int64(from), values...)
}

func child(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	times, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	broker, err := connect(ctx, args[0])
	if err != nil {
		return err
	}
	defer broker.Close()
	p := partition0
	p.Topic = args[2] + ".in"
	if len(args) > 5 {
		return childApplies(ctx, broker, p, args, times)
	}
	d, err := Open(args[1], Config{Broker: broker, Name: "g", Topic: args[2]})
	if err != nil {
		return err
	}
	defer d.Close()
	if err := killedAt(d, args[3], times); err != nil {
		return err
	}
	return writeAll(ctx, d, p, crashBatch-times, crashBatchAt) // not the batches of the one before
}

// killedAt has the process be killed when it comes to a step for the nth time.
func killedAt(d *Differ, step string, times int) error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	d.step = func(at string) {
		if at != step {
			return
		}
		if times--; times == 0 {
			_ = self.Kill()
			select {} // until it comes
		}
	}
	return nil
}

// owning is a sink that holds positions.
type owning interface {
	consumers.Sink
	stream.Owner
}

// writeAll claims a partition and writes what is left of it.
func writeAll(ctx context.Context, d owning, p stream.Partition, size int, batchAt func(from, size int) consumers.Batch) error {
	starts, err := d.Assigned(ctx, []stream.Partition{p})
	if err != nil {
		return err
	}
	for at := starts[p]; ; {
		b := batchAt(int(at), size)
		if b.Next == at {
			return nil
		}
		b.Topic = p.Topic
		for i := range b.Messages {
			b.Messages[i].Topic = p.Topic
		}
		if err := d.Write(ctx, b); err != nil {
			return err
		}
		at = b.Next
	}
}

// brokers runs a test on a broker in process and on a real one, of both kinds.
func brokers(t *testing.T, test func(t *testing.T, address string)) {
	t.Run("kfake", func(t *testing.T) {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		test(t, "kafka://"+strings.Join(cluster.ListenAddrs(), ","))
	})
	t.Run("kafka", func(t *testing.T) { test(t, "kafka://"+servertest.Kafka(t)) })
	t.Run("nats", func(t *testing.T) { test(t, servertest.NATS(t)) })
}

// Killed behind any step, with the folder there or not, a differ writes each
// event once.
func TestCrash(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	brokers(t, func(t *testing.T, address string) {
		broker, err := connect(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer broker.Close()
		topic := servertest.Name(t)
		if err := broker.Create(t.Context(), topic, 1); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "state")
		kills := map[string]int{}
		run := func(step string, times int) error {
			return runChild(t, kills, exe, step, address, dir, topic, step, strconv.Itoa(times))
		}
		steps := []string{"compared", "emitted", "logged", "stored", "logged", "restored", "emitted"}
		if strings.HasPrefix(address, "kafka") { // what is emitted is logged
			steps = []string{"compared", "logged", "stored", "logged", "restored", "logged"}
		}
		for i, step := range steps {
			times := 1 + i%3
			if step == "restored" {
				times = 1 // that may be one part
			}
			if err := run(step, times); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := run("never", 1); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{}
		for _, step := range steps {
			want[step]++
		}
		if diff := cmp.Diff(want, kills); diff != "" {
			t.Errorf("kills: %s", diff)
		}

		var clean output
		d, _ := open(t, t.TempDir(), Config{Broker: &clean})
		for at := 0; at < crashRecords; at += crashBatch {
			write(t, d, crashBatchAt(at, crashBatch))
		}
		got := lines(readTopic(t, broker, topic))
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], fmt.Sprintf("%q", topic+".in"), `"in"`)
		}
		if diff := cmp.Diff(lines(clean.records), got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// runChild runs a child process, and counts it in kills if it was killed.
func runChild(t *testing.T, kills map[string]int, exe, step string, args ...string) error {
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(args, " "))
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() < 0 {
		kills[step]++
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// readTopic returns what a topic of one partition holds.
func readTopic(t *testing.T, broker closing, topic string) []stream.Record {
	t.Helper()
	ranges, err := broker.Ranges(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	src, err := broker.Open(t.Context(), stream.Subscription{Topic: topic, Group: "read-" + topic})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var all []stream.Record
	for len(all) == 0 || all[len(all)-1].Offset+1 < ranges[0].End {
		records, ack, err := src.Fetch(t.Context(), 1000)
		if err == nil {
			err = ack(t.Context(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, records...)
	}
	return all
}
