package transaction

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// withheld has the client hang before it notes the partitions of a topic, in the
// choice of one for the record "b", which then gets none.
type withheld struct {
	kgo.Partitioner
	until chan struct{}
}

func (w withheld) ForTopic(topic string) kgo.TopicPartitioner {
	return withheldTopic{w.Partitioner.ForTopic(topic), w.until}
}

type withheldTopic struct {
	kgo.TopicPartitioner
	until chan struct{}
}

func (w withheldTopic) Partition(r *kgo.Record, n int) int {
	if string(r.Value) == "b" {
		<-w.until
		return -1
	}
	return w.TopicPartitioner.Partition(r, n)
}

// What is committed while the client has not noted where it has sent the records
// is committed all the same.
func TestCommitOfANewTopic(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w := withheld{kgo.RoundRobinPartitioner(), make(chan struct{})}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.TransactionalID("x"), kgo.RecordPartitioner(w))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	a, acknowledged := &kgo.Record{Topic: "t", Value: []byte("a")}, make(chan error)
	client.Produce(t.Context(), a, func(_ *kgo.Record, err error) { acknowledged <- err })
	client.Produce(t.Context(), &kgo.Record{Topic: "t", Value: []byte("b")}, nil)
	if err := <-acknowledged; err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- End(t.Context(), client, kgo.TryCommit, a) }()
	select {
	case err = <-ended: // which is too early, as the reader shows
		close(w.until)
	case <-time.After(200 * time.Millisecond):
		close(w.until)
		err = <-ended
	}
	if err != nil {
		t.Fatal(err)
	}

	reader, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	end := &kgo.Record{Topic: "t", Value: []byte("end")}
	if err := reader.ProduceSync(t.Context(), end).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) == 0 || got[len(got)-1] != "end" {
		fetches := reader.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if len(got) != 2 || got[0] != "a" {
		t.Errorf("a reader of what is committed got %q, want a and end", got)
	}
}
