package gateway

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/producers"
	"penstock/schemas"
	"penstock/stream"
)

// cloudEvents reads one CloudEvent in structured mode, or an array of them, and
// makes of each the record that the Kafka binding has for binary mode: attributes
// in headers of ce_, the partitionkey as the key, the data as the value.
func (g *Gateway) cloudEvents(q *request, topic string, value any) error {
	list, pointer := []any{value}, ""
	if q.media == typeCloudEvents {
		var ok bool
		if list, ok = value.([]any); !ok || len(list) == 0 {
			return shape("", "an array of at least one CloudEvent", schemas.Describe(value), "")
		}
		if len(list) > g.cfg.MaxRecords {
			return faultf(codeTooLarge, "expected at most %d events, found %d; send fewer at a time", g.cfg.MaxRecords, len(list))
		}
	}
	raw := g.cfg.AllowRaw(topic)
	how := &producers.Topic{AllowRaw: raw}
	for i, item := range list {
		if q.media == typeCloudEvents {
			pointer = "/" + strconv.Itoa(i)
		}
		object, ok := item.(map[string]any)
		if !ok {
			return shape(pointer, "a CloudEvent", schemas.Describe(item), "")
		}
		e := producers.Event{Topic: topic, How: how}
		attributes := map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(object)) {
			at := pointer + "/" + schemas.EscapePointer(clip(name))
			switch v := object[name]; name {
			case "data":
				e.Value = v
			case "data_base64":
				if object["data"] != nil {
					return shape(at, "either data or data_base64", "both", "")
				}
				b, err := binary(v, at, raw)
				if err != nil {
					return err
				}
				e.Value = b
			default:
				text, err := attribute(v, at)
				if err != nil {
					return err
				}
				attributes[name] = text
			}
		}
		if err := attributed(&e, attributes, func(name string) string { return pointer + "/" + name }); err != nil {
			return err
		}
		q.events = append(q.events, e)
	}
	return nil
}

// attribute is an attribute's value as text: strings, numbers and booleans have
// one.
func attribute(v any, pointer string) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case interface{ String() string }: // json.Number
		return v.String(), nil
	}
	return "", shape(pointer, "a string, a number or a boolean", schemas.Describe(v), "")
}

// cloudHeaders reads the attributes of a CloudEvent in binary mode over HTTP.
func cloudHeaders(e *producers.Event, h http.Header) error {
	attributes := map[string]string{}
	for name, values := range h {
		attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !ok {
			continue
		}
		text, err := url.PathUnescape(values[0]) // the binding's percent-encoding
		if err != nil || len(values) > 1 {
			return faultf(codeShape, "header %s: expected one value in percent-encoding, found %q", clip(name), clip(strings.Join(values, ", ")))
		}
		attributes[attribute] = text
	}
	return attributed(e, attributes, func(name string) string { return "/ce-" + name })
}

// maxAttributes bounds the attributes of a CloudEvent.
const maxAttributes = 64

// attributed puts attributes on an event. place is where one stands.
func attributed(e *producers.Event, attributes map[string]string, place func(string) string) error {
	for _, name := range []string{"id", "source", "type", "specversion"} {
		if attributes[name] == "" {
			return shape(place(name), "an attribute that is not empty", "nothing", "every CloudEvent has id, source, type and specversion")
		}
	}
	if v := attributes["specversion"]; v != "1.0" {
		return shape(place("specversion"), `"1.0"`, strconv.Quote(clip(v)), "")
	}
	if len(attributes) > maxAttributes {
		return shape(place(""), "at most "+strconv.Itoa(maxAttributes)+" attributes", strconv.Itoa(len(attributes)), "")
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if strings.ContainsFunc(name, func(c rune) bool { return !('a' <= c && c <= 'z' || '0' <= c && c <= '9') }) || name == "" {
			return shape(place(schemas.EscapePointer(clip(name))), "a name of lower-case letters and digits", "an attribute of another name", "")
		}
		text := attributes[name]
		switch name {
		case "time":
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return shape(place(name), "a time as RFC 3339 has it", strconv.Quote(clip(text)), "")
			}
			e.Time = at
		case "partitionkey":
			e.Key = []byte(text)
		case "datacontenttype": // the value is of the topic's schema now
			continue
		}
		e.Headers = append(e.Headers, stream.Header{Key: "ce_" + name, Value: []byte(text)})
	}
	if e.Value == nil && e.Key == nil {
		return shape(place("data"), "data, or a partitionkey, because an event without data is a tombstone", "neither", "")
	}
	return nil
}
