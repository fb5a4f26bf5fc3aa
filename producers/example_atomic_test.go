package producers_test

import (
	"context"
	"errors"
	"fmt"

	"penstock/producers"
	"penstock/schemas"
	"penstock/schemas/avro"
	"penstock/stream"
	"penstock/stream/memory"
)

// latest is a registry of one schema.
type latest struct{ schemas.Schema }

func (l latest) Latest(context.Context, string) (schemas.ID, schemas.Schema, error) {
	return 1, l.Schema, nil
}

func ExampleProducer_PublishAtomic() {
	ctx := context.Background()
	order, err := avro.Format{}.Parse(`{"type":"record","name":"Order","fields":[{"name":"id","type":"string"}]}`, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	broker := memory.New()
	for _, topic := range []string{"orders", "shipments"} {
		if err := broker.Create(ctx, topic, 1); err != nil {
			fmt.Println(err)
			return
		}
	}
	p := producers.New(broker, latest{order}, producers.Config{})

	err = p.PublishAtomic(ctx, stream.Conditions{},
		producers.Event{Topic: "orders", Value: map[string]any{"id": "o-1"}},
		producers.Event{Topic: "shipments", Value: map[string]any{"id": "s-1"}},
	)
	fmt.Println("both:", err)

	// The first record of topic orders has offset 0. If anybody has written behind
	// it, this is not to be written.
	err = p.PublishAtomic(ctx, stream.Conditions{ID: "o-2", After: map[int32]int64{0: 0}},
		producers.Event{Topic: "orders", Value: map[string]any{"id": "o-2"}},
	)
	switch {
	case errors.Is(err, stream.ErrConflict): // read what is there, and decide anew
	case errors.Is(err, stream.ErrUnknownOutcome): // ask again, with the same ID
	case errors.Is(err, stream.ErrDuplicate): // it was written the last time
	default:
		fmt.Println("behind it:", err)
	}
	// Output:
	// both: <nil>
	// behind it: <nil>
}
