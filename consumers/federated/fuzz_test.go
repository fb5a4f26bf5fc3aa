package federated

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"penstock/consumers"
	"penstock/consumers/federated/strategies"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
)

// nextOf takes the next of payloads, each behind two bytes of its length, and decodes it.
// v is nil for one that does not fit the schema.
func nextOf(s schemas.Schema, payloads []byte) (v any, rest []byte) {
	n := int(binary.BigEndian.Uint16(payloads))
	payload, rest := payloads[2:][:min(n, len(payloads)-2)], payloads[2:]
	v, err := schemas.Decode(s, payload, schemas.Limits{})
	if err != nil {
		v = nil
	}
	return v, rest[len(payload):]
}

// payloadsOf are the records of a message, as nextOf takes them.
func payloadsOf(f *testing.F, s schemas.Schema, value map[string]any, size int) (payloads []byte) {
	f.Helper()
	for v := range split(value, size) {
		b, err := s.AppendEncode(nil, v)
		if err != nil {
			f.Fatal(err)
		}
		payloads = append(binary.BigEndian.AppendUint16(payloads, uint16(len(b))), b...)
	}
	return payloads
}

// encodedAgain encodes a value that was read, and fails if that cannot be.
func encodedAgain(t *testing.T, s schemas.Schema, value map[string]any) []byte {
	t.Helper()
	b, err := s.AppendEncode(nil, value)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzModels takes what may lie on a topic of models: a model that is read means
// the same when it is published again.
func FuzzModels(f *testing.F) {
	schema := newRegistry(f)[1]
	m := Model{
		Round: 1, Rounds: 3, Hash: Hash{}, Base: Hash{1}, Clients: []string{"a", "b"}, Sample: []string{"a"},
		Contributions: []Contribution{{Client: "a", Samples: 1, Norm: 2, Loss: 0.5}}, Positions: []Position{{Cluster: "c", Next: 9}},
		State: strategies.State{"m": {1, 2}}, Parameters: someModel(1).Parameters,
		Privacy: &Privacy{Clip: 1}, Trust: &Trust{Authority: "key", Next: 4},
	}
	m.Hash = hashOf(m.Parameters)
	f.Add(payloadsOf(f, schema, m.value(), 1<<20))
	f.Add(payloadsOf(f, schema, m.value(), 9))
	f.Fuzz(func(t *testing.T, payloads []byte) {
		joiner := NewJoiner()
		defer joiner.Close()
		for len(payloads) >= 2 {
			var v any
			if v, payloads = nextOf(schema, payloads); v == nil {
				continue
			}
			m, whole, err := joiner.Model(v)
			if err != nil || !whole {
				continue
			}
			first := encodedAgain(t, schema, m.value())
			decoded, err := schema.Decode(first)
			if err != nil {
				t.Fatal(err)
			}
			n, err := ReadModel(decoded)
			if err != nil {
				t.Fatal(err)
			}
			if second := encodedAgain(t, schema, n.value()); !bytes.Equal(first, second) {
				t.Fatalf("published as\n%x\nand again as\n%x", first, second)
			}
		}
	})
}

// FuzzUpdates takes what may lie on a topic of updates, of one client, and what they say
// of a model: an update is the same each time that it is read, and of finite numbers.
func FuzzUpdates(f *testing.F) {
	schema := newRegistry(f)[2]
	base := []Tensor{{Name: "w", Shape: []int{2, 3}, Values: []float32{1, 2, 3, 4, 5, 6}}, {Name: "b", Shape: []int{}, Values: []float32{7}}}
	u := Update{Client: "c", Round: 1, Base: hashOf(base), Samples: 3, Parameters: base}
	for _, kind := range []string{"", "fp16", "int8", "top:0.5"} {
		compression, err := ParseCompression(kind)
		if err != nil {
			f.Fatal(err)
		}
		if u.Parameters, err = compression.pack([]Tensor{{Name: "w", Shape: []int{2, 3}, Values: []float32{0, 2, 3, 9, 5, 1e9}}, base[1]}, base); err != nil {
			f.Fatal(err)
		}
		f.Add(payloadsOf(f, schema, u.value(), 1<<20))
		f.Add(payloadsOf(f, schema, u.value(), 7))
	}
	f.Fuzz(func(t *testing.T, payloads []byte) {
		joiner := NewJoiner()
		defer joiner.Close()
		var whole []func() (Update, error)
		for offset := int64(0); len(payloads) >= 2; offset++ {
			var v any
			if v, payloads = nextOf(schema, payloads); v == nil {
				continue
			}
			m := consumers.Message{Record: stream.Record{Key: []byte("c"), Offset: offset}, Data: v}
			read, err := joiner.Update(m, func(Update) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			if read != nil {
				whole = append(whole, read)
			}
		}
		for _, read := range whole {
			u, err := read()
			if err != nil {
				continue
			}
			twice, err := read()
			if err != nil || hashOf(twice.Parameters) != hashOf(u.Parameters) {
				t.Fatalf("read twice: %v", err)
			}
			if fit(u.Parameters, base) != nil {
				continue
			}
			for _, v := range flat(u.Parameters) {
				if !finite(float64(v)) {
					t.Fatalf("counts: %v", u.Parameters)
				}
			}
		}
	})
}

// FuzzPartials takes what edges may say that they have added up: what is accepted makes a
// model, whatever it is.
func FuzzPartials(f *testing.F) {
	schema := newRegistry(f)[2]
	base := Model{Rounds: 2, Clients: []string{"a", "e"}, Edges: []string{"e"}, Strategy: "fedavg",
		Parameters: []Tensor{{Name: "w", Shape: []int{2}, Values: []float32{1, -1}}}}
	base.Hash = hashOf(base.Parameters)
	number := func(x, y float64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, math.Float64bits(x)), math.Float64bits(y))
	}
	f.Add(int64(3), int64(1), int64(4), int64(2), 7.0, 0.0, 0.5, int64(3), false, number(7, -7))
	f.Add(int64(3), int64(1), int64(4), int64(1), 7.0, 0.0, 0.5, int64(2), true, binary.LittleEndian.AppendUint64(make([]byte, 8), 7*exactUnit))
	f.Add(int64(3), int64(1), int64(4), int64(2), 7.0, 0.0, 0.5, int64(3), false, number(1e300, 0))
	f.Add(int64(3), int64(1), int64(4), int64(2), 7.0, 0.0, 1e308, int64(3), false, number(7, 7))
	f.Add(int64(3), int64(1), int64(4), int64(1), 7.0, 1e259, 0.5, int64(2), false, number(7e38, -7e38))
	f.Fuzz(func(t *testing.T, samples, updates, samples2, updates2 int64, weight, scalar, loss float64, whole int64, exact bool, sums []byte) {
		if len(sums) < 16 {
			return
		}
		m, tensor := base, Tensor{Name: "w", Shape: []int{2}, DType: Summed, Packed: sums[:16]}
		if exact {
			m.Sum, tensor.DType = SumExact, ExactlySummed
		}
		p := Partial{Totals: strategies.Totals{Updates: max(1, updates) + max(1, updates2), Weight: weight, Scalar: scalar}, Whole: whole, Contributions: []Contribution{
			{Client: "b", Samples: samples, Updates: updates}, {Client: "c", Samples: samples2, Updates: updates2},
		}}
		v, err := schema.Decode(encodedAgain(t, schema, Update{
			Client: "e", Base: m.Hash, Samples: samples + samples2, Loss: loss, Partial: &p, Parameters: []Tensor{tensor},
		}.value()))
		if err != nil {
			t.Fatal(err)
		}
		u, err := ReadUpdate(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []strategies.Linear{strategies.FedAvg{}, strategies.FedNova{}} {
			c, err := u.summed(m, s)
			if err != nil {
				continue
			}
			var sum partial
			for range 2 { // as if of two edges
				sum.merge(m, u, c)
			}
			next, err := step(m, s, []*partial{&sum}, nil)
			if err != nil || !finite(c.Norm) {
				t.Fatalf("%v of %+v gives %v, and the norm %v", s, p, err, c.Norm)
			}
			if loss, _ := next.Loss(); !finite(loss) {
				t.Fatalf("the loss of %+v is %v", c, loss)
			}
		}
	})
}

// FuzzSecureMessage takes what may lie on the topics of secure aggregation.
func FuzzSecureMessage(f *testing.F) {
	schema, err := avro.Format{}.Parse(SecureSchema(), nil)
	if err != nil {
		f.Fatal(err)
	}
	seed := append([]byte{0, 2, 't', 2, 4}, make([]byte, 32)...)
	f.Add(append(append(seed, 2, 'c'), make([]byte, 32+1+64)...))
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := schemas.Decode(schema, payload, schemas.Limits{})
		if err != nil {
			return
		}
		m, err := readSecure(v)
		if err != nil {
			t.Fatalf("a value of the schema is no message: %v", err)
		}
		first := encodedAgain(t, schema, secureValue(m))
		if second, err := schema.Decode(first); err != nil {
			t.Fatal(err)
		} else if n, err := readSecure(second); err != nil || n.Hash() != m.Hash() {
			t.Fatalf("published again it is another: %v", err)
		}
	})
}
