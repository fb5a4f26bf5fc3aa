package secagg

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"penstock/servertest"
)

// hexed is bytes in JSON.
type hexed []byte

// MarshalText implements encoding.TextMarshaler.
func (h hexed) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// transcriptClient is a client with all its secrets.
type transcriptClient struct {
	Name     string    `json:"name"`
	Index    uint16    `json:"index"`
	Identity hexed     `json:"ed25519_seed"`
	Root     hexed     `json:"root"`
	Seed     hexed     `json:"seed"`
	Channel  hexed     `json:"channel_x25519_and_mlkem_seed"`
	Mask     hexed     `json:"mask_x25519_and_mlkem_seed"`
	Weight   uint32    `json:"weight"`
	Values   []float32 `json:"values"`
	Vector   []uint32  `json:"vector_without_masks"`
	Masks    []hexed   `json:"mask_seeds"` // its own, then those with each other on the list of shared
	First    hexed     `json:"first_16_bytes_of_own_mask"`
}

type transcriptMessage struct {
	Stage     Stage  `json:"stage"`
	Sender    string `json:"sender"`
	After     hexed  `json:"after"`
	Payload   hexed  `json:"payload"`
	Signed    hexed  `json:"signed"`
	Hash      hexed  `json:"hash"`
	Signature hexed  `json:"signature"`
}

// levels are an Encoding without noise.
type levels struct {
	Bits      uint8
	Clip      float64
	MaxWeight uint32
}

type transcript struct {
	About    string              `json:"about"`
	Training string              `json:"training"`
	Round    int64               `json:"round"`
	Attempt  int32               `json:"attempt"`
	Base     hexed               `json:"base"`
	Server   hexed               `json:"server_ed25519_seed"`
	Settings levels              `json:"encoding"`
	Clients  []transcriptClient  `json:"clients"`
	Messages []transcriptMessage `json:"messages"`
	Sum      []uint32            `json:"sum"`
	Weight   uint32              `json:"sum_of_weights"`
	Mean     []float64           `json:"mean"`
}

// The whole of an attempt, which other implementations are compared with: what it
// holds changes with the protocol's version alone.
func TestTranscript(t *testing.T) {
	w := newWorld(t, 4, 5)
	sum, err := w.run(drops{2: Masked})
	if err != nil {
		t.Fatal(err)
	}
	e := w.config.Settings.Encoding
	out := transcript{
		About:    "four clients, of whom the third goes away before its vector; docs/federated-wire.md",
		Training: w.config.Training, Round: w.config.Round, Attempt: w.config.Attempt, Base: w.config.Base[:],
		Server: w.config.Key.Seed(), Settings: levels{e.Bits, e.Clip, e.MaxWeight}, Sum: sum,
	}
	if out.Weight, out.Mean, err = w.config.Settings.Decode(sum); err != nil {
		t.Fatal(err)
	}
	for i, c := range w.clients {
		entropy := c.state.entropy[:]
		tc := transcriptClient{
			Name: c.config.Name, Index: c.index, Identity: w.keys[i].Seed(), Root: c.root[:], Seed: c.seed[:],
			Channel: derive(entropy, "channel keys", nil, 96), Mask: derive(c.root[:], "mask keys", nil, 96),
			Weight: w.weight(i), Values: w.values[i],
		}
		if tc.Vector, err = w.config.Settings.encode(w.values[i], w.weight(i), streamOf(entropy, "rounding")); err != nil {
			t.Fatal(err)
		}
		if i != 2 {
			seeds, err := c.seeds()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range seeds {
				tc.Masks = append(tc.Masks, m.seed[:])
			}
		}
		first := make([]uint32, 4)
		apply(first, []mask{{c.seed, false}})
		tc.First = appendElements(nil, first)
		out.Clients = append(out.Clients, tc)
	}
	add := func(m Message) {
		h := m.Hash()
		out.Messages = append(out.Messages, transcriptMessage{m.Stage, m.Sender, m.After[:], m.Payload, m.signed(), h[:], m.Signature})
	}
	for i, record := range w.records {
		add(record)
		for _, m := range w.sent[clientStages[i]] {
			add(m)
		}
	}
	got, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "transcript.json")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, '\n'), want) {
		now := filepath.Join(os.TempDir(), "transcript.json")
		if err := os.WriteFile(now, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Errorf("the protocol is not what %s has: if it has a new version, take %s", file, now)
	}
}

// A second implementation, in Python and from the document alone, finds the same.
func TestTranscriptInPython(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), servertest.Python(t), "transcript.py", "transcript.json")
	cmd.Dir = "testdata"
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("22 messages, 3 vectors, 1 missing")) {
		t.Errorf("%v: %s", err, out)
	}
}

// The client in clients/python sends what the transcript's clients sent, refuses what
// one must refuse, and reads any payload or refuses it.
func TestPythonClient(t *testing.T) {
	client, err := filepath.Abs("../../../clients/python")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), servertest.Python(t), "client.py", "transcript.json")
	cmd.Dir, cmd.Env = "testdata", append(cmd.Environ(), "PYTHONPATH="+client, "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "3 clients as the transcript has them\n" {
		t.Errorf("%v: %s", err, out)
	}
}
