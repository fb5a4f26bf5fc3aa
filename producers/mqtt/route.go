package mqtt

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"penstock/producers"
	"penstock/stream"
)

// TopicHeader is the header of a record that names the MQTT topic it came from.
const TopicHeader = "mqtt-topic"

// Route says what becomes of the messages that a topic filter selects. Topic and
// Key are templates: {2} is the second level of the message's topic, counted from
// 1, and {topic} all of it.
type Route struct {
	Filter string // as MQTT has it, with + and #, or $share/GROUP/FILTER
	// Topic is where the event goes. A / that {topic} brings becomes a dot.
	Topic string
	// Key is the event's key; empty is {topic}, so that what was published to
	// one MQTT topic keeps its order.
	Key string
}

// route is a Route that has been looked at.
type route struct {
	Route
	levels []string // of the filter
}

// placeholder is {N} or {topic}.
var placeholder = regexp.MustCompile(`\{(?:topic|[1-9][0-9]?)\}`)

// topicName is a name that every broker takes.
var topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

func parseRoute(r Route) (route, error) {
	if r.Key == "" {
		r.Key = "{topic}"
	}
	filter := r.Filter
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		_, filter, _ = strings.Cut(rest, "/")
	}
	if filter == "" || len(r.Filter) > 65535 {
		return route{}, fmt.Errorf("filter %q: expected a topic filter, as sensors/+/temp", r.Filter)
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if strings.ContainsAny(level, "+#") && level != "+" && (level != "#" || i != len(levels)-1) {
			return route{}, fmt.Errorf("filter %q: expected + and # to be a level of their own, and # the last", r.Filter)
		}
	}
	for _, template := range []string{r.Topic, r.Key} {
		if rest := placeholder.ReplaceAllString(template, ""); strings.ContainsAny(rest, "{}") {
			return route{}, fmt.Errorf("template %q: expected {topic} or the number of a level, as {2}, between braces", template)
		}
	}
	if rest := placeholder.ReplaceAllString(r.Topic, "x"); !topicName.MatchString(rest) {
		return route{}, fmt.Errorf("topic %q: expected letters, digits, dots, dashes, underscores and {N} or {topic}", r.Topic)
	}
	return route{r, levels}, nil
}

// selects says whether the filter selects a topic of these levels.
func (r route) selects(levels []string) bool {
	if strings.HasPrefix(levels[0], "$") && (r.levels[0] == "+" || r.levels[0] == "#") {
		return false // wildcards leave the broker's own topics alone
	}
	for i, want := range r.levels {
		switch {
		case want == "#":
			return true
		case i == len(levels):
			return false
		case want != "+" && want != levels[i]:
			return false
		}
	}
	return len(levels) == len(r.levels)
}

// errUnroutable marks a message that no route leads to a topic.
var errUnroutable = errors.New("message has no place to go")

// event is what m becomes. An error wraps errUnroutable or, where only the event's
// value is amiss, is a misfit.
func (b *Bridge) event(m Message) (producers.Event, error) {
	levels := strings.Split(m.Topic, "/")
	for _, r := range b.routes {
		if !r.selects(levels) {
			continue
		}
		topic, err := fill(r.Topic, levels, strings.ReplaceAll(m.Topic, "/", "."))
		if err == nil && !topicName.MatchString(topic) {
			err = fmt.Errorf("%w: %q makes topic %q, expected letters, digits, dots, dashes and underscores, 249 at most", errUnroutable, r.Topic, topic)
		}
		if err != nil {
			return producers.Event{}, err
		}
		key, err := fill(r.Key, levels, m.Topic)
		if err != nil {
			return producers.Event{}, err
		}
		e := producers.Event{Topic: topic, Key: []byte(key), Headers: []stream.Header{{Key: TopicHeader, Value: []byte(m.Topic)}}}
		e.Value, err = producers.Payload(m.Payload)
		return e, err
	}
	return producers.Event{}, fmt.Errorf("%w: no filter selects topic %q; the session has it from an earlier run, another client id begins a new one", errUnroutable, m.Topic)
}

func fill(template string, levels []string, whole string) (string, error) {
	var missing error
	text := placeholder.ReplaceAllStringFunc(template, func(p string) string {
		n, err := strconv.Atoi(p[1 : len(p)-1])
		switch {
		case err != nil:
			return whole
		case n > len(levels):
			missing = fmt.Errorf("%w: %q asks for level %d, the topic has %d", errUnroutable, template, n, len(levels))
			return ""
		}
		return levels[n-1]
	})
	return text, missing
}
