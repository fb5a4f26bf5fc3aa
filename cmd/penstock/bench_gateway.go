package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// benchGatewayCmd measures publishing over HTTP.
type benchGatewayCmd struct {
	brokerFlag
	outputFlag
	Records int `short:"n" default:"200000" placeholder:"N" help:"Records a run in requests of 1,000 (default ${default})."`
	Singles int `default:"20000" placeholder:"N" help:"Requests a run of one record (default ${default})."`
	Pairs   int `default:"9" placeholder:"N" help:"Runs of each side, taken in turn (default ${default})."`
}

// Help says what is measured.
func (benchGatewayCmd) Help() string {
	return `Row batch: orders as JSON in requests of 1,000, one after the other on two
connections, against 'penstock produce' of the same orders from a file of JSON lines.
Row single: requests of one order on 64 connections, against a bare handler that
reads the body and waits for a raw produce of it. Kafka only.

Example:
  penstock bench gateway --broker kafka://127.0.0.1:9092 -o json`
}

const (
	gatewayBatch       = 1000
	gatewayConnections = 64
)

// Run prints both rows.
func (c *benchGatewayCmd) Run(ctx context.Context, t *terminal) (err error) {
	if !strings.HasPrefix(c.Broker, "kafka://") {
		return usagef("--broker %s: expected kafka://…, since the raw side is a client of Kafka", c.Broker)
	}
	orders, err := newOrders()
	if err != nil {
		return err
	}
	b, err := openBench(ctx, t, c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	s, err := startStack(ctx, stackConfig{broker: c.Broker, registry: "127.0.0.1:0", gateway: "127.0.0.1:0", store: "memory:", out: io.Discard, log: t.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	g := &gatewayBench{url: s.gatewayURL + "/topics/" + b.topic, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: gatewayConnections}}}
	defer g.client.CloseIdleConnections()
	if err := g.register(ctx, s.registryURL, b.topic); err != nil {
		return err
	}

	var lines bytes.Buffer
	var requests [][]byte
	for from := 0; from < c.Records; from += gatewayBatch {
		request := []byte(`{"records":[`)
		for i := from; i < min(c.Records, from+gatewayBatch); i++ {
			text := orders.texts[i%len(orders.texts)]
			lines.Write(text)
			lines.WriteByte('\n')
			request = append(append(append(request, `{"value":`...), text...), `},`...)
		}
		request[len(request)-1] = ']'
		requests = append(requests, append(request, '}'))
	}
	batches := &benchFlags{outputFlag: c.outputFlag, Records: c.Records, Pairs: c.Pairs}
	cli := timed(func(ctx context.Context) error {
		var out bytes.Buffer
		if code := run(ctx, []string{"produce", b.topic, "-", "--broker", c.Broker, "--registry", s.registryURL}, bytes.NewReader(lines.Bytes()), &out, &out); code != exitDone {
			return fmt.Errorf("penstock produce: exit code %d: %s", code, out.String())
		}
		return nil
	})
	if err := batches.compare(ctx, t, "gateway batch", "penstock produce of a file of JSON lines",
		g.posts(g.url, typeRecordsV2, 2, len(requests), func(i int) []byte { return requests[i] }), cli); err != nil {
		return err
	}

	raw, err := b.kafka.client(kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer raw.Close()
	bare, err := serve("bare handler", "127.0.0.1:0", rawGateway(raw, b.topic), nil, t.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()
	text := func(i int) []byte { return orders.texts[i%len(orders.texts)] }
	singles := &benchFlags{outputFlag: c.outputFlag, Records: c.Singles, Pairs: c.Pairs}
	return singles.compare(ctx, t, "gateway single", fmt.Sprintf("net/http and kgo.ProduceSync, linger 0, %d connections", gatewayConnections),
		g.posts(g.url, "application/json", gatewayConnections, c.Singles, text), g.posts(bare.url, "application/json", gatewayConnections, c.Singles, text))
}

const typeRecordsV2 = "application/vnd.kafka.json.v2+json"

// rawGateway reads a body and waits until it is in the topic.
func rawGateway(client *kgo.Client, topic string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = client.ProduceSync(r.Context(), &kgo.Record{Topic: topic, Value: body}).FirstErr()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}
}

// gatewayBench is a client of the gateway that is measured.
type gatewayBench struct {
	url    string
	client *http.Client
}

// register registers the schema of orders for a topic.
func (g *gatewayBench) register(ctx context.Context, registry, topic string) error {
	return g.post(ctx, registry+"/subjects/"+topic+"-value/versions", "application/json", fmt.Appendf(nil, `{"schema":%q}`, strings.Join(strings.Fields(orderAvro), "")))
}

// posts sends n requests on so many connections.
func (g *gatewayBench) posts(url, media string, connections, n int, body func(i int) []byte) side {
	return timed(func(ctx context.Context) error {
		return spread(ctx, n, connections, func(ctx context.Context, i int) error { return g.post(ctx, url, media, body(i)) })
	})
}

// post sends a request until it is served: 429 is to be sent again.
func (g *gatewayBench) post(ctx context.Context, url, media string, body []byte) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", media)
		reply, err := g.client.Do(req)
		if err != nil {
			return err
		}
		if reply.StatusCode != http.StatusTooManyRequests {
			return drain(reply)
		}
		if err := errors.Join(ignore(io.Copy(io.Discard, reply.Body)), reply.Body.Close()); err != nil {
			return err
		}
	}
}

func ignore(_ int64, err error) error { return err }
