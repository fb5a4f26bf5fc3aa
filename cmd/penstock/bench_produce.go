package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/twmb/avro"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"penstock/producers"
	"penstock/schemas"
)

// benchProduceCmd measures publishing.
type benchProduceCmd struct {
	benchFlags
	Batch       int    `default:"5000" placeholder:"N" help:"Events a call of Publish (default ${default})."`
	Concurrency int    `default:"2" placeholder:"N" help:"Calls of Publish at a time (default ${default})."`
	Rows        string `placeholder:"WORD" help:"Only the rows with that word in their names."`
	Soak        bool   `help:"Publish the records once, each way in in turn, and print what memory that takes in place of ratios."`
}

// Run prints for each way in a row against the library called by hand, and one
// against bytes that were encoded before.
func (c *benchProduceCmd) Run(ctx context.Context, t *terminal) (err error) {
	orders, err := newOrders()
	if err != nil {
		return err
	}
	rows, err := orders.rows()
	if err != nil {
		return err
	}
	b, err := openBench(ctx, t, c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if c.Soak {
		return c.soak(ctx, t, b, orders, rows)
	}
	settings, err := b.sweep(ctx, c.Records, orders.record(rows[0].encoded))
	if err != nil {
		return err
	}
	for _, r := range rows {
		ours := c.produce(b, orders, r, c.Records)
		byHand := b.rawProduce(c.Records, func(i int) ([]byte, []byte, error) {
			value, err := r.byHand(i % len(orders.keys))
			return orders.keys[i%len(orders.keys)], value, err
		})
		for _, against := range []struct {
			name string
			raw  side
		}{{"produce " + r.name, byHand}, {"produce " + r.name + ", encoded", b.rawProduce(c.Records, orders.record(r.encoded))}} {
			if strings.Contains(against.name, c.Rows) {
				err = errors.Join(err, c.compare(ctx, t, against.name, settings, ours, against.raw))
			}
		}
	}
	return err
}

// soakSteps is how often the memory is looked at in the course of a soak.
const soakSteps = 20

// soaked is what a soak prints.
type soaked struct {
	Name       string    `json:"name"`
	Records    int       `json:"records"`
	Rate       float64   `json:"rate"`
	ResidentMB []float64 `json:"resident_mb"` // after each twentieth of the records
}

// soak publishes the records once, a twentieth by each of the rows in turn.
func (c *benchProduceCmd) soak(ctx context.Context, t *terminal, b *bench, orders *orders, rows []orderRow) error {
	row := soaked{Name: "produce soak"}
	bar := t.progress(row.Name, soakSteps)
	start := time.Now()
	for i := range soakSteps {
		n := c.Records*(i+1)/soakSteps - row.Records
		if _, err := c.produce(b, orders, rows[i%len(rows)], n)(ctx); err != nil {
			return err
		}
		resident, err := residentMB(os.Getpid())
		if err != nil {
			return err
		}
		row.Records, row.ResidentMB = row.Records+n, append(row.ResidentMB, resident)
		bar.add(1)
	}
	bar.stop()
	row.Rate = math.Round(float64(row.Records) / time.Since(start).Seconds())
	if c.json() {
		return t.object(row)
	}
	t.printf("%-24s %s records, %s/s, MB resident after each twentieth: %.0f\n", row.Name, count(int64(row.Records)), count(int64(row.Rate)), row.ResidentMB)
	return nil
}

// produce is Penstock's side of publishing n records.
func (c *benchProduceCmd) produce(b *bench, orders *orders, r orderRow, n int) side {
	p := producers.New(b.broker, oneSchema{r.schema}, producers.Config{})
	return func(ctx context.Context) (time.Duration, error) {
		start := time.Now()
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(c.Concurrency)
		for from := 0; from < n; from += c.Batch {
			group.Go(func() error {
				events := make([]producers.Event, min(c.Batch, n-from))
				for i := range events {
					k := (from + i) % len(orders.keys)
					events[i] = producers.Event{Topic: b.topic, Key: orders.keys[k], Value: r.value(k)}
				}
				return p.Publish(ctx, events...)
			})
		}
		err := group.Wait()
		return time.Since(start), err
	}
}

// order is a record of 15 fields as a program would declare it.
type order struct {
	ID       string    `avro:"id" json:"id"`
	Customer string    `avro:"customer" json:"customer"`
	Email    string    `avro:"email" json:"email"`
	Status   string    `avro:"status" json:"status"`
	Placed   time.Time `avro:"placed" json:"placed"`
	Amount   float64   `avro:"amount" json:"amount"`
	Quantity int32     `avro:"quantity" json:"quantity"`
	Sequence int64     `avro:"sequence" json:"sequence"`
	Gift     bool      `avro:"gift" json:"gift"`
	Coupon   *string   `avro:"coupon" json:"coupon"`
	Street   string    `avro:"street" json:"street"`
	City     string    `avro:"city" json:"city"`
	Note     string    `avro:"note" json:"note"`
	Tags     []string  `avro:"tags" json:"tags"`
	Weight   float32   `avro:"weight" json:"weight"`
}

const (
	orderAvro = `{"type":"record","name":"Order","fields":[
		{"name":"id","type":"string"},{"name":"customer","type":"string"},{"name":"email","type":"string"},
		{"name":"status","type":{"type":"enum","name":"Status","symbols":["OPEN","PAID","SHIPPED","RETURNED"]}},
		{"name":"placed","type":{"type":"long","logicalType":"timestamp-millis"}},
		{"name":"amount","type":"double"},{"name":"quantity","type":"int"},{"name":"sequence","type":"long"},
		{"name":"gift","type":"boolean"},{"name":"coupon","type":["null","string"]},{"name":"street","type":"string"},
		{"name":"city","type":"string"},{"name":"note","type":"string"},
		{"name":"tags","type":{"type":"array","items":"string"}},{"name":"weight","type":"float"}]}`
	orderJSON = `{"type":"object","additionalProperties":false,"properties":{
		"id":{"type":"string"},"customer":{"type":"string"},"email":{"type":"string"},
		"status":{"enum":["OPEN","PAID","SHIPPED","RETURNED"]},"placed":{"type":"string","format":"date-time"},
		"amount":{"type":"number"},"quantity":{"type":"integer","minimum":0},"sequence":{"type":"integer"},
		"gift":{"type":"boolean"},"coupon":{"type":["string","null"]},"street":{"type":"string"},
		"city":{"type":"string"},"note":{"type":"string","maxLength":200},
		"tags":{"type":"array","items":{"type":"string"}},"weight":{"type":"number"}},
		"required":["id","customer","email","status","placed","amount","quantity","sequence","gift","street","city","note","tags","weight"]}`
	orderProto = `syntax = "proto3";
		package penstock.bench;
		import "google/protobuf/timestamp.proto";
		message BenchOrder {
			string id = 1; string customer = 2; string email = 3; BenchStatus status = 4;
			google.protobuf.Timestamp placed = 5; double amount = 6; int32 quantity = 7; int64 sequence = 8;
			bool gift = 9; optional string coupon = 10; string street = 11; string city = 12; string note = 13;
			repeated string tags = 14; float weight = 15;
		}
		enum BenchStatus { OPEN = 0; PAID = 1; SHIPPED = 2; RETURNED = 3; }`
)

// orders are as programs hold them, again and again in order.
type orders struct {
	keys     [][]byte
	structs  []order
	maps     []map[string]any
	messages []*BenchOrder
	texts    [][]byte
}

func newOrders() (*orders, error) {
	o := &orders{}
	r := rand.New(rand.NewPCG(1, 1))
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	for i := range 4096 {
		name := pick("alice", "bob", "carol", "dieter", "eva", "frank")
		v := order{
			ID:       fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Int64N(1<<48)),
			Customer: fmt.Sprintf("customer-%06d", r.IntN(1e6)), Email: fmt.Sprintf("%s.%d@example.com", name, r.IntN(10_000)),
			Status: pick("OPEN", "PAID", "SHIPPED", "RETURNED"), Placed: time.UnixMilli(1_760_000_000_000 + r.Int64N(1e10)).UTC(),
			Amount: float64(r.IntN(1e6)) / 100, Quantity: 1 + r.Int32N(20), Sequence: int64(i) * 1_000_003, Gift: i%7 == 0,
			Street: fmt.Sprintf("%d %s Street", 1+r.IntN(300), pick("Maple", "Church", "Station", "Victoria")),
			City:   pick("Zürich", "Köln", "Lisbon", "Gdańsk", "Toulouse"),
			Note:   "please ring twice and if nobody comes to the door, leave the parcel with the " + pick("neighbour", "concierge", "shop") + ", thank you",
			Tags:   []string{pick("new", "returning"), pick("web", "mobile", "shop")}, Weight: float32(r.IntN(4000)) / 100,
		}
		if i%2 == 0 {
			coupon := pick("WELCOME10", "SPRING", "FRIENDS-5")
			v.Coupon = &coupon
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		tags := []any{}
		for _, tag := range v.Tags {
			tags = append(tags, tag)
		}
		m := map[string]any{
			"id": v.ID, "customer": v.Customer, "email": v.Email, "status": v.Status, "placed": v.Placed, "amount": v.Amount,
			"quantity": v.Quantity, "sequence": v.Sequence, "gift": v.Gift, "coupon": nil, "street": v.Street, "city": v.City,
			"note": v.Note, "tags": tags, "weight": v.Weight,
		}
		if v.Coupon != nil {
			m["coupon"] = *v.Coupon
		}
		o.keys, o.structs, o.maps, o.texts = append(o.keys, []byte(v.Customer)), append(o.structs, v), append(o.maps, m), append(o.texts, text)
		o.messages = append(o.messages, &BenchOrder{
			Id: v.ID, Customer: v.Customer, Email: v.Email, Status: BenchStatus(BenchStatus_value[v.Status]), Placed: timestamppb.New(v.Placed),
			Amount: v.Amount, Quantity: v.Quantity, Sequence: v.Sequence, Gift: v.Gift, Coupon: v.Coupon, Street: v.Street, City: v.City,
			Note: v.Note, Tags: v.Tags, Weight: v.Weight,
		})
	}
	return o, nil
}

// record returns the i-th order as bytes that were encoded before.
func (o *orders) record(encoded [][]byte) func(i int) (key, value []byte, err error) {
	return func(i int) ([]byte, []byte, error) { i %= len(encoded); return o.keys[i], encoded[i], nil }
}

// orderRow is one way in.
type orderRow struct {
	name    string
	schema  schemas.Schema
	value   func(i int) any
	byHand  func(i int) ([]byte, error) // what the library makes of it
	encoded [][]byte
}

func (o *orders) rows() ([]orderRow, error) {
	texts := []string{orderAvro, orderJSON, orderProto}
	parsed := make([]schemas.Schema, len(texts))
	for i, f := range formats() {
		var err error
		if parsed[i], err = f.Parse(texts[i], nil); err != nil {
			return nil, err
		}
	}
	lib, err := avro.Parse(orderAvro)
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(orderJSON))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("order.json", document); err != nil {
		return nil, err
	}
	validator, err := compiler.Compile("order.json")
	if err != nil {
		return nil, err
	}
	aText := func(i int) any { return producers.JSON(o.texts[i]) }
	protoFrame := schemas.AppendMessageIndexes(benchFrame[:len(benchFrame):len(benchFrame)], []int{0})
	rows := []orderRow{
		{name: "struct", schema: parsed[0], value: func(i int) any { return &o.structs[i] }, byHand: func(i int) ([]byte, error) {
			return rawEncode(lib, benchFrame, &o.structs[i])
		}},
		{name: "map", schema: parsed[0], value: func(i int) any { return o.maps[i] }, byHand: func(i int) ([]byte, error) {
			return rawEncode(lib, benchFrame, o.maps[i])
		}},
		{name: "protobuf", schema: parsed[2], value: func(i int) any { return o.messages[i] }, byHand: func(i int) ([]byte, error) {
			return proto.MarshalOptions{}.MarshalAppend(protoFrame[:len(protoFrame):len(protoFrame)], o.messages[i])
		}},
		{name: "json to avro", schema: parsed[0], value: aText, byHand: func(i int) ([]byte, error) {
			var m map[string]any
			if err := json.Unmarshal(o.texts[i], &m); err != nil {
				return nil, err
			}
			return rawEncode(lib, benchFrame, m)
		}},
		{name: "json to avro, by a struct", schema: parsed[0], value: aText, byHand: func(i int) ([]byte, error) {
			var v order
			if err := json.Unmarshal(o.texts[i], &v); err != nil {
				return nil, err
			}
			return rawEncode(lib, benchFrame, &v)
		}},
		{name: "json schema", schema: parsed[1], value: aText, byHand: func(i int) ([]byte, error) {
			return rawValidated(validator, benchFrame, o.texts[i])
		}},
	}
	for i := range rows {
		for k := range o.keys {
			value, err := rows[i].byHand(k)
			if err != nil {
				return nil, err
			}
			rows[i].encoded = append(rows[i].encoded, value)
		}
	}
	return rows, nil
}
