package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"penstock/consumers/federated/secagg"
)

// secureFigure is what a round of secure aggregation took.
type secureFigure struct {
	Name       string  `json:"name"`
	Clients    int     `json:"clients"`
	Dropped    int     `json:"dropped"`
	Parameters int     `json:"parameters"`
	Seconds    float64 `json:"seconds"` // all clients and the server, one after the other
	Raw        float64 `json:"raw_seconds"`
	Ratio      float64 `json:"ratio"`
	Server     float64 `json:"server_seconds"`
	Client     float64 `json:"client_seconds"` // of one, on the average
	// Where the time went, in seconds.
	Keys   float64 `json:"keys_seconds"`
	Shares float64 `json:"shares_seconds"`
	Masks  float64 `json:"masks_seconds"`
	Sum    float64 `json:"sum_seconds"`    // adding up what came
	Unmask float64 `json:"unmask_seconds"` // of clients and server
	Sent   int     `json:"bytes_of_a_client"`
	CPUs   int     `json:"cpus"`
}

// secureRound is a round in memory.
type secureRound struct {
	server  *secagg.Server
	clients []*secagg.Client
	shares  []secagg.Message
	figure  secureFigure
}

// timed adds what fn takes to a phase and to who does it.
func (r *secureRound) timed(phase *float64, server bool, fn func() error) error {
	began := time.Now()
	err := fn()
	took := time.Since(began).Seconds()
	*phase += took
	r.figure.Seconds += took
	if server {
		r.figure.Server += took
	} else {
		r.figure.Client += took / float64(r.figure.Clients)
	}
	return err
}

// record makes the server's next record.
func (r *secureRound) record(phase *float64) (m secagg.Message, err error) {
	err = r.timed(phase, true, func() error {
		if m, err = r.server.Next(); err != nil {
			return err
		}
		return r.server.Record(m)
	})
	return m, err
}

// hand has the server take what a client sends.
func (r *secureRound) hand(phase *float64, out []secagg.Message) error {
	return r.timed(phase, true, func() error {
		for _, m := range out {
			r.figure.Sent += len(m.Payload)
			if err := r.server.Receive(m); err != nil {
				return err
			}
		}
		return nil
	})
}

// secure measures a round of secure aggregation in which as many clients drop out
// as may, right before they would send their vectors.
func (c *benchFederatedCmd) secure(_ context.Context, t *terminal) error {
	if c.Secure < 4 || c.Secure > secagg.MaxClients || c.Parameters < 1 || c.Parameters > 1<<26 {
		return usagef("expected from 4 to %d clients, and at most %d parameters", secagg.MaxClients, 1<<26)
	}
	n, values := c.Secure, make([]float32, c.Parameters)
	for i := range values {
		values[i] = float32(i%1013)/1013 - 0.5
	}
	_, serverKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	settings := secagg.Settings{
		Threshold: uint16(secagg.LeastThreshold(n)), Elements: uint32(c.Parameters),
		Encoding: secagg.Encoding{Bits: secagg.MostBits(n, 1), Clip: 1, MaxWeight: 1},
	}
	keys := make([]ed25519.PrivateKey, n)
	for i := range keys {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		keys[i] = key
		settings.Clients = append(settings.Clients, secagg.Participant{Name: fmt.Sprintf("c%03d", i), Key: public})
	}
	server, err := secagg.NewServer(secagg.ServerConfig{Training: "bench", Key: serverKey, Settings: settings})
	if err != nil {
		return err
	}
	left := n - secagg.LeastThreshold(n)
	r := secureRound{server: server, clients: make([]*secagg.Client, n)}
	f := &r.figure
	*f = secureFigure{Name: "federated secure", Clients: n, Dropped: left, Parameters: c.Parameters, CPUs: runtime.GOMAXPROCS(0)}
	bar := t.progress(f.Name, int64(2*n))
	open, err := r.record(&f.Keys)
	if err != nil {
		return err
	}
	public, _ := serverKey.Public().(ed25519.PublicKey)
	for i := range r.clients {
		var out []secagg.Message
		if err := r.timed(&f.Keys, false, func() (err error) {
			r.clients[i], out, err = secagg.Join(secagg.ClientConfig{Training: "bench", Name: settings.Clients[i].Name, Key: keys[i], Server: public}, open, nil)
			return err
		}); err != nil {
			return err
		}
		if err := r.hand(&f.Keys, out); err != nil {
			return err
		}
	}
	for _, stage := range []secagg.Stage{secagg.Shares, secagg.Masked, secagg.Confirm, secagg.Unmask} {
		phase := map[secagg.Stage]*float64{secagg.Shares: &f.Shares, secagg.Masked: &f.Masks, secagg.Confirm: &f.Unmask, secagg.Unmask: &f.Unmask}[stage]
		record, err := r.record(phase)
		if err != nil {
			return err
		}
		for i, client := range r.clients {
			if stage >= secagg.Masked && i < left {
				continue
			}
			var out []secagg.Message
			if err := r.timed(phase, false, func() error { return r.answer(client, record, values, &out) }); err != nil {
				return err
			}
			to := phase
			switch stage {
			case secagg.Shares:
				r.shares = append(r.shares, out...)
			case secagg.Masked:
				to = &f.Sum
			}
			if err := r.hand(to, out); err != nil {
				return err
			}
			if stage <= secagg.Masked {
				bar.add(1)
			}
		}
	}
	if err := r.timed(&f.Unmask, true, func() error {
		sum, err := server.Sum()
		if err != nil {
			return err
		}
		_, mean, err := settings.Decode(sum)
		if err == nil && math.Abs(mean[7%len(mean)]-float64(values[7%len(values)])) > 1e-3 {
			err = fmt.Errorf("the mean is %v, want %v", mean[7%len(mean)], values[7%len(values)])
		}
		return err
	}); err != nil {
		return err
	}
	bar.stop()
	f.Sent /= n
	// Each survivor masks with all others and itself; the server takes off the
	// survivors' own masks, and those that they have with each that left.
	masks := (n-left)*n + (n - left) + (n-left)*left
	f.Raw = expand(masks, 4*(c.Parameters+1)).Seconds()
	f.Ratio = round3(f.Raw / f.Seconds)
	if c.json() {
		return t.object(f)
	}
	t.printf("%-24s %.2f s for %d clients with %s parameters, %d of whom drop out  ratio %.3f to AES of the masks alone (%.2f s)  "+
		"keys %.2f  shares %.2f  masks %.2f  sum %.2f  unmask %.2f s  the server %.2f s, a client %.3f s and %s bytes\n",
		f.Name, f.Seconds, f.Clients, count(int64(f.Parameters)), f.Dropped, f.Ratio, f.Raw,
		f.Keys, f.Shares, f.Masks, f.Sum, f.Unmask, f.Server, f.Client, count(int64(f.Sent)))
	return nil
}

// answer is what a client does with a record.
func (r *secureRound) answer(client *secagg.Client, record secagg.Message, values []float32, out *[]secagg.Message) (err error) {
	if *out, err = client.Receive(record); err != nil || record.Stage != secagg.Shared {
		return err
	}
	for _, m := range r.shares {
		if client.Owns(m) {
			continue
		}
		if _, err := client.Receive(m); err != nil {
			return err
		}
	}
	*out, err = client.Mask(values, 1)
	return err
}

// expand makes as many masks of a size as a plain loop can, on all processors.
func expand(masks, size int) time.Duration {
	began := time.Now()
	var all sync.WaitGroup
	cores := runtime.GOMAXPROCS(0)
	for core := range cores {
		all.Go(func() {
			block, err := aes.NewCipher(make([]byte, 16))
			if err != nil {
				return
			}
			zeros, out := make([]byte, 16<<10), make([]byte, 16<<10)
			for range masks*(core+1)/cores - masks*core/cores {
				stream := cipher.NewCTR(block, make([]byte, 16))
				for left := size; left > 0; left -= len(out) {
					part := out[:min(left, len(out))]
					stream.XORKeyStream(part, zeros[:len(part)])
				}
			}
		})
	}
	all.Wait()
	return time.Since(began)
}
