package protobuf_test

import (
	"fmt"
	"strings"
	"testing"

	"penstock/schemas/protobuf"
)

// Texts of up to a megabyte that are made to cost time, memory or the stack:
// each is read, or refused for what it is.
func TestHostileTexts(t *testing.T) {
	const head = `syntax="proto3";`
	fields := func(n int) string {
		var b strings.Builder
		for i := 1; i <= n; i++ {
			number := i
			if i >= 19000 {
				number += 1000 // those between are reserved
			}
			fmt.Fprintf(&b, "int32 f%d=%d;", i, number)
		}
		return b.String()
	}
	f := func(name, text, refusal string) {
		t.Helper()
		_, err := protobuf.Format{}.Parse(text, nil)
		if refusal == "" && err != nil || refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)) {
			t.Errorf("%s: %.200v, want %q", name, err, refusal)
		}
	}
	f("ten thousand fields", head+"message A{"+fields(10000)+"}", "")
	f("messages within messages", strings.Repeat("message A{", 100000), "at most 64 levels")
	f("33 messages within each other", head+strings.Repeat("message A{", 33)+strings.Repeat("}", 33), "nesting depth")
	f("an option within an option", "option a={"+strings.Repeat("a:{", 300000), "at most 64 levels")
	f("long names", head+"message "+strings.Repeat("A", 500000)+"{"+strings.Repeat("message A{", 20)+strings.Repeat("}", 20)+fields(20000)+"}", "full names")
	f("a long package", head+"package a"+strings.Repeat(".a", 200000)+";message A{"+fields(10000)+"}", "full names")
	f("one import again and again", head+strings.Repeat(`import "google/protobuf/any.proto";`, 30000), "already imported")
	f("a number of a million digits", head+"message A{int32 a="+strings.Repeat("9", 1000000)+";}", "syntax error")
	f("a message of itself", head+"message A{A a=1;map<string,A> b=2;}", "")
}
