package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/servertest"
	"penstock/stream"
)

// diffed runs schema diff and returns what it prints and whether it refuses.
func diffed(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"schema", "diff"}, args...), strings.NewReader(""), &stdout, &stderr)
	return stdout.String() + stderr.String(), code
}

func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A change is laid at the door of those whom it concerns: consumers by what they
// announce, groups of which only the broker knows, tables by their positions,
// readers named in a file, and schemas that refer to it.
func TestImpact(t *testing.T) {
	for name, broker := range map[string]func(testing.TB) string{
		"embedded": func(t testing.TB) string { return "embedded:" + t.TempDir() },
		"kfake": func(t testing.TB) string {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			return "kafka://" + cluster.ListenAddrs()[0]
		},
		"Kafka": func(t testing.TB) string { return "kafka://" + servertest.Kafka(t) },
		"NATS":  func(t testing.TB) string { return servertest.NATS(t) },
	} {
		t.Run(name, func(t *testing.T) { testImpact(t, broker(t)) })
	}
}

const orderText = `{"type":"record","name":"Order","fields":[
 {"name":"id","type":"long"},
 {"name":"amount","type":"double"},
 {"name":"note","type":"string","default":""}]}`

func testImpact(t *testing.T, broker string) {
	dir, url := t.TempDir(), memoryRegistry(t)
	topic := servertest.Name(t)
	subject := topic + "-value"
	at := []string{"--broker", broker, "--registry", url}
	with := func(args ...string) []string { return append(args, at...) }
	old := put(t, dir, "order.avsc", orderText)
	events := put(t, dir, "orders.jsonl", `{"id":1,"amount":2.5,"note":"a"}`+"\n"+`{"id":2,"amount":3,"note":"b"}`+"\n")
	call(t, with("schema", "register", old, "--subject", subject)...)
	call(t, with("schema", "register", put(t, dir, "bill.avsc", `{"type":"record","name":"Bill","fields":[{"name":"order","type":"Order"}]}`),
		"--subject", "bills-value", "--reference", "Order="+subject)...)
	call(t, with("produce", topic, events)...)
	database := filepath.Join(dir, "shop.db")
	call(t, with("consume", "microbatch", topic, "--group", "billing", "--to", "sqlite:"+database, "--until", "end")...)
	readWith(t, broker, topic)

	readers := put(t, dir, "readers.yaml", "- {group: warehouse, subject: "+subject+", version: 1, fields: [note]}\n- {group: other, topic: elsewhere}\n")
	// note goes, and has a default; amount is another type.
	changed := put(t, dir, "changed.avsc", strings.Replace(strings.Replace(orderText, `"double"`, `"string"`, 1), `,
 {"name":"note","type":"string","default":""}`, "", 1))
	args := with(subject+"@1", changed, "--impact", "--readers", readers, "--database", "sqlite:"+database)
	out, code := diffed(t, args...)
	if code != exitNo {
		t.Errorf("exit code %d, want %d", code, exitNo)
	}
	_, impact, _ := strings.Cut(out, "INFO\n")
	want := strings.ReplaceAll(`  breaks group billing, which reads version 1, into table TOPIC of sqlite:DB: the field note is gone: it was string, default ""; amount is string and was double
  spares group ids, which reads version 1 and field id
  may break group legacy, which does not say what it reads: the field note is gone: it was string, default ""; amount is string and was double
  breaks group sums, which reads version 1 and fields amount, id: amount is string and was double
  breaks group warehouse, which reads version 1 and field note: amount is string and was double
  breaks subject bills-value, whose version 1 refers to it as Order, once it takes the new one: order.amount is string and was double
`, "TOPIC", topic)
	if diff := cmp.Diff(strings.ReplaceAll(want, "DB", database), impact); diff != "" {
		t.Errorf("impact (-want +got):\n%s\n%s", diff, out)
	}
	if out, _ := diffed(t, append(args, "-o", "markdown")...); !strings.Contains(out, "\n- breaks group sums, which reads version 1 and fields amount, id: ") {
		t.Errorf("markdown says\n%s", out)
	}
	var answer struct{ Impact []concern }
	if out, _ := diffed(t, append(args, "-o", "json")...); json.Unmarshal([]byte(out), &answer) != nil || len(answer.Impact) != 6 ||
		answer.Impact[3].Effect != effectBreaks || answer.Impact[3].Changes[0].Path != "amount" {
		t.Errorf("JSON says %s", out)
	}

	// So is one that a pipeline's file names.
	pipes := put(t, dir, "pipes.yaml", "name: monthly\nsource: {topic: "+topic+", group: monthly}\nsink: {url: 'postgres://me:secret@db/shop?sslmode=disable', table: months}\n")
	if out, _ := diffed(t, append(args, "--pipelines", pipes)...); !strings.Contains(
		out, "may break group monthly, which does not say what it reads, into table months of postgres://db/shop: ") {
		t.Errorf("with a pipeline:\n%s", out)
	}
	// The table alone is known where the broker knows nothing of the topic.
	if out, _ := diffed(t, subject+"@1", changed, "--impact", "--registry", url, "--broker", "embedded:"+t.TempDir(), "--database", "sqlite:"+database); !strings.Contains(
		out, "may break group billing, which does not say what it reads, into a table of schema main in sqlite:"+database+": ") {
		t.Errorf("by the database alone:\n%s", out)
	}
	// A new field without a default stops pinned readers once they move to it.
	added := put(t, dir, "added.avsc", strings.Replace(orderText, `{"name":"note"`, `{"name":"vat","type":"double"},{"name":"note"`, 1))
	out, _ = diffed(t, with(subject+"@1", added, "--impact")...)
	for _, want := range []string{
		"breaks group sums, which reads version 1 and fields amount, id, once it takes the new one: the field vat is new",
		"spares group billing, which reads version 1,", "spares group legacy, ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("an added field: no %q in\n%s", want, out)
		}
	}
	for _, wrong := range [][]string{
		{old, changed, "--impact"},
		{subject + "@1", changed, "--impact", "--readers", events},
		{subject + "@1", changed, "--impact", "--pipelines", events},
		{subject + "@1", changed, "--impact", "--database", "mysql://x"},
	} {
		if out, code := diffed(t, with(wrong...)...); code != exitUsage {
			t.Errorf("%q: exit code %d, want %d\n%s", wrong, code, exitUsage, out)
		}
	}
}

// readWith lets programs read the topic: two that announce themselves, one that does
// not.
func readWith(t *testing.T, address, topic string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	broker, err := openBroker(ctx, address, newTerminal(nil, nil, new(bytes.Buffer), false).log)
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	for _, r := range []consumers.Reading{
		{Group: "sums", Pinned: true, Fields: []string{"amount", "id"}},
		{Group: "ids", Fields: []string{"id"}},
	} {
		r.Topic = topic
		if err := consumers.NewAnnouncer(broker, r).Announce(ctx, consumers.Batch{Messages: []consumers.Message{{SchemaID: schemas.ID(1)}}}); err != nil {
			t.Fatal(err)
		}
	}
	src, err := broker.Open(ctx, stream.Subscription{Topic: topic, Group: "legacy"})
	if err != nil {
		t.Fatal(err)
	}
	_, ack, err := src.Fetch(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := ack(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
}

// A table proposes a schema, and says what of it the sink could not write to.
func TestInferTable(t *testing.T) {
	address := servertest.Postgres(t)
	dir := t.TempDir()
	events := put(t, dir, "orders.jsonl", `{"id":1,"amount":2.5,"note":"a"}`+"\n")
	broker, url := "embedded:"+t.TempDir(), memoryRegistry(t)
	with := func(args ...string) []string { return append(args, "--broker", broker, "--registry", url) }
	call(t, with("schema", "register", put(t, dir, "order.avsc", orderText), "--subject", "orders-value")...)
	call(t, with("produce", "orders", events)...)
	call(t, with("consume", "microbatch", "orders", "--to", address, "--until", "end")...)
	text := call(t, "schema", "infer", address, "--table", "orders", "--name", "Order")
	proposed := put(t, dir, "proposed.avsc", text)
	if out, code := diffed(t, filepath.Join(dir, "order.avsc"), proposed, "--level", "backward"); code != exitDone || strings.Contains(out, "TYPE_") || strings.Contains(out, "FIELD_") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	var answer struct {
		Schema string
		Notes  []string
	}
	if out := call(t, "schema", "infer", address, "--table", "orders", "--type", "protobuf", "-o", "json"); json.Unmarshal([]byte(out), &answer) != nil ||
		!strings.Contains(answer.Schema, "message Orders {\n  optional int64 id = 1;") || len(answer.Notes) != 0 {
		t.Errorf("in Protobuf: %s", out)
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"schema", "infer", address}, strings.NewReader(""), &out, &out); code != exitUsage {
		t.Errorf("without --table: exit code %d\n%s", code, out.String())
	}
}
