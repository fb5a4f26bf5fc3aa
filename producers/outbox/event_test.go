package outbox

import (
	"testing"
	"time"
)

// Whatever the columns hold, they make an event or an error, and a payload that
// is there makes no tombstone.
func FuzzEvent(f *testing.F) {
	f.Add("orders", `{"n": 1}`, `{"trace": "1"}`)
	f.Add("", `null`, `{"a": {"b": [1e400]}}`)
	f.Add("t", `[[[[`, `"text"`)
	f.Fuzz(func(t *testing.T, topic, payload, headers string) {
		e, err := event(1, time.Time{}, topic, nil, nil, &payload, &headers)
		if err == nil && (e.Topic == "" || e.Value == nil || len(e.Headers) == 0) {
			t.Errorf("made an event %v", e)
		}
	})
}
