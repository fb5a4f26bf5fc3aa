package consumers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"penstock/schemas"
	"penstock/stream"
)

// ReadersTopic is where consumers announce what they read, so that whoever is to
// change a schema can see whom that concerns. It has one partition; how long an
// announcement stays is its retention.
const ReadersTopic = "penstock.readers"

// announceAgain is how often a Reading is announced that did not change: well
// within the seven days for which Kafka keeps records where nothing else is set.
const announceAgain = 24 * time.Hour

// Reading is what a consumer announces.
type Reading struct {
	Topic string `json:"topic"`
	Group string `json:"group"`
	// Schemas are the ids of the values read so far, ascending.
	Schemas []schemas.ID `json:"schemas"`
	// Pinned is that values are read as one schema, whatever they were written
	// with.
	Pinned bool `json:"pinned,omitempty"`
	// Fields are the fields that are used, as position.altitude; none is all.
	Fields []string `json:"fields,omitempty"`
	// To is where what is read goes, in words and without secrets.
	To string `json:"to,omitempty"`
}

// ReadReading reads an announcement.
func ReadReading(r stream.Record) (Reading, error) {
	var reading Reading
	if err := json.Unmarshal(r.Value, &reading); err != nil || reading.Topic == "" || reading.Group == "" {
		return reading, fmt.Errorf("record %d of %s: expected a JSON object with topic and group, found %.100q", r.Offset, r.Topic, r.Value)
	}
	return reading, nil
}

// Announcer announces what a consumer reads, as the batches show it. It may be
// used concurrently.
type Announcer struct {
	broker AnnouncerBroker

	mu      sync.Mutex
	reading Reading
	made    bool      // the topic is there
	unsaid  bool      // reading holds what was not announced
	next    time.Time // when to announce again, whatever changed
}

// AnnouncerBroker is what an Announcer asks of a stream.Broker.
type AnnouncerBroker interface {
	stream.Publisher
	Create(ctx context.Context, topic string, partitions int) error
}

// NewAnnouncer returns an announcer of r, to which the batches add Schemas.
func NewAnnouncer(broker AnnouncerBroker, r Reading) *Announcer {
	r.Schemas = slices.Clone(r.Schemas)
	return &Announcer{broker: broker, reading: r}
}

// Announce publishes the reading if b holds values of a schema that none before
// it had, or the last announcement is a day old. After an error it tries again
// with the first batch a minute later; that nobody hears of a consumer is no
// reason to stop it.
func (a *Announcer) Announce(ctx context.Context, b Batch) error {
	const again = time.Minute
	a.mu.Lock()
	defer a.mu.Unlock()
	var last schemas.ID
	for i := range b.Messages {
		id := b.Messages[i].SchemaID
		if id == last || id == 0 {
			continue
		}
		last = id
		if at, known := slices.BinarySearch(a.reading.Schemas, id); !known {
			a.reading.Schemas = slices.Insert(a.reading.Schemas, at, id)
			if !a.unsaid {
				a.unsaid, a.next = true, time.Time{}
			}
		}
	}
	now := time.Now()
	if last == 0 || now.Before(a.next) {
		return nil
	}
	a.next = now.Add(again)
	value, err := json.Marshal(a.reading)
	if err != nil {
		return fmt.Errorf("announce what is read: %w", err)
	}
	if !a.made {
		if err := a.broker.Create(ctx, ReadersTopic, 1); err != nil {
			return fmt.Errorf("announce what is read: %w", err)
		}
		a.made = true
	}
	if err := a.broker.Publish(ctx, stream.Record{
		Topic: ReadersTopic, Key: []byte(a.reading.Group + "/" + a.reading.Topic), Value: value,
	}); err != nil {
		return fmt.Errorf("announce what is read: %w", err)
	}
	a.unsaid, a.next = false, now.Add(announceAgain)
	return nil
}
