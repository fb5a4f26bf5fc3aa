package federated

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/nats"
)

// What the clients in Go and in Python write for one update is the same to the byte,
// and so are a model's hash and a key's partition.
func TestPythonWritesTheSameBytes(t *testing.T) {
	const script = `
import json, struct, sys
import numpy as np
from penstock import avro, broker, federated, pieces
ask = json.load(sys.stdin)
p = {t["name"]: np.array(t["bits"], "<u4").view("<f4").reshape(t["shape"]) for t in ask["tensors"]}
u = federated.Update(ask["client"], ask["round"], federated.hash_of(p), ask["samples"], p, ask["loss"], ask["steps"])
payload = avro.encode(json.loads(ask["update"]), u.value())
records = [avro.encode(json.loads(ask["update"]), v) for v in pieces.split(u.value(), ask["piece"])]
model = federated.read_model(avro.decode(json.loads(ask["model"]), bytes.fromhex(ask["encoded"])))
joiner = pieces.Joiner()
parts = [avro.decode(json.loads(ask["model"]), bytes.fromhex(part)) for part in ask["parts"]]
*few, joined = [joiner.add(part) for part in parts[:2] + parts]
assert few == [None] * len(few) and federated.read_model(joined).hash == model.hash, few
assert [bytes(s["data"]).hex() for s in joined["state"]] == ["000000000000f03f0000000000000040"]
for wrong in (parts[1:], parts[:1] + parts[2:], parts[:-1] + [{**parts[-1], "piece": {**parts[-1]["piece"], "sizes": [1]}}]):
    joiner = pieces.Joiner()
    try:
        for part in wrong: joiner.add(part)
        raise AssertionError("joined")
    except ValueError: pass
assert {n: a.tobytes() for n, a in model.parameters.items()} == {n: a.tobytes() for n, a in p.items()}
assert (model.round, model.rounds, model.clients, model.strategy) == (3, 7, ["a", "ü"], "fedadam:eta=0.5"), model
assert avro.decode(json.loads(ask["update"]), payload)["client"] == ask["client"]
print(payload.hex(), "".join(r.hex() for r in records), model.hash.hex(), *[broker.partition_for(bytes.fromhex(k), 7) for k in ask["keys"]])
`
	parameters := []Tensor{
		{Name: "weight", Shape: []int{2, 3}, Values: []float32{0, float32(math.Copysign(0, -1)), 1, -2.5e-42, math.MaxFloat32, -math.Pi}},
		{Name: "größe", Shape: []int{}, Values: []float32{0.1}},
		{Name: "none", Shape: []int{0, 4}, Values: []float32{}},
	}
	u := Update{Client: "ü", Round: 1 << 40, Base: hashOf(parameters), Samples: 12345, Loss: 0.1, Steps: -3, Parameters: parameters}
	m := Model{
		Round: 3, Rounds: 7, Hash: u.Base, Base: u.Base, Clients: []string{"a", "ü"}, Strategy: "fedadam:eta=0.5",
		Contributions: []Contribution{{Client: "a", Samples: 1, Norm: 2}}, Positions: []Position{{Cluster: "c", Next: 9}},
		State: map[string][]float64{"m": {1, 2}}, Parameters: parameters,
	}
	var tensors []map[string]any
	for _, p := range parameters {
		bits := []uint32{}
		for _, v := range p.Values {
			bits = append(bits, math.Float32bits(v))
		}
		tensors = append(tensors, map[string]any{"name": p.Name, "shape": p.Shape, "bits": bits})
	}
	var records, parts []string
	const piece = 10
	for record := range split(u.value(), piece) {
		records = append(records, hex.EncodeToString(encoded(t, 2, record)))
	}
	for record := range split(m.value(), piece) {
		parts = append(parts, hex.EncodeToString(encoded(t, 1, record)))
	}
	if len(records) != 3 || len(parts) != 5 {
		t.Fatalf("%d and %d records", len(records), len(parts))
	}
	want := []any{hex.EncodeToString(encoded(t, 2, u.value())), strings.Join(records, ""), hex.EncodeToString(u.Base[:])}
	var keys []string
	for _, key := range []string{"", "a", "ann", "1234", "größer als vier", "\x00\xff\x80"} {
		keys = append(keys, hex.EncodeToString([]byte(key)))
		want = append(want, stream.PartitionFor([]byte(key), 7))
	}
	ask, err := json.Marshal(map[string]any{
		"client": u.Client, "round": u.Round, "samples": u.Samples, "loss": u.Loss, "steps": u.Steps, "tensors": tensors,
		"update": UpdateSchema(), "model": ModelSchema(), "encoded": hex.EncodeToString(encoded(t, 1, m.value())), "keys": keys,
		"piece": piece, "parts": parts,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := python(t, script, ask); got != fmt.Sprintln(want...) {
		t.Errorf("got\n%s\nwant\n%s", got, fmt.Sprintln(want...))
	}
}

// So do their compressions, round after round.
func TestPythonCompressesToTheSameBytes(t *testing.T) {
	const script = `
import json, sys
import numpy as np
from penstock.compress import Compression
ask = json.load(sys.stdin)
floats = lambda bits: np.array(bits, "<u4").view("<f4")
for text in ask["kinds"]:
    c = Compression(text)
    for bits in ask["rounds"]:
        print(*[t["dtype"] + " " + t["data"].hex() for t in c.pack({"w": floats(bits)}, {"w": floats(ask["base"])})])
`
	random := rand.New(rand.NewPCG(1, 2))
	numbers := func() []float32 {
		out := make([]float32, 700)
		for i := range out {
			out[i] = float32(random.NormFloat64() * math.Exp(4*random.NormFloat64()))
			if random.IntN(5) == 0 {
				out[i] = float32(random.IntN(3)) // so that some are alike
			}
		}
		return out
	}
	base := numbers()
	kinds, rounds := []string{"fp16", "int8", "top:0.1", "top:1"}, [][]float32{numbers(), numbers(), base, numbers()}
	tensor := func(values []float32) []Tensor {
		return []Tensor{{Name: "w", Shape: []int{len(values)}, Values: values}}
	}
	bits := func(values []float32) []uint32 {
		out := make([]uint32, len(values))
		for i, v := range values {
			out[i] = math.Float32bits(v)
		}
		return out
	}
	ask := map[string]any{"kinds": kinds, "base": bits(base)}
	var all [][]uint32
	for _, r := range rounds {
		all = append(all, bits(r))
	}
	ask["rounds"] = all
	var want strings.Builder
	for _, text := range kinds {
		c, err := ParseCompression(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rounds {
			packed, err := c.pack(tensor(r), tensor(base))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&want, "%s %x\n", packed[0].DType, packed[0].Packed)
		}
	}
	input, err := json.Marshal(ask)
	if err != nil {
		t.Fatal(err)
	}
	if got := python(t, script, input); got != want.String() {
		t.Errorf("got\n%.300s\nwant\n%.300s", got, want.String())
	}
}

// A client that failed to publish, and one that was started again, send the bytes that
// they wrote first, whatever training anew would make.
func TestPythonResendsTheSameBytes(t *testing.T) {
	const script = `
import json, struct, sys, tempfile
import numpy as np
from penstock import avro, broker, federated
ask = json.load(sys.stdin)
value = b"\0" + struct.pack(">I", 1) + bytes.fromhex(ask["model"])
class Broker:
    sent = []
    def newest(self, topic, after, wait): return None if after else (1, value, {})
    def publish(self, topic, key, value):
        Broker.sent.append((topic, key, value))
        if len(Broker.sent) == 1: raise broker.BrokerError("the answer was lost")
    def close(self): pass
class Registry:
    def schema(self, number): return json.loads(ask["schemas"][number - 1])
    def latest(self, subject): return 2, json.loads(ask["schemas"][1])
federated.open_broker = lambda url: Broker()
folder = tempfile.mkdtemp()
for life in range(3):
    with federated.Training("t", "c0", registry="http://none", keep=folder if life else None) as t:
        t._registry = Registry()
        m = t.receive()
        for _ in range(2):
            t.publish(m, {"w": np.random.default_rng().random(1)}, 5, {"loss": 0.5, "steps": 7})
topics = {(topic, key) for topic, key, _ in Broker.sent}
sent = avro.decode(json.loads(ask["schemas"][1]), Broker.sent[0][2][5:])
for wrong in ({"los": 1}, {"loss": float("nan")}):
    try: federated.Training("t", "c0", registry="http://none").publish(m, m.parameters, 5, wrong)
    except ValueError as e: print(e)
print(sent["samples"], sent["loss"], sent["steps"])
print(len(Broker.sent), topics, [len(set(v for *_, v in Broker.sent[a:b])) for a, b in ((0, 3), (3, 7))])
`
	ask, err := json.Marshal(map[string]any{
		"model": hex.EncodeToString(encoded(t, 1, someModel(1).value())), "schemas": []string{ModelSchema(), UpdateSchema()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := python(t, script, ask), "metrics: expected loss and steps, found 'los'\nmetrics: expected a finite loss, found nan\n5 0.5 7\n7 {('t.updates', b'c0')} [1, 1]\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// encoded is v by the schema of that id in newRegistry.
func encoded(t *testing.T, id int, v any) []byte {
	t.Helper()
	b, err := newRegistry(t)[id].AppendEncode(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// python runs a script with clients/python at hand, and returns what it prints.
func python(t *testing.T, script string, input []byte) string {
	t.Helper()
	client, err := filepath.Abs("../../clients/python")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), servertest.Python(t), "-c", script)
	cmd.Env = append(cmd.Environ(), "PYTHONPATH="+client, "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python: %v\n%s", err, stderr.String())
	}
	return string(out)
}

// A model that is published behind a fence lies between other things: positions on
// JetStream, and on Kafka the marks of transactions, and what was given up.
func TestPythonReadsBehindAFence(t *testing.T) {
	const script = `
import json, sys
from penstock import broker
ask = json.load(sys.stdin)
topic = ask["topic"]
if ask["url"].startswith("nats:"):
    b, abort = broker.Nats(ask["url"], {}), lambda: None
else:
    from confluent_kafka import Producer
    b = broker.Kafka(ask["url"], {})
    p = Producer({"bootstrap.servers": ask["url"], "transactional.id": topic})
    p.init_transactions()
    def abort():
        p.begin_transaction()
        for i in range(100): p.produce(topic, b"given up", partition=0)
        p.flush()
        p.abort_transaction()
abort()
last = b.newest(topic, None, 30)
print(last[1].decode(), [v.decode() for v in b.between(topic, 0, last[0])])
b.close()
`
	for name, connect := range map[string]func(testing.TB) (stream.Broker, string, error){
		"kafka": func(t testing.TB) (stream.Broker, string, error) {
			url := servertest.Kafka(t)
			b, err := kafka.Open(t.Context(), kafka.Config{Seeds: strings.Split(url, ",")})
			return b, url, err
		},
		"nats": func(t testing.TB) (stream.Broker, string, error) {
			url := servertest.NATS(t)
			b, err := nats.Open(t.Context(), nats.Config{URL: url})
			return b, url, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, url, err := connect(t)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			topic := servertest.Name(t)
			if err := b.Create(t.Context(), topic, 1); err != nil {
				t.Fatal(err)
			}
			tx, _, err := b.(stream.Resumer).Resume(t.Context(), topic, fenceName)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			for _, v := range []string{"a", "b", "c"} {
				if err := tx.Commit(t.Context(), []stream.Record{{Topic: topic, Key: []byte("k"), Value: []byte(v)}}, stream.Position{}); err != nil {
					t.Fatal(err)
				}
			}
			ask, err := json.Marshal(map[string]string{"url": url, "topic": topic})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := python(t, script, ask), "c ['a', 'b', 'c']\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
