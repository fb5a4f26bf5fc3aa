package watermill

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"penstock/servertest"
	"penstock/stream"
	"penstock/stream/kafka"
	"penstock/stream/memory"
	"penstock/stream/nats"
)

var (
	_ message.Publisher            = (*Publisher)(nil)
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
	_ Broker                       = stream.Broker(nil)
)

// ordered is what holds on every broker, with messages of one key in order
// under any number of subscribers.
var ordered = tests.Features{ConsumerGroups: true, GuaranteedOrder: true, Persistent: true}

// exactlyOnce is ordered where, besides, nothing comes twice as long as nobody
// crashes.
var exactlyOnce = func() tests.Features {
	f := ordered
	f.ExactlyOnceDelivery = true
	return f
}()

// short says whether a suite that needs no server runs with fewer messages:
// always, but in make check, which has the real servers.
func short(env string) bool { return os.Getenv(env) == "" }

func TestOnMemory(t *testing.T) {
	universal(t, memory.New(), exactlyOnce)
}

func TestOnEmbeddedJetStream(t *testing.T) {
	b, err := nats.OpenDir(t.Context(), t.TempDir(), nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	for name, f := range map[string]tests.Features{"at least once": ordered, "exactly once": exactlyOnce} {
		f.ForceShort = short(servertest.NATSEnv)
		t.Run(name, func(t *testing.T) { universal(t, b, f) })
	}
}

func TestOnNATS(t *testing.T) {
	b, err := nats.Open(t.Context(), nats.Config{URL: servertest.NATS(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	universal(t, b, ordered)
}

func TestOnKfake(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.GroupMinSessionTimeout(100 * time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	onKafka(t, cluster.ListenAddrs(), true)
}

func TestOnKafka(t *testing.T) {
	onKafka(t, strings.Split(servertest.Kafka(t), ","), false)
}

func onKafka(t *testing.T, seeds []string, short bool) {
	b, err := kafka.Open(t.Context(), kafka.Config{Seeds: seeds})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	f := ordered
	f.ForceShort = short
	universal(t, b, f)
}

// all are the tests of Watermill's universal suite, and which Features they
// need; those of groups are apart.
var all = []struct {
	test  func(*testing.T, tests.TestContext, tests.PubSubConstructor)
	needs func(tests.Features) bool
}{
	{tests.TestPublishSubscribe, nil},
	{tests.TestConcurrentSubscribe, nil},
	{tests.TestConcurrentSubscribeMultipleTopics, nil},
	{tests.TestResendOnError, nil},
	{tests.TestNoAck, func(f tests.Features) bool { return f.GuaranteedOrder }},
	{tests.TestContinueAfterSubscribeClose, func(f tests.Features) bool { return f.Persistent && !f.ExactlyOnceDelivery }},
	{tests.TestConcurrentClose, func(f tests.Features) bool { return !f.ExactlyOnceDelivery }},
	{tests.TestContinueAfterErrors, nil},
	{tests.TestPublishSubscribeInOrder, func(f tests.Features) bool { return f.GuaranteedOrder }},
	{tests.TestPublisherClose, nil},
	{tests.TestTopic, nil},
	{tests.TestMessageCtx, nil},
	{tests.TestSubscribeCtx, nil},
	{tests.TestNewSubscriberReceivesOldMessages, func(f tests.Features) bool { return f.NewSubscriberReceivesOldMessages }},
}

// universal is tests.TestPubSub, but that what does not apply is not run rather
// than skipped: in CI a skipped test is a failure.
func universal(t *testing.T, b stream.Broker, f tests.Features) {
	t.Run("round trip", func(t *testing.T) {
		t.Parallel()
		roundTrip(t, b)
	})
	for _, u := range all {
		if u.needs != nil && !u.needs(f) {
			continue
		}
		t.Run(nameOf(u.test), func(t *testing.T) {
			t.Parallel()
			id := tests.NewTestID()
			u.test(t, tests.TestContext{TestID: id, Features: f}, func(t *testing.T) (message.Publisher, message.Subscriber) {
				return pubSub(t, b, "group-"+string(id))
			})
		})
	}
	t.Run(nameOf(tests.TestConsumerGroups), func(t *testing.T) {
		t.Parallel()
		tests.TestConsumerGroups(t, tests.TestContext{TestID: tests.NewTestID(), Features: f},
			func(t *testing.T, group string) (message.Publisher, message.Subscriber) { return pubSub(t, b, group) })
	})
}

// roundTrip sees that what a message is made of arrives exactly.
func roundTrip(t *testing.T, b stream.Broker) {
	pub, sub := pubSub(t, b, servertest.Name(t))
	topic := servertest.Name(t)
	if err := sub.SubscribeInitialize(topic); err != nil {
		t.Fatal(err)
	}
	messages, err := sub.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []content{
		{"", message.Metadata{}, nil},
		{"no payload", message.Metadata{}, nil},
		{"empty payload", message.Metadata{}, message.Payload{}},
		{"\x00 \xff", message.Metadata{"": "", "a": "", "\r\n": "\r\n", "Ä: \x80": "\x00\xff", " Nats-Msg-Id": "1", "b": strings.Repeat("b", 1000)}, message.Payload("\x00\xff\r\n")},
	} {
		m := message.NewMessage(want.UUID, want.Payload)
		m.Metadata = want.Metadata
		if err := pub.Publish(topic, m); err != nil {
			t.Fatal(err)
		}
		got := <-messages
		if diff := cmp.Diff(want, contentOf(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		got.Ack()
	}
}

func pubSub(t *testing.T, b stream.Broker, group string) (*Publisher, *Subscriber) {
	// The test of order wants messages of one payload in order. Where all have
	// the same, they had better not lie in one partition.
	byPayload := func(m *message.Message) []byte {
		if string(m.Payload) == "x" {
			return nil
		}
		return m.Payload
	}
	sub := NewSubscriber(b, SubscriberConfig{Group: group, Retry: 10 * time.Millisecond})
	t.Cleanup(func() { sub.Close() }) // the suite forgets some of its subscribers
	return NewPublisher(b, PublisherConfig{Key: byPayload}), sub
}

func nameOf(f any) string {
	name := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()
	return name[strings.LastIndex(name, ".")+1:]
}

// A new version of the suite may bring new tests.
func TestUniversalIsWhole(t *testing.T) {
	file, _ := runtime.FuncForPC(reflect.ValueOf(tests.TestPubSub).Pointer()).FileLine(0)
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
			want = append(want, f.Name.Name)
		}
	}
	// TestReconnect is reconnect here.
	got := []string{"TestConsumerGroups", "TestPubSub", "TestPubSubStressTest", "TestReconnect"}
	for _, u := range all {
		got = append(got, nameOf(u.test))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tests of the suite, and of ours (-want +got):\n%s", diff)
	}
}
