package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	watermill "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"penstock/stream/memory"
	streams "penstock/stream/watermill"
)

// A router reads orders one by one, tries again what fails, and sets aside what
// keeps failing. What it makes in the context of an order gets the order's key,
// and so its place among what that customer causes.
func Example() {
	broker := memory.New()
	sub := streams.NewSubscriber(broker, streams.SubscriberConfig{Group: "billing"})
	pub := streams.NewPublisher(broker, streams.PublisherConfig{})
	for _, topic := range []string{"orders", "invoices", "orders.billing.dlq"} {
		if err := sub.SubscribeInitialize(topic); err != nil {
			fmt.Println(err)
			return
		}
	}

	orders := streams.NewPublisher(broker, streams.PublisherConfig{Key: streams.KeyFromMetadata("customer")})
	for i, amount := range []string{"30", "free", "12"} {
		m := message.NewMessage(fmt.Sprint("order-", i+1), []byte(amount))
		m.Metadata.Set("customer", "ada")
		if err := orders.Publish("orders", m); err != nil {
			fmt.Println(err)
			return
		}
	}

	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		fmt.Println(err)
		return
	}
	setAside, err := middleware.PoisonQueue(pub, "orders.billing.dlq")
	if err != nil {
		fmt.Println(err)
		return
	}
	// The first is the outermost: what fails all retries is set aside.
	router.AddMiddleware(setAside, middleware.Retry{MaxRetries: 2, InitialInterval: time.Millisecond}.Middleware)
	router.AddHandler("invoice", "orders", sub, "invoices", pub, func(m *message.Message) ([]*message.Message, error) {
		if string(m.Payload) == "free" {
			return nil, errors.New("not an amount")
		}
		invoice := message.NewMessageWithContext(m.Context(), "invoice for "+m.UUID, m.Payload)
		return []*message.Message{invoice}, nil
	})
	done := make(chan struct{})
	show := func(from string) message.NoPublishHandlerFunc {
		return func(m *message.Message) error {
			r, _ := streams.RecordFromContext(m.Context())
			fmt.Printf("%s: %s over %s, key %s\n", from, m.UUID, m.Payload, r.Key)
			if reason := m.Metadata[middleware.ReasonForPoisonedKey]; reason != "" {
				fmt.Println("because:", reason)
			}
			done <- struct{}{}
			return nil
		}
	}
	router.AddConsumerHandler("invoices", "invoices", sub, show("invoices"))
	router.AddConsumerHandler("dlq", "orders.billing.dlq", sub, show("dlq"))

	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- router.Run(ctx) }()
	for range 3 {
		<-done
	}
	cancel()
	if err := <-stopped; err != nil {
		fmt.Println(err)
	}

	// Unordered output:
	// invoices: invoice for order-1 over 30, key ada
	// dlq: order-2 over free, key ada
	// because: not an amount
	// invoices: invoice for order-3 over 12, key ada
}
