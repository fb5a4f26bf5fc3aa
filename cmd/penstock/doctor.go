package main

import (
	"context"
	"errors"
	"fmt"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"

	"penstock/registry"
)

// doctorCmd checks a set-up.
type doctorCmd struct {
	brokerFlag
	registryFlag
	outputFlag
}

// Help shows examples.
func (doctorCmd) Help() string {
	return `Examples:
  penstock doctor
  penstock doctor --broker kafka://127.0.0.1:9092 -o json

Exit code 1 says that something found could lose data, 3 that a server does not
answer.`
}

// diagnosis is one thing that was looked at.
type diagnosis struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

// Run looks at broker and registry, and prints what it finds.
func (c *doctorCmd) Run(ctx context.Context, t *terminal) error {
	var found []diagnosis
	brokerFindings, brokerErr := c.broker(ctx, t)
	registryFindings, registryErr := c.registry(ctx)
	found = append(append(found, brokerFindings...), registryFindings...)
	healthy := true
	for _, d := range found {
		healthy = healthy && d.OK
		if c.json() {
			if err := t.object(d); err != nil {
				return err
			}
			continue
		}
		mark := "ok  "
		if !d.OK {
			mark = "FIX "
		}
		t.printf("%s%s: %s\n", mark, d.What, d.Detail)
		if d.Advice != "" {
			t.printf("    %s\n", d.Advice)
		}
	}
	if err := errors.Join(brokerErr, registryErr); err != nil {
		return err
	}
	if !healthy {
		return errNo
	}
	return nil
}

// broker connects and asks the broker for what would lose data.
func (c *doctorCmd) broker(ctx context.Context, t *terminal) ([]diagnosis, error) {
	broker, err := openBroker(ctx, c.Broker, t.log)
	if err != nil {
		return nil, err
	}
	defer broker.Close()
	found := []diagnosis{{What: "broker", OK: true, Detail: "answers"}}
	if _, embedded := embeddedDir(c.Broker); embedded {
		return append(found, diagnosis{What: "durability", OK: true, Detail: "a record is acknowledged once it is synced to disk"}), nil
	}
	var risks []diagnosis
	if cluster, kafkaErr := parseKafka(c.Broker); kafkaErr == nil {
		risks, err = kafkaRisks(ctx, cluster)
	} else {
		risks, err = natsRisks(ctx, c.Broker)
	}
	return append(found, risks...), err
}

// kafkaRisks looks at how many copies of a record there must be.
func kafkaRisks(ctx context.Context, cluster kafkaCluster) ([]diagnosis, error) {
	client, err := cluster.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	metadata, err := admin.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	names := metadata.Topics.Names()
	if len(names) == 0 {
		return nil, nil
	}
	configs, err := admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe topics: %w", err)
	}
	var found []diagnosis
	if len(metadata.Brokers) == 1 {
		found = append(found, diagnosis{
			What: "brokers", OK: true, Detail: "one broker: a record lies on one disk",
			Advice: "use three, with replication.factor=3 and min.insync.replicas=2, where that matters",
		})
	}
	for _, config := range configs {
		topic := "topic " + config.Name
		value := func(name string) string {
			for _, c := range config.Configs {
				if c.Key == name {
					return c.MaybeValue()
				}
			}
			return ""
		}
		copies := metadata.Topics[config.Name].Partitions.NumReplicas()
		if copies == 1 && len(metadata.Brokers) > 1 {
			found = append(found, diagnosis{What: topic, Detail: "one copy of each record, on one of several brokers", Advice: "make it anew with three replicas, or reassign its partitions"})
		}
		if copies > 1 && value("min.insync.replicas") == "1" {
			found = append(found, diagnosis{What: topic, Detail: "acknowledged with one copy written (min.insync.replicas=1)", Advice: "set min.insync.replicas=2"})
		}
		if value("unclean.leader.election.enable") == "true" {
			found = append(found, diagnosis{What: topic, Detail: "a replica that lags may become leader (unclean.leader.election.enable=true)", Advice: "set unclean.leader.election.enable=false"})
		}
	}
	return found, nil
}

// natsRisks looks at where streams are kept.
func natsRisks(ctx context.Context, url string) ([]diagnosis, error) {
	conn, err := natsgo.Connect(url)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	found := []diagnosis{{
		What: "sync interval", OK: true, Detail: "cannot be asked of the server; its default syncs every two minutes, and a power loss may take what was acknowledged since",
		Advice: "set sync_interval: always in the server's jetstream block",
	}}
	streams := js.ListStreams(ctx)
	for s := range streams.Info() {
		name := "stream " + s.Config.Name
		if s.Config.Storage == jetstream.MemoryStorage {
			found = append(found, diagnosis{What: name, Detail: "kept in memory: a restart empties it", Advice: "make it anew with file storage"})
		}
		if s.Config.Replicas == 1 && s.Cluster != nil && s.Cluster.Name != "" {
			found = append(found, diagnosis{What: name, Detail: "one copy of each record in a cluster", Advice: "set three replicas"})
		}
		if s.Config.Discard == jetstream.DiscardOld && (s.Config.MaxBytes > 0 || s.Config.MaxMsgs > 0) {
			found = append(found, diagnosis{What: name, Detail: "drops its oldest records when it is full, read or not", Advice: "set discard: new, so that publishing fails instead"})
		}
	}
	if err := streams.Err(); err != nil {
		return found, fmt.Errorf("list streams: %w", err)
	}
	return found, nil
}

// registry asks the registry for the level that holds by default.
func (c *doctorCmd) registry(ctx context.Context) ([]diagnosis, error) {
	reg, err := c.openRegistry(c.Broker)
	if err != nil {
		return nil, err
	}
	defer reg.Close()
	config, err := reg.Config(ctx, "")
	if err != nil {
		return nil, err
	}
	level := diagnosis{What: "registry", OK: true, Detail: "answers; the default level is " + string(config.CompatibilityLevel)}
	if config.CompatibilityLevel == registry.LevelNone {
		level.OK, level.Advice = false, "set a level: penstock schema config --level BACKWARD"
		level.Detail += ", so that a schema may break every consumer"
	}
	return []diagnosis{level}, nil
}
