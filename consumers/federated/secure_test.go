package federated

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
	// both, if not nil, is where two copies of a client wait for one another as
	// they train, each differently.
	both    chan struct{}
	train   func(client string, m Model) (Trained, error) // instead of what moves says; nil is that
	trained atomic.Int32
	ctx     context.Context // ends after an hour, which is no time within synctest
}

func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func newSecureTraining(t *testing.T, clients int, rounds int64) *secureTraining {
	t.Helper()
	s := &secureTraining{t: t, broker: memory.New(), keys: map[string]ed25519.PrivateKey{}, folder: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	s.ctx = ctx
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
		_, err := AggregateSecurely(s.ctx, config)
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
			err := JoinSecurely(s.ctx, SecureClientConfig{
				SecureLog: s.log(name, dies), Name: name, Key: s.keys[name], Server: s.config.Key.Public().(ed25519.PublicKey),
				Trusted: s.config.Clients, Folder: s.folder,
				Train: func(_ context.Context, m Model) (Trained, error) {
					if s.train != nil {
						return s.train(name, m)
					}
					if s.both != nil && name == "c0" {
						select {
						case s.both <- struct{}{}:
						case <-s.both:
						}
					}
					var out []Tensor
					k := 0
					for _, t := range m.Parameters {
						t.Values = slices.Clone(t.Values)
						for i := range t.Values {
							t.Values[i] += float32(moves(name, m.Round, k))
							if s.both != nil {
								t.Values[i] += float32(s.trained.Add(1)) / 8
							}
							k++
						}
						out = append(out, t)
					}
					return Trained{Parameters: out, Samples: samplesOf(name)}, nil
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
					if stage == "unmask" {
						return nil // the others may have ended the round before they got there
					}
					return names(7, 2, 5)
				})
			})
		})
	}
}

// Two copies of a client, on one folder, train differently: of each attempt one
// vector lies on the log, since two under the same masks give away their
// difference.
func TestTwoCopiesOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSecureTraining(t, 4, 1)
		s.both = make(chan struct{})
		for _, name := range names(4, 0) {
			s.client(name, nil)
		}
		copied := false
		s.client("c0", func(stage string) int {
			if stage != "shares" || copied {
				return 0
			}
			copied = true
			s.client("c0", nil) // from the same state
			return 2
		})
		s.server("server", nil)
		s.work.Wait()
		vectors := map[string]string{}
		for _, r := range recordsOf(t, s.broker, "lab.masked") {
			if old, ok := vectors[string(r.Key)]; ok && old != string(r.Value) {
				t.Errorf("%s: two vectors", r.Key)
			}
			vectors[string(r.Key)] = string(r.Value)
		}
		if len(vectors) == 0 {
			t.Error("no vectors")
		}
	})
}

// Two servers work on one training: the first list of a stage counts for both,
// and for the clients.
func TestTwoSecureServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSecureTraining(t, 4, 2)
		for name := range s.keys {
			s.client(name, nil)
		}
		s.work.Go(func() { s.server("other", everyPublish()) })
		s.server("server", nil)
		s.work.Wait()
		s.check(func(int64) []string { return nil })
	})
}

// What is no message of the protocol, and what somebody else signed, is passed
// over wherever it lies.
func TestSecureLogWithJunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSecureTraining(t, 4, 1)
		p := process{s.registry, s.broker, nil}
		forged := secagg.Closing("lab", 0, secagg.Hash{}, testKey("mallory"))
		for _, topic := range SecureTopics("lab") {
			junk := []error{
				s.broker.Publish(t.Context(), stream.Record{Topic: topic, Value: []byte("junk")}),
				s.broker.Publish(t.Context(), stream.Record{Topic: topic}),
				p.Publish(t.Context(), topic, nil, secureValue(forged)),
			}
			forged.Stage = secagg.Masked
			junk = append(junk, p.Publish(t.Context(), topic, nil, secureValue(forged)))
			forged.Stage = secagg.Closed
			if err := errors.Join(junk...); err != nil {
				t.Fatal(err)
			}
		}
		for name := range s.keys {
			s.client(name, nil)
		}
		s.server("server", nil)
		s.work.Wait()
		s.check(func(int64) []string { return names(4) })
	})
}

// Too many went away for good: the round is given up, and no model is made, until
// one of them is back.
func TestSecureRoundIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSecureTraining(t, 4, 1)
		s.client("c0", nil)
		s.client("c1", nil)
		s.client("c2", leaves("masked"))
		s.client("c3", leaves("masked"))
		s.work.Go(func() { s.server("server", nil) })
		s.untilAbort()
		if n := len(recordsOf(t, s.broker, "models")); n != 1 {
			t.Errorf("%d models, want the first alone", n)
		}
		s.client("c2", nil)
		s.work.Wait()
		s.check(func(int64) []string { return names(4, 3) })
	})
}

// untilAbort returns once an attempt was given up.
func (s *secureTraining) untilAbort() {
	l := s.log("watch", nil)
	control := l.tail("lab.control", nil)
	defer func() { _ = control.close() }()
	for {
		m, err := control.pop(s.ctx)
		if err != nil {
			s.t.Error(err)
			return
		}
		if m.Stage == secagg.Abort {
			return
		}
	}
}

func TestReadSecure(t *testing.T) {
	s := newSecureTraining(t, 2, 1)
	want := secagg.Closing("lab", 7, secagg.Hash{1, 2}, testKey("server"))
	payload, err := s.registry[2].AppendEncode(nil, secureValue(want))
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.registry[2].Decode(payload)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readSecure(data)
	if err != nil || got.Hash() != want.Hash() || got.FromServer("lab", testKey("server").Public().(ed25519.PublicKey)) != nil {
		t.Errorf("got %v, %v", got, err)
	}
	for field := range secureValue(want) {
		v := secureValue(want)
		v[field] = 3.5
		if _, err := readSecure(v); err == nil || !strings.Contains(err.Error(), "/"+field+":") {
			t.Errorf("without %s: %v", field, err)
		}
	}
}

func TestSecureConfigRefused(t *testing.T) {
	good := newSecureTraining(t, 4, 1)
	good.config.SecureLog = good.log("g", nil)
	for name, change := range map[string]func(*SecureConfig){
		"no training":        func(c *SecureConfig) { c.Training = "" },
		"no rounds":          func(c *SecureConfig) { c.Rounds = 0 },
		"no tensors":         func(c *SecureConfig) { c.Initial = nil },
		"one client":         func(c *SecureConfig) { c.Clients = c.Clients[:1] },
		"one name twice":     func(c *SecureConfig) { c.Clients = append(c.Clients[:3:3], c.Clients[0]) },
		"a low threshold":    func(c *SecureConfig) { c.Threshold = 2 },
		"a negative one":     func(c *SecureConfig) { c.Threshold = -1 },
		"a huge one":         func(c *SecureConfig) { c.Threshold = 1<<16 + 3 },
		"no key":             func(c *SecureConfig) { c.Key = nil },
		"a weight too large": func(c *SecureConfig) { c.MaxWeight = 1 << 30 },
		"a negative clip":    func(c *SecureConfig) { c.Clip = -1 },
		"krum":               func(c *SecureConfig) { c.Strategy = "krum" },
		"fednova":            func(c *SecureConfig) { c.Strategy = "fednova" },
		"qfedavg":            func(c *SecureConfig) { c.Strategy = "qfedavg" },
		"fedbuff":            func(c *SecureConfig) { c.Strategy = "fedbuff" },
		"nonsense":           func(c *SecureConfig) { c.Strategy = "x" },
	} {
		c := good.config
		change(&c)
		if _, err := newSecureServer(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for _, strategy := range []string{"", "fedprox:mu=0.1", "fedavgm:momentum=0.9", "fedadam", "fedyogi", "fedadagrad"} {
		c := good.config
		c.Strategy = strategy
		if _, err := newSecureServer(c); err != nil {
			t.Errorf("%q: %v", strategy, err)
		}
	}
	if err := JoinSecurely(t.Context(), SecureClientConfig{}); err == nil {
		t.Error("a client without anything")
	}
}
