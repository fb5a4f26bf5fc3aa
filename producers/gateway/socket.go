package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// Subprotocol is what a client of the WebSocket has to ask for: JSON messages, each
// a Message, and for each in its order an Ack.
const Subprotocol = "penstock.publish.v1"

const pingEvery = 30 * time.Second

// Message is an event that comes by WebSocket.
type Message struct {
	ID      string            `json:"id"` // chosen by the client, to know the answer by
	Key     any               `json:"key,omitempty"`
	Value   any               `json:"value"` // null is a tombstone
	Headers map[string]string `json:"headers,omitempty"`
	// Once is a key by which the message, sent again after a lost answer, is
	// published once: see Idempotency-Key.
	Once string `json:"idempotency_key,omitempty"`
}

// Ack says where a message lies, or why it was not published.
type Ack struct {
	ID         string              `json:"id"`
	Partition  *int32              `json:"partition,omitempty"`
	Offset     *int64              `json:"offset,omitempty"`
	Code       int                 `json:"error_code,omitempty"`
	Message    string              `json:"message,omitempty"`
	Violations []schemas.Violation `json:"violations,omitempty"`
}

// socket takes messages until the client or the gateway closes. At most window of
// them are on their way; then nothing is read until the oldest is answered.
func (g *Gateway) socket(w http.ResponseWriter, r *http.Request) {
	if !g.take(w, g.streams, "streams") {
		return
	}
	defer func() { <-g.streams }()
	if !g.enter() {
		g.answer(w, Answer{}, faultf(codeAway, "the gateway is about to stop"))
		return
	}
	defer g.sockets.Done()
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Subprotocol}})
	if err != nil {
		return // it has been answered
	}
	defer c.CloseNow() //nolint:errcheck // it has been closed before, or is lost
	if c.Subprotocol() != Subprotocol {
		_ = c.Close(websocket.StatusPolicyViolation, "expected the subprotocol "+Subprotocol)
		return
	}
	c.SetReadLimit(g.cfg.MaxBodyBytes)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	messages := make(chan []byte)
	answers := make(chan (<-chan Ack), window)
	read, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		for {
			kind, text, err := c.Read(ctx)
			if err == nil && kind != websocket.MessageText {
				err = c.Close(websocket.StatusUnsupportedData, "expected messages of text")
			}
			if err != nil || kind != websocket.MessageText {
				return
			}
			select {
			case messages <- text:
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		defer close(written)
		if err := g.acknowledge(ctx, c, answers); err != nil {
			cancel() // the client is gone
			for range answers {
			}
		}
	}()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for open := true; open; {
		select {
		case text := <-messages:
			answer := make(chan Ack, 1)
			g.message(ctx, r.PathValue("topic"), text, answer)
			answers <- answer
		case <-ping.C:
			// Who reads nothing for so long that even a blocked broker would have
			// been given up is gone.
			go func() {
				alive, stop := context.WithTimeout(ctx, g.cfg.PublishTimeout+g.cfg.ReadTimeout)
				defer stop()
				if c.Ping(alive) != nil {
					cancel()
				}
			}()
		case <-read:
			open = false
		case <-g.closing:
			open = false
		}
	}
	close(answers)
	<-written // what was taken is answered before the end
	_ = c.Close(websocket.StatusGoingAway, "the gateway stops")
	cancel()
	<-read
}

// enter counts a socket, unless the gateway is about to end.
func (g *Gateway) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.closing:
		return false
	default:
		g.sockets.Add(1)
		return true
	}
}

// leave asks all sockets to end, and waits for them at most until ctx ends.
func (g *Gateway) leave(ctx context.Context) {
	g.mu.Lock()
	select {
	case <-g.closing:
	default:
		close(g.closing)
	}
	g.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		g.sockets.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
}

// message sends one message on; its answer comes to answer.
func (g *Gateway) message(ctx context.Context, topic string, text []byte, answer chan<- Ack) {
	id, key, e, err := readMessage(topic, text)
	finish := func(at producers.Place, err error) {
		if err != nil {
			r := g.refused(topic, err)
			answer <- Ack{ID: id, Code: r.Code, Message: r.Message, Violations: r.Violations}
			return
		}
		answer <- Ack{ID: id, Partition: &at.Partition, Offset: &at.Offset}
	}
	switch {
	case err != nil:
	case key != "":
		value, _ := e.Value.(producers.JSON)
		asked := []string{"socket", string(e.Key), string(value)}
		for _, h := range e.Headers {
			asked = append(asked, h.Key, string(h.Value))
		}
		err = g.once(ctx, topic, newOnce(ctx, key, asked...), func() ([]stream.Record, any, error) {
			records, err := g.producer.Encode(ctx, e)
			return records, nil, ofBatch(err)
		}, func(k *kept, err error) {
			if err != nil {
				finish(producers.Place{}, ofBatch(err))
			} else {
				finish(k.places[0], nil)
			}
		})
	default:
		err = g.single.Send(ctx, e, finish)
	}
	if err != nil {
		finish(producers.Place{}, err)
	}
}

// readMessage reads a Message.
func readMessage(topic string, text []byte) (id, key string, e producers.Event, err error) {
	e.Topic = topic
	value, err := schemas.ParseJSONLeaving(text, func(path []string) bool { return len(path) == 1 && path[0] == "value" })
	if err != nil {
		return "", "", e, faultf(codeJSON, "%v", err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return "", "", e, shape("", `a message, {"id": …, "key": …, "value": …, "headers": {…}}`, schemas.Describe(value), "")
	}
	id, ok = object["id"].(string)
	if !ok || id == "" || len(id) > 80 {
		return "", "", e, shape("/id", "a string of 1 to 80 bytes", schemas.Describe(object["id"]), "")
	}
	if err := onlyMembers(object, "", "id", "key", "value", "headers", "idempotency_key"); err != nil {
		return id, key, e, err
	}
	if once, given := object["idempotency_key"]; given {
		if key, ok = once.(string); !ok || !isKey(key) {
			return id, "", e, shape("/idempotency_key", fmt.Sprintf("a string of 1 to %d printable ASCII characters", maxKeyLength), schemas.Describe(once), "")
		}
	}
	value, ok = object["value"]
	if !ok {
		return id, key, e, shape("/value", "the event, or null for a tombstone", "nothing", "")
	}
	e.Value = asEvent(value)
	if k := object["key"]; k != nil {
		if e.Key, err = keyOf(k); err != nil {
			return id, key, e, err
		}
	}
	if value == nil && e.Key == nil {
		return id, key, e, shape("/key", "a key, because the record is a tombstone", "nothing", "")
	}
	e.Headers, err = headers(object["headers"], "/headers")
	return id, key, e, err
}

// acknowledge writes answers in their order.
func (g *Gateway) acknowledge(ctx context.Context, c *websocket.Conn, answers <-chan (<-chan Ack)) error {
	for answer := range answers {
		timer := time.NewTimer(g.cfg.PublishTimeout)
		var a Ack
		select {
		case a = <-answer:
		case <-timer.C:
			a = Ack{Code: codeAway, Message: fmt.Sprintf("the broker did not confirm the event within %s; it may have been written or not", g.cfg.PublishTimeout)}
		}
		timer.Stop()
		text, err := json.Marshal(a)
		if err != nil {
			return err
		}
		writing, cancel := context.WithTimeout(ctx, g.cfg.PublishTimeout)
		err = c.Write(writing, websocket.MessageText, text)
		cancel()
		if err != nil {
			return errors.Join(err, c.CloseNow())
		}
	}
	return nil
}
