package federated

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"penstock/consumers"
	"penstock/consumers/federated/secagg"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
	"penstock/stream/memory"
)

// must be tested, over the log: drops at every stage, a third of the clients;
// server and clients killed at each step

// secureRegistry knows the two schemas, with the ids 1 and 2.
type secureRegistry [3]schemas.Schema

func (r secureRegistry) Schema(_ context.Context, id schemas.ID) (schemas.Schema, error) {
	return r[id], nil
}

// process is a Publisher of one process that may be killed as it publishes.
type process struct {
	registry secureRegistry
	to       stream.Publisher
	// dies says whether the process dies before (1) or after (2) this publish, or
	// goes for good (3).
	dies func(stage string) int
}

var errKilled = errors.New("killed")

func (p *process) Publish(ctx context.Context, topic string, key []byte, value any) error {
	id, stage := schemas.ID(2), "model"
	if topic == "models" {
		id = 1
	} else {
		stage = value.(map[string]any)["stage"].(string)
	}
	payload, err := p.registry[id].AppendEncode(schemas.AppendHeader(nil, id), value)
	if err != nil {
		return err
	}
	how := 0
	if p.dies != nil {
		how = p.dies(stage)
	}
	switch how {
	case 1:
		return errKilled
	case 3:
		return errGone
	}
	if err := p.to.Publish(ctx, stream.Record{Topic: topic, Key: key, Value: payload}); err != nil {
		return err
	}
	if how == 2 {
		return errKilled
	}
	return nil
}

// secureTraining is a training in memory, with clients that move each parameter
// by what depends on client and round.
type secureTraining struct {
	t        *testing.T
	broker   stream.Broker
	registry secureRegistry
	config   SecureConfig
	keys     map[string]ed25519.PrivateKey
	work     sync.WaitGroup
	folder   string
}

func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func newSecureTraining(t *testing.T, clients int, rounds int64) *secureTraining {
	t.Helper()
	s := &secureTraining{t: t, broker: memory.New(), keys: map[string]ed25519.PrivateKey{}, folder: t.TempDir()}
	for i, text := range []string{ModelSchema(), SecureSchema()} {
		schema, err := avro.Format{}.Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.registry[i+1] = schema
	}
	for _, topic := range append(SecureTopics("lab"), "models") {
		if err := s.broker.Create(t.Context(), topic, 1); err != nil {
			t.Fatal(err)
		}
	}
	s.config = SecureConfig{
		Key: testKey("server"), Rounds: rounds, MaxWeight: 10, Clip: 4,
		Initial: []Tensor{{Name: "w", Shape: []int{2, 2}, Values: []float32{0.5, -1, 2, 0}}, {Name: "b", Shape: []int{1}, Values: []float32{3}}},
	}
	for i := range clients {
		name := fmt.Sprintf("c%d", i)
		s.keys[name] = testKey(name)
		s.config.Clients = append(s.config.Clients, secagg.Participant{Name: name, Key: s.keys[name].Public().(ed25519.PublicKey)})
	}
	return s
}

func (s *secureTraining) log(group string, dies func(string) int) SecureLog {
	return SecureLog{
		Training: "lab", Models: "models", Broker: s.broker, Registry: s.registry, Group: group,
		Publisher: &process{s.registry, s.broker, dies}, Note: func(text string) { s.t.Log(group, text) },
	}
}

// server runs a server until the training ends, and starts it again each time it
// is killed. It returns how often that was.
func (s *secureTraining) server(group string, dies func(string) int) (kills int) {
	config := s.config
	config.SecureLog = s.log(group, dies)
	for ; ; kills++ {
		_, err := AggregateSecurely(s.t.Context(), config)
		if !errors.Is(err, errKilled) {
			if err != nil {
				s.t.Errorf("%s: %v", group, err)
			}
			return kills
		}
	}
}

// moves is how far a client moves parameter k in a round.
func moves(client string, round int64, k int) float64 {
	return float64(int(client[1]-'0')+1)*0.25 - float64(k)*0.5 + float64(round)*0.125
}

func samplesOf(client string) int64 { return int64(client[1]-'0')%10 + 1 }

// client runs a client until the training ends, or for good if stop says so at a
// publish, and starts it again each time it is killed.
func (s *secureTraining) client(name string, dies func(string) int) {
	s.work.Go(func() {
		for {
			err := JoinSecurely(s.t.Context(), SecureClientConfig{
				SecureLog: s.log(name, dies), Name: name, Key: s.keys[name], Server: s.config.Key.Public().(ed25519.PublicKey),
				Trusted: s.config.Clients, Folder: s.folder,
				Train: func(_ context.Context, m Model) ([]Tensor, int64, error) {
					var out []Tensor
					k := 0
					for _, t := range m.Parameters {
						t.Values = slices.Clone(t.Values)
						for i := range t.Values {
							t.Values[i] += float32(moves(name, m.Round, k))
							k++
						}
						out = append(out, t)
					}
					return out, samplesOf(name), nil
				},
			})
			if errors.Is(err, errGone) || errors.Is(err, context.Canceled) {
				return
			}
			if !errors.Is(err, errKilled) {
				if err != nil {
					s.t.Errorf("%s: %v", name, err)
				}
				return
			}
		}
	})
}

var errGone = errors.New("gone for good")

// leaves is a client that goes away for good before a stage.
func leaves(stage string) func(string) int {
	return func(s string) int {
		if s == stage {
			return 3
		}
		return 0
	}
}

// check reads the models, and compares each with the mean of its contributors.
func (s *secureTraining) check(contributors func(round int64) []string) {
	s.t.Helper()
	var models []Model
	decoder := consumers.NewDecoder(s.registry, schemas.Limits{})
	for _, r := range recordsOf(s.t, s.broker, "models") {
		message, err := decoder.Decode(context.Background(), r)
		if err != nil {
			s.t.Fatal(err)
		}
		m, err := ReadModel(message.Data)
		if err != nil {
			s.t.Fatal(err)
		}
		if n := len(models); n > 0 && models[n-1].Round == m.Round {
			if models[n-1].Hash != m.Hash {
				s.t.Errorf("two models of round %d", m.Round)
			}
			continue
		}
		models = append(models, m)
	}
	if int64(len(models)) != s.config.Rounds+1 {
		s.t.Fatalf("%d models, want %d", len(models), s.config.Rounds+1)
	}
	for i, m := range models[1:] {
		var names []string
		for _, c := range m.Contributions {
			names = append(names, c.Client)
		}
		if want := contributors(int64(i)); want != nil && !slices.Equal(names, want) {
			s.t.Errorf("model %d is of %v, want %v", i+1, names, want)
		}
		k := 0
		for j, t := range m.Parameters {
			for l, got := range t.Values {
				sum, weight := 0.0, 0.0
				for _, c := range names {
					sum += moves(c, int64(i), k) * float64(samplesOf(c))
					weight += float64(samplesOf(c))
				}
				want := float64(models[i].Parameters[j].Values[l]) + sum/weight
				if math.Abs(float64(got)-want) > 1e-5 {
					s.t.Errorf("model %d, %q[%d]: %v, want %v", i+1, t.Name, l, got, want)
				}
				k++
			}
		}
	}
}

// recordsOf are all records of a topic of one partition.
func recordsOf(t *testing.T, broker stream.Broker, topic string) (out []stream.Record) {
	t.Helper()
	ranges, err := broker.Ranges(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	src, err := broker.Open(t.Context(), stream.Subscription{Topic: topic, Group: "check", Owner: startAt(0)})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for int64(len(out)) < ranges[0].End {
		records, ack, err := src.Fetch(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := ack(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		out = append(out, records...)
	}
	return out
}

// everyPublish dies before each first publish of a kind, after the second, and
// lets the third pass, again and again.
func everyPublish() func(string) int {
	times := map[string]int{}
	return func(stage string) int {
		times[stage]++
		return times[stage] % 3
	}
}

func names(n int, without ...int) (out []string) {
	for i := range n {
		if !slices.Contains(without, i) {
			out = append(out, fmt.Sprintf("c%d", i))
		}
	}
	return out
}

// The server is killed before and after everything that it publishes.
func TestSecureServerKilledAtEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSecureTraining(t, 4, 2)
		for name := range s.keys {
			s.client(name, nil)
		}
		kills := s.server("server", everyPublish())
		s.work.Wait()
		s.check(func(int64) []string { return names(4) })
		if kills < 14 { // before and after: 3 models, 2*5 records, the end
			t.Errorf("killed %d times", kills)
		}
	})
}

// And so is each client. Those who were killed send the same again.
func TestSecureClientsKilledAtEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSecureTraining(t, 4, 2)
		for name := range s.keys {
			s.client(name, everyPublish())
		}
		s.server("server", nil)
		s.work.Wait()
		s.check(func(int64) []string { return names(4) })
		for _, topic := range []string{"lab.keys", "lab.masked", "lab.unmask"} {
			first := map[string]string{}
			for _, r := range recordsOf(t, s.broker, topic) {
				if old, ok := first[string(r.Key)]; ok && old != string(r.Value) {
					t.Errorf("%s of %s differs when sent again", topic, r.Key)
				}
				first[string(r.Key)] = string(r.Value)
			}
		}
	})
}

// A third of the clients goes away for good before each stage in turn.
func TestSecureDrops(t *testing.T) {
	for _, stage := range []string{"keys", "shares", "masked", "confirm", "unmask"} {
		t.Run(stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSecureTraining(t, 7, 2)
				for name := range s.keys {
					if name == "c2" || name == "c5" {
						s.client(name, leaves(stage))
					} else {
						s.client(name, nil)
					}
				}
				s.server("server", everyPublish())
				s.work.Wait()
				s.check(func(round int64) []string {
					if round == 0 && (stage == "confirm" || stage == "unmask") {
						return names(7)
					}
					return names(7, 2, 5)
				})
			})
		})
	}
}
