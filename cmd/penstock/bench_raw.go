package main

// The raw side of 'penstock bench': what a careful hand writes without Penstock.

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"
)

// rawEncode encodes by hand, with a fresh buffer a record.
func rawEncode(schema *avro.Schema, frame []byte, v any) ([]byte, error) {
	return schema.AppendEncode(frame[:len(frame):len(frame)], v)
}

// rawValidated validates JSON text by hand, and frames it in a fresh buffer.
func rawValidated(validator *jsonschema.Schema, frame, text []byte) ([]byte, error) {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err == nil {
		err = validator.Validate(v)
	}
	return append(frame[:len(frame):len(frame)], text...), err
}

// rawKafkaProduce publishes n records and waits for all of them.
func rawKafkaProduce(ctx context.Context, client *kgo.Client, topic string, n int, record func(i int) (key, value []byte, err error)) error {
	promise := kgo.AbortingFirstErrPromise(client)
	for i := range n {
		k, v, err := record(i)
		if err != nil {
			return err
		}
		client.Produce(ctx, &kgo.Record{Topic: topic, Key: k, Value: v}, promise.Promise())
	}
	return promise.Err()
}

// rawKafkaConsume reads n records; the time counts from the first fetch on.
func rawKafkaConsume(ctx context.Context, client *kgo.Client, n int, each func(value []byte) error) (time.Duration, error) {
	var start time.Time
	for got := 0; got < n; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		if start.IsZero() {
			start = time.Now()
		}
		for records := fetches.RecordIter(); !records.Done(); got++ {
			if err := each(records.Next().Value); err != nil {
				return 0, err
			}
		}
	}
	return time.Since(start), nil
}

// rawNATSProduce publishes n records asynchronously, with at most pending
// acknowledgements outstanding, and waits for all of them.
func rawNATSProduce(ctx context.Context, nc *nats.Conn, pending int, subject func(i int) string, n int, record func(i int) (key, value []byte, err error)) error {
	failed := make(chan error, 1)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(pending),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { failed <- err }))
	if err != nil {
		return err
	}
	for i := range n {
		_, v, err := record(i)
		if err != nil {
			return err
		}
		if _, err := js.PublishAsync(subject(i), v, jetstream.WithStallWait(time.Minute)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case err := <-failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("publish: %w", ctx.Err())
	}
}

// rawNATSConsume reads n messages, asking for some ahead; the time counts from the first
// one on.
func rawNATSConsume(consumer jetstream.Consumer, ahead jetstream.PullMessagesOpt, n int, each func(value []byte) error) (elapsed time.Duration, err error) {
	messages, err := consumer.Messages(ahead)
	if err != nil {
		return 0, err
	}
	defer messages.Stop()
	var start time.Time
	for i := 0; i < n && err == nil; i++ {
		var m jetstream.Msg
		if m, err = messages.Next(); err == nil {
			if start.IsZero() {
				start = time.Now()
			}
			err = each(m.Data())
		}
	}
	return time.Since(start), err
}
