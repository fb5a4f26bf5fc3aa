package watermill_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"penstock/producers/watermill"
	"penstock/schemas"
)

// last keeps the last message.
type last struct{ message *message.Message }

func (l *last) Publish(_ string, messages ...*message.Message) error {
	l.message = messages[0]
	return nil
}

func (*last) Close() error { return nil }

// Whatever a payload is, what passes can be read under the schema it names.
func FuzzPayload(f *testing.F) {
	f.Add([]byte(`{"id":"a","amount":1}`))
	f.Add([]byte(`{"id":"a","amount":1e400}`))
	f.Add([]byte{0, 0, 0, 0, 7, 2, 'a', 0, 0, 0, 0, 0, 0, 0xf8, 0x3f})
	f.Add([]byte{0, 0, 0, 0, 7, 0xff})
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		var to last
		if payload == nil || watermill.Validate(&to, orders(), watermill.Config{}).Publish("orders", message.NewMessage("1", payload)) != nil {
			return
		}
		header, rest, err := schemas.ParseHeader(to.message.Payload)
		if err != nil || header.ID != 7 {
			t.Fatalf("%q became %q", payload, to.message.Payload)
		}
		if _, err := schemas.Decode(orders().order, rest, schemas.Limits{}); err != nil {
			t.Fatalf("%q became %q: %v", payload, to.message.Payload, err)
		}
	})
}
