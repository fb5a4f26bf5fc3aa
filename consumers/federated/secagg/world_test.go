package secagg

import (
	"bytes"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
)

// world is an attempt with everything in memory. It is the same each time: its
// secrets follow from names.
type world struct {
	t       testing.TB
	keys    []ed25519.PrivateKey // of the clients
	config  ServerConfig
	records []Message           // of the server, as on the log
	sent    map[Stage][]Message // of the clients, as on the log
	server  *Server
	clients []*Client
	values  [][]float32
	// tamper, if not nil, sees what is sent before the log does.
	tamper func(m *Message)
	// restart starts the server again, from the log, before each step, and each
	// client before each message, from its state.
	restart bool
	states  [][]byte
}

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func newWorld(t testing.TB, clients, elements int) *world {
	t.Helper()
	w := &world{t: t, sent: map[Stage][]Message{}, states: make([][]byte, clients), clients: make([]*Client, clients)}
	w.config = ServerConfig{Training: "digits", Round: 3, Attempt: 1, Base: sha256.Sum256([]byte("model")), Key: keyOf("server")}
	w.config.Settings = Settings{
		Threshold: uint16(LeastThreshold(clients)), Elements: uint32(elements),
		Encoding: Encoding{Bits: MostBits(clients, 5), Clip: 2, MaxWeight: 5},
	}
	for i := range clients {
		name := fmt.Sprintf("c%03d", i)
		w.keys = append(w.keys, keyOf(name))
		w.config.Settings.Clients = append(w.config.Settings.Clients, Participant{name, w.keys[i].Public().(ed25519.PublicKey)})
		values := make([]float32, elements)
		for k := range values {
			values[k] = float32((i*31+k*17)%97)/24 - 2.02
		}
		w.values = append(w.values, values)
	}
	w.server = w.newServer()
	return w
}

func (w *world) newServer() *Server {
	s, err := NewServer(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// resume is a server that was started again: it reads its records, and then the
// topics of the stages that it asks for.
func (w *world) resume() *Server {
	w.t.Helper()
	s := w.newServer()
	for _, m := range w.records {
		if err := s.Record(m); err != nil {
			w.t.Fatal(err)
		}
	}
	w.replay(s)
	return s
}

func (w *world) replay(s *Server) {
	for {
		stage, ok := s.Collecting()
		for _, m := range w.sent[stage] {
			_ = s.Receive(m)
		}
		if again, _ := s.Collecting(); !ok || again == stage {
			return
		}
	}
}

// step puts the server's next record on the log.
func (w *world) step() (Message, error) {
	if w.restart {
		w.server = w.resume()
	}
	m, err := w.server.Next()
	if err != nil {
		return m, err
	}
	w.records = append(w.records, m)
	if err := w.server.Record(m); err != nil {
		w.t.Fatal(err)
	}
	return m, nil
}

// send puts messages of client i on the log and hands them to the server.
func (w *world) send(i int, messages []Message) {
	w.t.Helper()
	w.states[i] = w.clients[i].State()
	for _, m := range messages {
		if w.tamper != nil {
			w.tamper(&m)
		}
		w.sent[m.Stage] = append(w.sent[m.Stage], m)
		if err := w.server.Receive(m); err != nil && w.tamper == nil {
			w.t.Fatal(err)
		}
	}
}

// encapsulateFrom draws what ML-KEM needs from a stream.
func encapsulateFrom(random io.Reader) func([]byte) ([]byte, []byte, error) {
	return func(public []byte) ([]byte, []byte, error) {
		k, err := mlkem.NewEncapsulationKey768(public[x25519Size:])
		if err != nil {
			return nil, nil, err
		}
		var coins [32]byte
		if _, err := io.ReadFull(random, coins[:]); err != nil {
			return nil, nil, err
		}
		return mlkemtest.Encapsulate768(k, coins[:])
	}
}

// streamReader reads a named stream.
type streamReader struct{ xor func(dst, src []byte) }

func randomOf(name string) io.Reader {
	return streamReader{streamOf([]byte(name), "test").XORKeyStream}
}

func (r streamReader) Read(b []byte) (int, error) {
	clear(b)
	r.xor(b, b)
	return len(b), nil
}

func (w *world) clientConfig(i int) ClientConfig {
	p := w.config.Settings.Clients[i]
	return ClientConfig{
		Training: w.config.Training, Name: p.Name, Key: w.keys[i], Server: w.config.Key.Public().(ed25519.PublicKey),
		Random: randomOf(p.Name), encapsulate: encapsulateFrom(randomOf(p.Name + " KEM")),
	}
}

// join starts client i.
func (w *world) join(i int) []Message {
	w.t.Helper()
	c, out, err := Join(w.clientConfig(i), w.records[0], nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.clients[i] = c
	return out
}

// again is client i, started with the state it kept, and what it sends up to
// where it is.
func (w *world) again(i int) []Message {
	w.t.Helper()
	config := w.clientConfig(i)
	config.Random = bytes.NewReader(nil) // it draws nothing new
	c, out, err := Join(config, w.records[0], w.states[i])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range w.records[1:] {
		answers, err := c.Receive(m)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, answers...)
		if m.Stage == Shared {
			for _, m := range w.sent[Shares] {
				_, _ = c.Receive(m)
			}
			if len(c.state.masked) > 0 {
				answers, err := c.Mask(nil, 0)
				if err != nil {
					w.t.Fatal(err)
				}
				out = append(out, answers...)
			}
		}
	}
	w.clients[i] = c
	return out
}

// drops says before which stage a client goes away.
type drops map[int]Stage

// run goes through the protocol and returns the sum.
func (w *world) run(d drops) ([]uint32, error) {
	w.t.Helper()
	lives := func(i int, stage Stage) bool {
		at, drops := d[i]
		return !drops || stage < at
	}
	_, err := w.step()
	if err != nil {
		return nil, err
	}
	for i := range w.clients {
		if lives(i, Keys) {
			w.send(i, w.join(i))
		}
	}
	for _, stage := range []Stage{Shares, Masked, Confirm, Unmask} {
		m, err := w.step()
		if err != nil {
			return nil, err
		}
		for i, c := range w.clients {
			if !lives(i, stage) {
				continue
			}
			if w.restart {
				w.again(i)
				c = w.clients[i]
			}
			out, err := c.Receive(m)
			if err != nil {
				return nil, err
			}
			if stage == Masked {
				for _, m := range w.sent[Shares] {
					_, _ = c.Receive(m)
				}
				if out, err = c.Mask(w.values[i], w.weight(i)); err != nil {
					return nil, err
				}
			}
			w.send(i, out)
		}
	}
	if w.restart {
		w.server = w.resume()
	}
	if !w.server.Complete() {
		return nil, fmt.Errorf("unmask: %w", ErrTooFew)
	}
	return w.server.Sum()
}

func (w *world) weight(i int) uint32 { return min(uint32(1+i%5), w.config.Settings.MaxWeight) }

// plain is the sum without any masks, but with noise, of all but those who went away before
// their vector came.
func (w *world) plain(d drops) []uint32 {
	w.t.Helper()
	sum := make([]uint32, w.config.Settings.whole())
	for i := range w.keys {
		if at, drops := d[i]; drops && at <= Masked {
			continue
		}
		var entropy secret
		if _, err := randomOf(w.config.Settings.Clients[i].Name).Read(entropy[:]); err != nil {
			w.t.Fatal(err)
		}
		v, err := w.config.Settings.encode(w.values[i], w.weight(i), streamOf(entropy[:], "rounding"))
		if err != nil {
			w.t.Fatal(err)
		}
		w.config.Settings.blur(v, streamOf(entropy[:], "noise"))
		for k, x := range v {
			sum[k] += x
		}
	}
	return sum
}

// mustSum runs the protocol and compares with the plain sum.
func (w *world) mustSum(d drops) {
	w.t.Helper()
	got, err := w.run(d)
	if err != nil {
		w.t.Fatalf("drops %v: %v", d, err)
	}
	if !slices.Equal(got, w.plain(d)) {
		w.t.Errorf("drops %v: the sum is not the plain one", d)
	}
}

// reasonOf is the reason of a refusal, or what else err is.
func reasonOf(err error) Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	if err != nil {
		return Reason(err.Error())
	}
	return ""
}
