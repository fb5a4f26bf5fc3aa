package secagg

import (
	"testing"
)

// Payloads that are signed by whom they come from, and are anything else. Neither
// side may panic, and a refusal changes nothing that counts: the round goes on
// to the right sum.

// seedsOf are the payloads of a whole run, by stage.
func seedsOf(f *testing.F, w *world) {
	for _, m := range w.records {
		f.Add(byte(m.Stage), m.Payload)
	}
	for stage, messages := range w.sent {
		f.Add(byte(stage), messages[0].Payload)
	}
	for stage := range 11 {
		f.Add(byte(stage), []byte{})
		f.Add(byte(stage), []byte{0xff, 0xff, 0xff, 0xff, 0, 0})
	}
}

func FuzzServer(f *testing.F) {
	w := newWorld(f, 3, 2)
	w.at(Agreed)
	for i, c := range w.clients {
		out, err := c.Receive(w.records[4])
		if err != nil {
			f.Fatal(err)
		}
		w.send(i, out)
	}
	seedsOf(f, w)
	servers := map[Stage]func() *Server{}
	for i, stage := range clientStages {
		servers[stage] = func() *Server {
			s := w.newServer()
			for _, m := range w.records[:i+1] {
				if err := s.Record(m); err != nil {
					f.Fatal(err)
				}
			}
			cut := world{t: f, sent: map[Stage][]Message{}}
			for _, before := range clientStages[:i] {
				cut.sent[before] = w.sent[before]
			}
			cut.replay(s)
			return s
		}
	}
	f.Fuzz(func(t *testing.T, stage byte, payload []byte) {
		at := Stage(stage)
		if at.ofServer() {
			// A list on the log that nobody made.
			if i := int(at / 2); i < len(w.records) {
				m := w.records[i]
				s := w.newServer()
				for _, m := range w.records[:i] {
					if err := s.Record(m); err != nil {
						t.Fatal(err)
					}
				}
				_ = s.Record(w.forged(m, payload))
				w.replay(s)
				if s.Complete() {
					_, _ = s.Sum()
				}
			}
			return
		}
		fresh, ok := servers[at]
		if !ok {
			return
		}
		s := fresh()
		m := w.sent[at][0]
		m.Payload = payload
		m.sign(w.keys[0])
		refused := s.Receive(m) != nil
		for _, m := range w.sent[at][1:] {
			if err := s.Receive(m); err != nil {
				t.Fatalf("a message after it: %v", err)
			}
		}
		if refused {
			if err := s.Receive(w.sent[at][0]); err != nil {
				t.Fatalf("the right message after a refused one: %v", err)
			}
			if !s.Complete() {
				t.Fatal("the stage is not complete")
			}
		}
	})
}

func FuzzClient(f *testing.F) {
	w := newWorld(f, 3, 2)
	w.at(Agreed)
	seedsOf(f, w)
	noisy := w.config.Settings
	noisy.Encoding = withNoise(f, 3, 3, 2, 1, 1)
	f.Add(byte(Open), noisy.append(nil))
	f.Fuzz(func(t *testing.T, stage byte, payload []byte) {
		at := Stage(stage)
		if at == Open {
			_, _, _ = Join(w.clientConfig(0), w.forged(w.records[0], payload), nil)
			_, _, _ = Join(w.clientConfig(0), w.records[0], payload)
			return
		}
		c, _, err := Join(w.clientConfig(0), w.records[0], w.states[0])
		if err != nil {
			t.Fatal(err)
		}
		c.state.roster, c.state.shared, c.state.survived = Hash{}, Hash{}, Hash{}
		for _, m := range w.records[1:] {
			if m.Stage == at {
				_, _ = c.Receive(w.forged(m, payload))
				return
			}
			if _, err := c.Receive(m); err != nil {
				t.Fatal(err)
			}
			if m.Stage == Shared {
				if at == Shares {
					_ = c.take(2, payload) // what Receive does with a payload that is on the list
					return
				}
				for _, m := range w.sent[Shares] {
					_, _ = c.Receive(m)
				}
			}
		}
	})
}
