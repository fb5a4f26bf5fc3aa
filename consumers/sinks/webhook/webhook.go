// Package webhook posts batches to an HTTP endpoint, each record at least once.
//
// A request is a CloudEvents batch (application/cloudevents-batch+json). The id
// of an event is PARTITION/OFFSET and its source names pipeline and topic, so the
// two never change, and a receiver that stores them counts each record once. What was posted before a crash comes again, perhaps in a
// request that begins or ends elsewhere.
//
// # Signature
//
// Requests are signed as Standard Webhooks say: webhook-id, webhook-timestamp in
// seconds, and webhook-signature, "v1," and the base64 of the HMAC-SHA256 of
// ID.TIMESTAMP.BODY. Idempotency-Key is webhook-id: PIPELINE-TOPIC-PARTITION and
// the first and last offset in the request. It is the same when a request is tried again.
//
// # Answers
//
// 2xx is delivered. 408, 429 and 5xx, and no answer, are tried again, after the
// time that Retry-After names. 400, 413 and 422 refuse what is in the request:
// it is halved until the events that are refused stand alone, which become dead
// letters. Any other answer, redirections too, stops the pipeline.
//
// After Config.Failures failures in a row the circuit opens: nothing is posted
// for Config.Cooldown, then one request tries whether it may close.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// Config says where a sink posts to, and how much at once.
type Config struct {
	// URL is the endpoint, https or http.
	URL string
	// Pipeline stands in the idempotency key.
	Pipeline string
	// Secret signs requests. A sink without one does not sign.
	Secret []byte
	// Header is sent with each request.
	Header http.Header
	// MaxEvents and MaxBytes bound a request; 0 is 500, and 1 MB. An event that
	// is larger goes alone.
	MaxEvents, MaxBytes int
	// Concurrency is how many requests are on their way at once; 0 is 4.
	Concurrency int
	// Timeout is how long a request may take; 0 is 10 seconds.
	Timeout time.Duration
	// Failures opens the circuit; 0 is 5. Cooldown is for how long; 0 is 10
	// seconds.
	Failures int
	Cooldown time.Duration
	// Client sends the requests; nil is one of its own. It must not follow
	// redirections.
	Client *http.Client
}

// Sink posts to one endpoint. It is a consumers.Sink; Write may be called
// concurrently.
type Sink struct {
	config Config
	slots  chan struct{}
	now    func() time.Time

	mu       sync.Mutex
	failures int       // in a row
	until    time.Time // the circuit is open until then
	trying   bool      // one request finds out whether it may close
}

// New returns a sink. Close ends it.
func New(c Config) (*Sink, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("open webhook sink: expected https://HOST/PATH")
	}
	c.MaxEvents = cmp.Or(c.MaxEvents, 500)
	c.MaxBytes = cmp.Or(c.MaxBytes, 1_000_000)
	c.Concurrency = cmp.Or(c.Concurrency, 4)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.Failures = cmp.Or(c.Failures, 5)
	c.Cooldown = cmp.Or(c.Cooldown, 10*time.Second)
	if c.Client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = c.Concurrency
		c.Client = &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Sink{config: c, slots: make(chan struct{}, c.Concurrency), now: time.Now}, nil
}

// Close closes connections that are idle.
func (s *Sink) Close() error {
	s.config.Client.CloseIdleConnections()
	return nil
}

// event is a message as it is posted.
type event struct {
	index  int // of the message in the batch
	offset int64
	text   []byte
}

// Write implements consumers.Sink.
func (s *Sink) Write(ctx context.Context, b consumers.Batch) error {
	events := make([]event, 0, len(b.Messages))
	refused := &stream.BatchError{}
	for i, m := range b.Messages {
		text, err := s.event(m)
		if err != nil {
			refused.Fail(i, err)
			continue
		}
		events = append(events, event{i, m.Offset, text})
	}
	if err := refused.OrNil(); err != nil {
		return err
	}
	for len(events) > 0 {
		n, size := 0, 0
		for n < len(events) && n < s.config.MaxEvents && (n == 0 || size+len(events[n].text) <= s.config.MaxBytes) {
			size += len(events[n].text) + 1
			n++
		}
		if err := s.deliver(ctx, b, events[:n], refused); err != nil {
			return fmt.Errorf("post %s[%d] from offset %d: %w", b.Topic, b.Partition, events[0].offset, err)
		}
		events = events[n:]
	}
	return refused.OrNil()
}

// event is one event of the CloudEvents specification, 1.0, in JSON.
func (s *Sink) event(m consumers.Message) ([]byte, error) {
	e := map[string]any{
		"specversion": "1.0",
		"id":          fmt.Sprintf("%d/%d", m.Partition, m.Offset),
		"source":      "/penstock/" + url.PathEscape(s.config.Pipeline) + "/" + url.PathEscape(m.Topic),
		"type":        m.Topic,
		"time":        m.Time.UTC().Format(time.RFC3339Nano),
	}
	if m.Key != nil {
		e["partitionkey"] = string(m.Key)
	}
	if m.Schema == nil {
		e["tombstone"] = true
	} else {
		data, err := schemas.AppendJSON(nil, m.Data)
		if err != nil {
			return nil, err
		}
		e["datacontenttype"], e["data"] = "application/json", json.RawMessage(data)
	}
	return json.Marshal(e)
}

// deliver posts events, and halves them where they are refused.
func (s *Sink) deliver(ctx context.Context, b consumers.Batch, events []event, refused *stream.BatchError) error {
	err := s.post(ctx, b, events)
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	if len(events) == 1 {
		refused.Fail(events[0].index, err)
		return nil
	}
	for _, half := range [][]event{events[:len(events)/2], events[len(events)/2:]} {
		if err := s.deliver(ctx, b, half, refused); err != nil {
			return err
		}
	}
	return nil
}

// refusal is an answer that refuses the content of a request.
type refusal struct{ answer string }

func (r *refusal) Error() string { return "the endpoint refuses it: " + r.answer }

// later is a failure that may pass.
type later struct {
	err   error
	after time.Duration
}

func (l *later) Error() string             { return l.err.Error() }
func (l *later) Unwrap() error             { return l.err }
func (l *later) RetryAfter() time.Duration { return l.after }

// post makes one request.
func (s *Sink) post(ctx context.Context, b consumers.Batch, events []event) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.admit(); err != nil {
		return err
	}
	err := s.send(ctx, b, events)
	if ctx.Err() != nil {
		s.note(nil, true)
		return ctx.Err()
	}
	s.note(err, false)
	return err
}

// admit refuses while the circuit is open.
func (s *Sink) admit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures < s.config.Failures {
		return nil
	}
	wait := s.until.Sub(s.now())
	if wait <= 0 && !s.trying {
		s.trying = true
		return nil
	}
	return &later{fmt.Errorf("the endpoint failed %d times in a row, and is left alone for a while", s.failures), max(wait, s.config.Cooldown/10)}
}

// note counts failures, and opens or closes the circuit.
func (s *Sink) note(err error, unknown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trying = false
	var failed *later
	switch {
	case unknown:
	case errors.As(err, &failed):
		s.failures++
		s.until = s.now().Add(max(s.config.Cooldown, failed.after))
	default:
		s.failures = 0
	}
}

// maxAnswer is how much of an answer is read, and maxQuoted how much of it an
// error quotes.
const (
	maxAnswer = 64 << 10
	maxQuoted = 200
)

func (s *Sink) send(ctx context.Context, b consumers.Batch, events []event) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	body := []byte{'['}
	for i, e := range events {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.text...)
	}
	body = append(body, ']')
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.config.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", consumers.ErrStop, err)
	}
	for k, v := range s.config.Header {
		request.Header[http.CanonicalHeaderKey(k)] = v
	}
	id := fmt.Sprintf("%s-%s-%d-%d-%d", url.PathEscape(s.config.Pipeline), url.PathEscape(b.Topic), b.Partition, events[0].offset, events[len(events)-1].offset)
	request.Header.Set("Content-Type", "application/cloudevents-batch+json")
	request.Header.Set("Idempotency-Key", id)
	s.sign(request.Header, id, body)
	answer, err := s.config.Client.Do(request)
	if err != nil {
		return &later{fmt.Errorf("no answer: %w", withoutURL(err)), 0}
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // only to be quoted
	said := answer.Status
	if len(text) > 0 {
		said = fmt.Sprintf("%s: %q", answer.Status, text[:min(len(text), maxQuoted)])
	}
	switch code := answer.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return &later{errors.New("the endpoint answers " + said), s.retryAfter(answer.Header.Get("Retry-After"))}
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		return &refusal{said}
	}
	return fmt.Errorf("the endpoint answers %s; look at its address and keys: %w", said, consumers.ErrStop)
}

// withoutURL is an error of the client without the address, in which a key may
// stand.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// sign signs a request as https://www.standardwebhooks.com says.
func (s *Sink) sign(h http.Header, id string, body []byte) {
	at := strconv.FormatInt(s.now().Unix(), 10)
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", at)
	if len(s.config.Secret) == 0 {
		return
	}
	mac := hmac.New(sha256.New, s.config.Secret)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, at, body) // a hash takes everything
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// maxRetryAfter bounds what an endpoint may ask for.
const maxRetryAfter = time.Hour

// retryAfter reads the header: seconds, or a date.
func (s *Sink) retryAfter(text string) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(s.now())
	}
	return min(max(wait, 0), maxRetryAfter)
}
