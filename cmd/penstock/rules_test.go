package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/registry"
	"penstock/registry/client"
	"penstock/rules"
	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
)

// ruled is a line of testdata/clients/rules.py.
type ruled struct {
	Topic   string         `json:"topic"`
	Event   map[string]any `json:"event,omitempty"`
	Payload []byte         `json:"payload"`
	Read    any            `json:"read,omitempty"`
}

// TestForeignRules: what Confluent's Python client writes under rules Penstock
// refuses, changes and reads as it does, and the other way round.
func TestForeignRules(t *testing.T) {
	python := servertest.Python(t)
	url := memoryRegistry(t)
	reg, err := client.New(url, formats(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()

	cmd := exec.CommandContext(t.Context(), python, "testdata/clients/rules.py", url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	latest, err := readerAs(reg, "latest")
	if err != nil {
		t.Fatal(err)
	}
	decoder := consumers.NewDecoder(reg, schemas.Limits{}).ReadAs(latest)
	// read is what Penstock reads, as JSON has it; nil is refused.
	read := func(topic string, payload []byte) any {
		m, err := decoder.Decode(t.Context(), stream.Record{Topic: topic, Value: payload})
		if errors.As(err, new(*consumers.Reason)) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		return asJSON(t, m.Data)
	}
	var again []ruled
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			break
		}
		var line ruled
		if err := json.Unmarshal(text, &line); err != nil {
			t.Fatal(err)
		}
		ours, err := write(t, reg, line.Topic, line.Event)
		var refused *rules.Error
		if errors.As(err, &refused) != (line.Payload == nil) || err != nil && refused == nil {
			t.Errorf("%s: Python wrote %q, Penstock says %v", text, line.Payload, err)
			continue
		}
		if line.Payload == nil {
			continue
		}
		if diff := cmp.Diff(line.Read, read(line.Topic, line.Payload)); diff != "" {
			t.Errorf("%s: reads another thing than Python\n%s", text, diff)
		}
		again = append(again, ruled{Topic: line.Topic, Payload: ours, Read: line.Read})
	}
	if len(again) != 4 {
		t.Errorf("Python wrote %d events that its rules let pass, want 4", len(again))
	}
	for _, line := range again {
		text, err := json.Marshal(ruled{Topic: line.Topic, Payload: line.Payload})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(append(text, '\n')); err != nil {
			t.Fatal(err)
		}
		if text, err = lines.ReadBytes('\n'); err != nil {
			t.Fatal(err)
		}
		var got ruled
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(line.Read, got.Read); diff != "" {
			t.Errorf("%s: Python reads another thing of what Penstock wrote than of its own\n%s", text, diff)
		}
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// write encodes an event with the first version of a topic's subject and its
// rules, framed.
func write(t *testing.T, reg *client.Client, topic string, event any) ([]byte, error) {
	found, err := client.Version(reg, 1)(t.Context(), topic+"-value")
	if err != nil {
		t.Fatal(err)
	}
	set, err := rules.Of(found)
	if err != nil {
		t.Fatal(err)
	}
	v, err := set.Write(t.Context(), event)
	if err != nil {
		return nil, err
	}
	return found.Schema.AppendEncode(schemas.AppendHeader(nil, found.ID), v)
}

// asJSON is v as JSON reads it.
func asJSON(t *testing.T, v any) (out any) {
	text, err := schemas.AppendJSON(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// memoryRegistry serves a fresh registry, as the command line does, and returns
// its URL.
func memoryRegistry(t *testing.T) string {
	logger := newTerminal(nil, nil, new(bytes.Buffer), false).log
	reg, err := openStore(t.Context(), "memory:", "", registry.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	server, err := serve("registry", "127.0.0.1:0", reg.handler(registry.HandlerOptions{}), nil, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(server.stop(), reg.close()); err != nil {
			t.Error(err)
		}
	})
	return server.url
}
