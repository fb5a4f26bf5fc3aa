package stream

import (
	"strings"
	"unicode/utf8"
)

// The headers of a dead letter, which producers and consumers write alike. Those
// of Kafka Connect say where the record came from, and keep their first value
// when a record is set aside again; ours say what happened last.
const (
	HeaderTopic     = "__connect.errors.topic"
	HeaderPartition = "__connect.errors.partition"
	HeaderOffset    = "__connect.errors.offset"
	HeaderStage     = "__connect.errors.stage" // VALUE_CONVERTER or TASK_PUT
	HeaderClass     = "__connect.errors.exception.class.name"
	HeaderMessage   = "__connect.errors.exception.message"

	HeaderReason  = "penstock-dlq-reason"  // a code
	HeaderError   = "penstock-dlq-error"   // one sentence
	HeaderPointer = "penstock-dlq-pointer" // a JSON Pointer, or empty
	HeaderGroup   = "penstock-dlq-group"   // of the consumer; a producer has none
	HeaderTime    = "penstock-dlq-time"    // RFC 3339, UTC
)

// maxHeaderBytes is the most of an error that goes into a header: enough to act
// on, and far below what brokers allow beside a record of the largest size.
const maxHeaderBytes = 2048

// HeaderText makes an error's text fit for a header: UTF-8, cut between
// characters to 2 KiB.
func HeaderText(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxHeaderBytes {
		return s
	}
	cut := maxHeaderBytes - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
