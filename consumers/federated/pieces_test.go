package federated

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"penstock/consumers"
	"penstock/stream"
)

// largeModel has so many numbers that what has come of an update lies in a file.
func largeModel() []Tensor {
	p := []Tensor{{Name: "w", Shape: []int{200, 200}, Values: make([]float32, 40_000)}, {Name: "b", Shape: []int{7}, Values: make([]float32, 7)}}
	for i := range p[0].Values {
		p[0].Values[i] = float32(i%101) / 7
	}
	return p
}

// A batch that ends more updates in pieces than are held in memory makes the model that
// the same updates make whole, and nothing is left in the folder of temporary files.
func TestUpdatesInPiecesThroughFiles(t *testing.T) {
	for _, strategy := range []string{"fedavg", "fedadam", "median"} {
		t.Run(strategy, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			model := func(piece int) Model {
				tr := newTraining(t, 2*ahead, 1)
				tr.config.Initial, tr.config.Strategy, tr.config.Piece = largeModel(), strategy, piece
				tr.config.unspilled = 500_000 // three updates; the others lie in files
				a := open(t, tr.config)
				claim(t, a)
				first := a.Model()
				var clients [][]consumers.Message
				for _, c := range tr.config.Clients {
					var records []consumers.Message
					for record := range split(updateOf(c, first).value(), piece) {
						records = append(records, message(t, tr.publisher.registry, c, record))
					}
					clients = append(clients, records)
				}
				b := consumers.Batch{Topic: "updates"}
				for i := range clients[0] {
					for _, records := range clients {
						m := records[i]
						m.Offset = b.Next
						b.Next++
						b.Messages = append(b.Messages, m)
					}
				}
				// The end of one that has no beginning is refused, and the rest written again.
				odd := b.Messages[len(b.Messages)-1]
				odd.Offset = b.Next
				b.Next++
				b.Messages = append(b.Messages, odd)
				var bad *stream.BatchError
				if err := a.Write(t.Context(), b); !errors.As(err, &bad) || len(bad.Errs) != 1 || bad.Errs[len(b.Messages)-1] == nil {
					t.Fatalf("got %v", err)
				}
				b.Messages = b.Messages[:len(b.Messages)-1]
				if err := a.Write(t.Context(), b); !errors.Is(err, ErrFinished) {
					t.Fatal(err)
				}
				models := tr.models()
				return models[len(models)-1]
			}
			whole, pieces := model(1<<30), model(50_000)
			for i, c := range pieces.Contributions {
				if c.Client != whole.Contributions[i].Client || c.Norm != whole.Contributions[i].Norm {
					t.Errorf("contribution %d is %v, and %v whole", i, c, whole.Contributions[i])
				}
			}
			if pieces.Hash != whole.Hash || !slices.Equal(pieces.State["m"], whole.State["m"]) {
				t.Error("updates in pieces make another model")
			}
			left, err := os.ReadDir(temp)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestPiecesThatDoNotFit(t *testing.T) {
	tr := newTraining(t, 2, 1)
	a := open(t, tr.config)
	claim(t, a)
	good := updateOf("c1", a.Model())
	offset := int64(0)
	write := func(records ...map[string]any) error {
		b := consumers.Batch{Topic: "updates", Partition: 1, First: offset}
		for _, record := range records {
			m := message(t, tr.publisher.registry, "c1", record)
			m.Partition, m.Offset = 1, offset
			offset++
			b.Messages = append(b.Messages, m)
		}
		b.Next = offset
		return a.Write(t.Context(), b)
	}
	f := func(why Reason, want string, records ...map[string]any) {
		t.Helper()
		err := write(records...)
		var bad *stream.BatchError
		var r *Refusal
		if !errors.As(err, &bad) || len(bad.Errs) != 1 || !errors.As(bad.Errs[len(records)-1], &r) || r.Reason != why || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s: %q", err, why, want)
		}
	}
	records := func(u Update) []map[string]any { return slices.Collect(split(u.value(), 8)) }
	piece := func(record map[string]any) map[string]any { return record["piece"].(map[string]any) }

	f(Incomplete, "expected 2 records of it before this one", records(good)[2])
	f(Incomplete, "piece 1 is missing", records(good)[0], records(good)[2])
	f(Incomplete, "piece 1 is missing", records(good)[0], records(good)[0], records(good)[2])
	other := updateOf("c1", a.Model())
	other.Parameters[0].Values[0]++
	f(Incomplete, "expected 2 records of it before this one, none of another between them", records(good)[0], records(other)[0], records(good)[1], records(good)[2])

	damaged := records(good)
	piece(damaged[0])["data"].([]byte)[1]++
	f(Malformed, "at /parameters/0: expected data with CRC-32", damaged...)
	damaged = records(good)
	piece(damaged[2])["hash"] = make([]byte, 32)
	f(Incomplete, "expected 2 records of it before this one", damaged...)

	for _, sizes := range [][]any{{}, {int64(20)}, {int64(16), int64(3)}, {int64(15), int64(5)}, {int64(16), int64(4), int64(0)}} {
		wrong := records(good)
		piece(wrong[2])["sizes"] = sizes
		f(Malformed, "", wrong...)
	}
	wrong := records(good)
	piece(wrong[2])["sizes"] = []any{int64(24), int64(-4)}
	f(Malformed, "at /piece/sizes: expected what penstock.federated.Piece has", wrong...)
	wrong = records(good)
	piece(wrong[2])["index"] = int32(3)
	f(Malformed, "at /piece/index: expected a number below 3, found 3", wrong[2])

	long := good
	long.Parameters = []Tensor{{Name: "w", Shape: []int{20}, Values: make([]float32, 20)}}
	f(Incomplete, "piece 6 is missing, or there are more than 48 bytes", records(long)...)
	if n := a.parts[1].halves.of["c1"].size; n > 48 {
		t.Errorf("%d bytes are kept", n)
	}

	// What is not for this round is not kept; what it ends with says why.
	late := good
	late.Round--
	f(Late, "round 0 is in progress", records(late)...)
	if err := write(records(good)...); err != nil {
		t.Fatal(err)
	}
	if n := len(a.parts[1].halves.of); n != 0 {
		t.Errorf("%d updates are kept that are counted", n)
	}
	f(Duplicate, "is counted", records(other)...)
}

// However many updates in pieces there are to read, they lie in one file.
func TestJoinerHoldsOneFile(t *testing.T) {
	m := Model{Round: 1, Parameters: largeModel()}
	m.Hash = hashOf(m.Parameters)
	joiner := NewJoiner()
	defer joiner.Close()
	var updates []Update
	var records [][]map[string]any
	for i := range 20 {
		u := updateOf(fmt.Sprint("c", i), m)
		u.Parameters = []Tensor{{Name: "w", Shape: []int{200, 200}, Values: slices.Repeat([]float32{float32(i)}, 40_000)}, m.Parameters[1]}
		updates = append(updates, u)
		records = append(records, slices.Collect(split(u.value(), 30_000+1000*(i%3))))
	}
	var reads []func() (Update, error)
	for k := range records[0] { // those of all clients lie between one another
		for i, u := range updates {
			if k >= len(records[i]) {
				continue
			}
			data, err := newRegistry(t)[2].Decode(encoded(t, 2, records[i][k]))
			if err != nil {
				t.Fatal(err)
			}
			msg := consumers.Message{Record: stream.Record{Key: []byte(u.Client), Offset: int64(k*len(updates) + i)}, Data: data}
			read, err := joiner.Update(msg, func(Update) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			if read != nil {
				reads = append(reads, read)
			}
		}
	}
	files := map[*os.File]bool{}
	for _, h := range joiner.halves.of {
		if h.file != nil {
			files[h.file] = true
		}
	}
	if len(reads) != len(updates) || len(files) != 1 {
		t.Errorf("%d updates are whole, and lie in %d files; want %d in one", len(reads), len(files), len(updates))
	}
	joiner.Close() // those that are whole are read on
	for range 2 {
		for _, read := range reads {
			u, err := read()
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(updates, func(other Update) bool { return other.Client == u.Client })
			if hashOf(u.Parameters) != hashOf(updates[i].Parameters) {
				t.Errorf("the update of %s is read as another", u.Client)
			}
		}
	}
}

// An aggregator that was killed while it published a model in pieces, even many times,
// goes on from the model before.
func TestModelsThatWereNotPublishedWhole(t *testing.T) {
	tr := newTraining(t, 1, 2)
	tr.config.Piece = 4
	failures := []failure{works, works, before}
	tr.publisher.fail = slices.Clone(failures)
	if _, err := Open(t.Context(), tr.config); !errors.Is(err, errConnection) {
		t.Fatal(err)
	}
	a := open(t, tr.config)
	b := consumers.Batch{Topic: "updates", Next: 1, Messages: []consumers.Message{message(t, tr.publisher.registry, "c0", updateOf("c0", a.Model()).value())}}
	for range 4 {
		tr.publisher.fail = slices.Clone(failures)
		a := open(t, tr.config)
		if m := a.Model(); m.Round != 0 || m.Hash != hashOf(tr.config.Initial) {
			t.Fatalf("it starts from %v of round %d", m.Hash, m.Round)
		}
		claim(t, a)
		if err := a.Write(t.Context(), b); !errors.Is(err, errConnection) {
			t.Fatal(err)
		}
	}
	a = open(t, tr.config)
	claim(t, a)
	if err := a.Write(t.Context(), b); err != nil || a.Model().Round != 1 {
		t.Fatalf("round %d, %v", a.Model().Round, err)
	}
	if m := open(t, tr.config).Model(); m.Round != 1 || m.Hash != a.Model().Hash {
		t.Error("the second model is not found")
	}
}

// A client whose update was published in part goes on with the rest of the same bytes.
func TestClientGoesOnInTheMiddle(t *testing.T) {
	tr := newTraining(t, 1, 2)
	trained := 0
	c, err := NewClient(ClientConfig{Name: "c0", Updates: "updates", Publisher: tr.publisher, Piece: 8, Train: func(_ context.Context, m Model) (Trained, error) {
		trained++
		return Trained{Parameters: updateOf("c0", m).Parameters, Samples: int64(trained)}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	a := open(t, tr.config)
	tr.publisher.fail = []failure{works, after}
	b := modelBatch(t, tr.publisher.registry, a.Model())
	if err := c.Write(t.Context(), b); !errors.Is(err, errConnection) {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	claim(t, a)
	batch := consumers.Batch{Topic: "updates"}
	for i, r := range recordsOf(t, tr.broker, "updates") {
		data, err := tr.publisher.registry[2].Decode(r.Value[5:])
		if err != nil {
			t.Fatal(err)
		}
		r.Offset = int64(i)
		batch.Next++
		batch.Messages = append(batch.Messages, consumers.Message{Record: r, Data: data})
	}
	if err := a.Write(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if m := a.Model(); trained != 1 || len(batch.Messages) != 4 || m.Round != 1 || m.Contributions[0].Samples != 1 {
		t.Errorf("trained %d times, %d records, round %d", trained, len(batch.Messages), m.Round)
	}
}
