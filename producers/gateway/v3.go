package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// Delivery is what became of one record of v3: where it lies, with an error code
// of 200, or why it was not published.
type Delivery struct {
	ID        string     `json:"id,omitempty"` // of an entry of records:batch
	Code      int        `json:"error_code"`
	Message   string     `json:"message,omitempty"`
	Cluster   string     `json:"cluster_id,omitempty"`
	Topic     string     `json:"topic_name,omitempty"`
	Partition *int32     `json:"partition_id,omitempty"`
	Offset    *int64     `json:"offset,omitempty"`
	Timestamp *time.Time `json:"timestamp,omitempty"`
	Key       *Encoded   `json:"key,omitempty"`
	Value     *Encoded   `json:"value,omitempty"`
	// Violations are those of an event that does not fit.
	Violations []schemas.Violation `json:"violations,omitempty"`
}

// Encoded says how a key or a value was encoded.
type Encoded struct {
	Type          string     `json:"type"`
	Subject       string     `json:"subject,omitempty"`
	SchemaID      schemas.ID `json:"schema_id,omitempty"`
	SchemaVersion int        `json:"schema_version,omitempty"`
}

func (g *Gateway) clusters(w http.ResponseWriter, r *http.Request) {
	g.write(w, http.StatusOK, map[string]any{
		"kind": "KafkaClusterList", "metadata": map[string]any{"self": "/v3/clusters", "next": nil},
		"data": []any{g.describe()},
	})
}

func (g *Gateway) cluster(w http.ResponseWriter, r *http.Request) {
	if err := g.known(r); err != nil {
		g.answer(w, Answer{}, g.asFault(r, err))
		return
	}
	g.write(w, http.StatusOK, g.describe())
}

func (g *Gateway) describe() map[string]any {
	return map[string]any{
		"kind": "KafkaCluster", "metadata": map[string]any{"self": "/v3/clusters/" + g.cfg.Cluster}, "cluster_id": g.cfg.Cluster,
	}
}

// known sees that a path names the cluster.
func (g *Gateway) known(r *http.Request) error {
	if c := r.PathValue("cluster"); c != g.cfg.Cluster {
		return faultf(codeNoCluster, "there is no cluster %q here; its id is %q", clip(c), g.cfg.Cluster)
	}
	return nil
}

// recordV3 is a record on its way.
type recordV3 struct {
	event      producers.Event
	key, value side
}

// delivered says where the record lies.
func (g *Gateway) delivered(q *recordV3, at producers.Place) Delivery {
	d := Delivery{
		Code: http.StatusOK, Cluster: g.cfg.Cluster, Topic: q.event.Topic,
		Partition: &at.Partition, Offset: &at.Offset, Timestamp: &q.event.Time,
	}
	for _, s := range []struct {
		side *side
		to   **Encoded
	}{{&q.key, &d.Key}, {&q.value, &d.Value}} {
		if s.side.form == "" {
			continue
		}
		e := &Encoded{Type: s.side.form, Subject: s.side.subject, SchemaID: s.side.found.ID, SchemaVersion: s.side.found.Version}
		if s.side.found.Schema != nil {
			for form, language := range languages {
				if language == s.side.found.Schema.Type() {
					e.Type = form
				}
			}
		}
		*s.to = e
	}
	return d
}

// undelivered says why a record was not published.
func (g *Gateway) undelivered(topic string, err error) Delivery {
	r := g.refused(topic, err)
	return Delivery{Code: r.Code, Message: r.Message, Violations: r.Violations}
}

// window is how many records of a stream may be on their way.
const window = 1000

// stream takes records, one JSON object after the other, and answers each in
// order as soon as it is known what became of it, for as long as the client
// sends. A record that is no JSON ends the stream, since nobody can say where the
// next one begins.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request) {
	if err := g.known(r); err != nil {
		g.answer(w, Answer{}, g.asFault(r, err))
		return
	}
	of, err := onceOf(r, nil)
	if err != nil {
		g.answer(w, Answer{}, g.asFault(r, err))
		return
	}
	if !g.take(w, g.streams, "streams") {
		return
	}
	defer func() { <-g.streams }()
	control := http.NewResponseController(w)
	if err := control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		g.answer(w, Answer{}, g.asFault(r, err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	answers := make(chan (<-chan Delivery), window)
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := g.report(w, control, answers); err != nil {
			g.cfg.Log.DebugContext(ctx, "answer a stream of records", "error", err) // the client is gone
			cancel()
			for range answers { // what is on its way is not told any more
			}
		}
	}()
	body := &limited{of: r.Body, most: g.cfg.MaxBodyBytes}
	records := json.NewDecoder(body)
	for nth := 0; ctx.Err() == nil; nth++ {
		answer := make(chan Delivery, 1)
		more := g.next(ctx, w, r, body, records, of, nth, answer)
		if !more && len(answer) == 0 {
			break // the end
		}
		answers <- answer
		if !more {
			break
		}
	}
	close(answers)
	<-written
}

// next reads the nth record and sends it on, once if the stream has a key; its answer comes to answer. It reports
// false at the end of the stream, with an answer if that was not its own.
func (g *Gateway) next(ctx context.Context, w http.ResponseWriter, r *http.Request, body *limited, records *json.Decoder, of *once, nth int, answer chan<- Delivery) bool {
	topic := r.PathValue("topic")
	last := func(f *fault) bool {
		answer <- g.undelivered(topic, f)
		return false
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.cfg.ReadTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		g.cfg.Log.WarnContext(ctx, "set the deadline of a record", "error", err)
		return last(faultf(codeInternal, "the gateway failed; its log says why"))
	}
	body.read = 0
	var text json.RawMessage
	err := records.Decode(&text)
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF):
		return false
	case errors.Is(err, errTooLarge):
		return last(faultf(codeTooLarge, "expected a record of at most %d bytes; the stream ends here", g.cfg.MaxBodyBytes))
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return last(faultf(codeJSON, "expected one record after the other, each a JSON object, found a syntax error after %d bytes of the stream: %v; the stream ends here", records.InputOffset(), err))
	case err != nil:
		return last(faultf(codeSlow, "the next record did not arrive within %s; the stream ends here", g.cfg.ReadTimeout))
	}
	q := &recordV3{}
	value, err := schemas.ParseJSON(text)
	if err != nil {
		err = faultf(codeJSON, "%v", err)
	} else {
		err = g.readV3(q, topic, value, "")
	}
	switch {
	case err != nil:
	case of != nil:
		err = g.streamOnce(ctx, of.nth(nth, text), q, answer)
	default:
		err = g.single.Send(ctx, q.event, func(at producers.Place, err error) {
			if err != nil {
				answer <- g.undelivered(topic, err)
			} else {
				answer <- g.delivered(q, at)
			}
		})
	}
	if err != nil {
		answer <- g.undelivered(topic, err)
	}
	return true
}

// streamOnce sends one record of a stream that has a key.
func (g *Gateway) streamOnce(ctx context.Context, o *once, q *recordV3, answer chan<- Delivery) error {
	topic := q.event.Topic
	return g.once(ctx, topic, o, func() ([]stream.Record, any, error) {
		records, err := g.producer.Encode(ctx, q.event)
		return records, g.delivered(q, producers.Place{}), ofBatch(err)
	}, func(k *kept, err error) {
		var d Delivery
		if err == nil {
			err = json.Unmarshal(k.answer, &d)
		}
		if err = ofBatch(err); err != nil {
			d = g.undelivered(topic, err)
		} else {
			d.Partition, d.Offset = &k.places[0].Partition, &k.places[0].Offset
		}
		answer <- d
	})
}

// report writes answers in their order, and sends them off whenever the next one
// is not known yet.
func (g *Gateway) report(w io.Writer, control *http.ResponseController, answers <-chan (<-chan Delivery)) error {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	flush := func() error {
		if err := control.SetWriteDeadline(time.Now().Add(g.cfg.PublishTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		return control.Flush()
	}
	for {
		var answer <-chan Delivery
		var more bool
		select {
		case answer, more = <-answers:
		default:
			if err := flush(); err != nil {
				return err
			}
			answer, more = <-answers
		}
		if !more {
			return flush()
		}
		var d Delivery
		select {
		case d = <-answer:
		default:
			if err := flush(); err != nil {
				return err
			}
			d = g.wait(answer)
		}
		if err := encode.Encode(d); err != nil {
			return err
		}
	}
}

// wait waits for an answer, as long as the broker may take.
func (g *Gateway) wait(answer <-chan Delivery) Delivery {
	timer := time.NewTimer(g.cfg.PublishTimeout)
	defer timer.Stop()
	select {
	case d := <-answer:
		return d
	case <-timer.C:
		return Delivery{Code: codeAway, Message: fmt.Sprintf("the broker did not confirm the event within %s; it may have been written or not", g.cfg.PublishTimeout)}
	}
}

// errTooLarge ends a stream of records.
var errTooLarge = errors.New("record too large")

// limited reads from a body until it has read so much for one record.
type limited struct {
	of   io.Reader
	most int64
	read int64 // for this record; the decoder may have read some of it before
}

func (l *limited) Read(p []byte) (int, error) {
	if l.read >= l.most {
		return 0, errTooLarge
	}
	n, err := l.of.Read(p[:min(int64(len(p)), l.most-l.read)])
	l.read += int64(n)
	return n, err
}

// maxEntries is how many records records:batch takes.
const maxEntries = 10

// batch takes up to ten records at once, and tells of each what became of it, by
// the id that the caller gives it.
func (g *Gateway) batch(w http.ResponseWriter, r *http.Request) {
	in := g.admit(w, r)
	if in == nil {
		return
	}
	defer in.done()
	answer, err := g.entries(w, r, in)
	if err != nil {
		g.answer(w, Answer{}, g.asFault(r, err))
		return
	}
	g.write(w, http.StatusMultiStatus, answer)
}

// Batch is the answer to records:batch.
type Batch struct {
	Successes []Delivery `json:"successes"`
	Failures  []Delivery `json:"failures"`
}

func (g *Gateway) entries(w http.ResponseWriter, r *http.Request, in *admitted) (Batch, error) {
	answer := Batch{[]Delivery{}, []Delivery{}}
	if err := g.known(r); err != nil {
		return answer, err
	}
	topic := r.PathValue("topic")
	value, text, err := g.body(w, r, in, nil)
	if err != nil {
		return answer, err
	}
	key, err := onceOf(r, text)
	if err != nil {
		return answer, err
	}
	body, _ := value.(map[string]any)
	list, ok := body["entries"].([]any)
	if !ok || len(list) == 0 || len(list) > maxEntries {
		return answer, shape("/entries", fmt.Sprintf("an array of 1 to %d records", maxEntries), schemas.Describe(body["entries"]), "")
	}
	if err := onlyMembers(body, "", "entries"); err != nil {
		return answer, err
	}
	var (
		ids    []string
		all    []*recordV3
		events []producers.Event
		given  = map[string]bool{}
	)
	for i, item := range list {
		pointer := "/entries/" + strconv.Itoa(i)
		entry, _ := item.(map[string]any)
		id, ok := entry["id"].(string)
		if !ok || id == "" || len(id) > 80 || given[id] {
			return answer, shape(pointer+"/id", "a string of 1 to 80 bytes that no other entry has", schemas.Describe(entry["id"]), "")
		}
		given[id] = true
		delete(entry, "id")
		q := &recordV3{}
		if err := g.readV3(q, topic, entry, pointer); err != nil {
			d := g.undelivered(topic, err)
			d.ID = id
			answer.Failures = append(answer.Failures, d)
			continue
		}
		ids, all, events = append(ids, id), append(all, q), append(events, q.event)
	}
	ctx, cancel := context.WithTimeout(r.Context(), g.cfg.PublishTimeout)
	defer cancel()
	if key != nil {
		return g.entriesOnce(ctx, w, topic, key, ids, all, answer)
	}
	err = g.producer.Publish(ctx, events...)
	failed := &stream.BatchError{}
	whole := err != nil && !errors.As(err, &failed)
	for i, id := range ids {
		var d Delivery
		switch {
		case whole:
			d = g.undelivered(topic, err)
		case failed.Errs[i] != nil:
			d = g.undelivered(topic, failed.Errs[i])
		default:
			d = g.delivered(all[i], producers.Place{Partition: events[i].Partition, Offset: events[i].Offset})
		}
		d.ID = id
		if d.Code == http.StatusOK {
			answer.Successes = append(answer.Successes, d)
		} else {
			answer.Failures = append(answer.Failures, d)
		}
	}
	return answer, nil
}

// entriesOnce publishes the entries of a batch that has a key. Those that fit are
// published together.
func (g *Gateway) entriesOnce(ctx context.Context, w http.ResponseWriter, topic string, key *once, ids []string, all []*recordV3, answer Batch) (Batch, error) {
	kept, err := g.keep(ctx, w, topic, key, func() (records []stream.Record, _ any, err error) {
		for i, q := range all {
			record, err := g.producer.Encode(ctx, q.event)
			failed := &stream.BatchError{}
			if err != nil && !errors.As(err, &failed) {
				return nil, nil, err
			}
			if err != nil {
				d := g.undelivered(topic, failed.Errs[0])
				d.ID = ids[i]
				answer.Failures = append(answer.Failures, d)
				continue
			}
			d := g.delivered(q, producers.Place{})
			d.ID = ids[i]
			records, answer.Successes = append(records, record...), append(answer.Successes, d)
		}
		return records, answer, nil
	})
	if err != nil {
		return answer, g.explain(topic, err)
	}
	answer = Batch{}
	if err := json.Unmarshal(kept.answer, &answer); err != nil {
		return answer, fmt.Errorf("read a kept answer: %w", err)
	}
	for i := range answer.Successes {
		answer.Successes[i].Partition, answer.Successes[i].Offset = &kept.places[i].Partition, &kept.places[i].Offset
	}
	return answer, nil
}

// readV3 reads a record of v3.
func (g *Gateway) readV3(q *recordV3, topic string, value any, pointer string) error {
	object, ok := value.(map[string]any)
	if !ok {
		return shape(pointer, `a record, {"key": {"type": …, "data": …}, "value": {"type": …, "data": …}}`, schemas.Describe(value), "")
	}
	if err := onlyMembers(object, pointer, "headers", "key", "value", "timestamp", "partition_id"); err != nil {
		return err
	}
	if p := object["partition_id"]; p != nil {
		return shape(pointer+"/partition_id", "no partition", schemas.Describe(p), "the key decides it")
	}
	q.event = producers.Event{Topic: topic, Time: time.Now().UTC().Truncate(time.Millisecond)}
	if t := object["timestamp"]; t != nil {
		text, _ := t.(string)
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return shape(pointer+"/timestamp", "a time as RFC 3339 has it", schemas.Describe(t), "")
		}
		q.event.Time = at
	}
	if err := headersV3(&q.event, object["headers"], pointer+"/headers"); err != nil {
		return err
	}
	how := &producers.Topic{AllowRaw: g.cfg.AllowRaw(topic)}
	q.event.How = how
	key, err := g.sideV3(&q.key, &how.Key, object["key"], pointer+"/key", producers.KeySubject, topic)
	if err != nil {
		return err
	}
	switch {
	case q.key.form == formBinary || q.key.form == formString || q.key.form == formJSON:
		if q.event.Key, err = bytesOf(q.key.form, key, pointer+"/key/data"); err != nil {
			return err
		}
	case key != nil:
		q.event.KeyValue = key
	}
	data, err := g.sideV3(&q.value, &how.Value, object["value"], pointer+"/value", producers.TopicSubject, topic)
	switch {
	case err != nil:
		return err
	case data == nil && q.event.Key == nil && q.event.KeyValue == nil:
		return shape(pointer+"/key", "a key, because the record is a tombstone", "nothing", "")
	case data == nil:
		return nil
	case q.value.form == formBinary:
		q.event.Value, err = binary(data, pointer+"/value/data", how.AllowRaw)
		return err
	case how.AllowRaw && (q.value.form == formString || q.value.form == formJSON):
		raw, err := bytesOf(q.value.form, data, pointer+"/value/data")
		q.event.Value = producers.Raw(raw)
		return err
	}
	q.event.Value = data
	return nil
}

// bytesOf is data that has no schema as the bytes that it is in.
func bytesOf(form string, data any, pointer string) ([]byte, error) {
	switch {
	case data == nil:
		return nil, nil
	case form == formBinary:
		return decode64(data, pointer)
	case form == formString:
		text, ok := data.(string)
		if !ok {
			return nil, shape(pointer, "a string", schemas.Describe(data), "")
		}
		return []byte(text), nil
	}
	b, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return b, nil
}

// headersV3 reads [{"name": …, "value": base64}].
func headersV3(e *producers.Event, v any, pointer string) error {
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		return shape(pointer, `an array of {"name": …, "value": base64}`, schemas.Describe(v), "")
	}
	for i, item := range list {
		at := pointer + "/" + strconv.Itoa(i)
		object, _ := item.(map[string]any)
		name, ok := object["name"].(string)
		if !ok {
			return shape(at+"/name", "a string", schemas.Describe(object["name"]), "")
		}
		if err := onlyMembers(object, at, "name", "value"); err != nil {
			return err
		}
		h := stream.Header{Key: name}
		if object["value"] != nil {
			var err error
			if h.Value, err = decode64(object["value"], at+"/value"); err != nil {
				return err
			}
		}
		e.Headers = append(e.Headers, h)
	}
	return nil
}

// sideV3 reads the key or the value of a record, and how it is encoded.
func (g *Gateway) sideV3(s *side, part *producers.Part, v any, pointer string, subject producers.Subject, topic string) (data any, err error) {
	if v == nil {
		return nil, nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, shape(pointer, `an object, {"type": …, "data": …}`, schemas.Describe(v), "")
	}
	if err := onlyMembers(object, pointer, "type", "data", "subject", "subject_name_strategy", "schema_id", "schema_version", "schema"); err != nil {
		return nil, err
	}
	s.form = formAvro // of the schema, once it is known
	var language schemas.Type
	if t := object["type"]; t != nil {
		form, _ := t.(string)
		language = languages[form]
		if language == "" && form != formBinary && form != formString && form != formJSON {
			return nil, shape(pointer+"/type", "one of BINARY, JSON, STRING, AVRO, JSONSCHEMA, PROTOBUF", schemas.Describe(t), "")
		}
		s.form = form
	}
	data = object["data"]
	if language == "" && object["type"] != nil {
		if err := onlyMembers(object, pointer, "type", "data"); err != nil {
			return nil, err
		}
		return data, nil
	}
	if data == nil {
		return nil, nil
	}
	c := Choice{Type: language}
	named := 0
	for _, field := range []string{"schema_id", "schema_version", "schema"} {
		v := object[field]
		if v == nil {
			continue
		}
		if named++; named > 1 {
			return nil, shape(pointer+"/"+field, "one of schema_id, schema_version and schema", "another one of them", "")
		}
		at := pointer + "/" + field
		switch field {
		case "schema":
			if c.Schema, ok = v.(string); !ok || language == "" {
				return nil, shape(at, "the text of a schema as a string, beside a type", schemas.Describe(v), "")
			}
		case "schema_id":
			n, err := positive(v, at)
			if err != nil {
				return nil, err
			}
			c.ID = schemas.ID(n)
		default:
			n, err := positive(v, at)
			if err != nil {
				return nil, err
			}
			c.Version = int(n)
		}
	}
	if v := object["subject"]; v != nil {
		name, ok := v.(string)
		if !ok || name == "" || object["subject_name_strategy"] != nil {
			return nil, shape(pointer+"/subject", "a subject's name, or a subject_name_strategy", schemas.Describe(v), "")
		}
		subject = producers.FixedSubject(name)
	}
	if v := object["subject_name_strategy"]; v != nil {
		switch v {
		case "TOPIC_NAME":
		case "RECORD_NAME", "TOPIC_RECORD_NAME":
			if c.Schema == "" {
				return nil, shape(pointer+"/subject_name_strategy", "TOPIC_NAME, unless the schema is given as text", schemas.Describe(v), "name the subject")
			}
			name, err := g.nameOf(c)
			if err != nil {
				return nil, shape(pointer+"/schema", "a schema in "+string(language), err.Error(), "")
			}
			if v == "TOPIC_RECORD_NAME" {
				name = topic + "-" + name
			}
			subject = producers.FixedSubject(name)
		default:
			return nil, shape(pointer+"/subject_name_strategy", "one of TOPIC_NAME, RECORD_NAME, TOPIC_RECORD_NAME", schemas.Describe(v), "")
		}
	}
	if g.cfg.Lookup == nil && c == (Choice{Type: language}) {
		part.Subject = subject
		return data, nil
	}
	*part, err = g.chosen(s, c, subject, language)
	return data, err
}

// nameOf is the full name of the record that a schema given as text describes.
func (g *Gateway) nameOf(c Choice) (string, error) {
	for _, f := range g.cfg.Formats {
		if f.Type() != c.Type {
			continue
		}
		s, err := f.Parse(c.Schema, nil)
		if err != nil {
			return "", err
		}
		return s.Model().Name, nil
	}
	return "", errors.New("a language that is not read here")
}
