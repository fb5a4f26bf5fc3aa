//go:build unix

package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"

	"penstock/servertest"
)

//go:embed pom.xml
var pom []byte

// One node that is broker and controller. The internal topics are kept small,
// since each of their partitions costs time at the first use of a group or a
// transaction, and sessions may be short, for tests of dead members.
const kafkaProperties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[2]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=%[3]s
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=500
`

func startKafka(ctx context.Context, tools, dir string) (*process, string, error) {
	java, err := servertest.Lookup("java", "default-jdk-headless")
	if err != nil {
		return nil, "", err
	}
	jars, err := fetchJars(ctx, tools, "kafka", pom)
	if err != nil {
		return nil, "", err
	}
	ports, err := servertest.FreePorts(2)
	if err != nil {
		return nil, "", err
	}
	properties := filepath.Join(dir, "server.properties")
	text := fmt.Sprintf(kafkaProperties, ports[0], ports[1], filepath.Join(dir, "data"))
	if err := os.WriteFile(properties, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	classpath := filepath.Join(jars, "*")
	format := exec.CommandContext(ctx, java, "-XX:TieredStopAtLevel=1", "-cp", classpath,
		"kafka.tools.StorageTool", "format", "-t", "cGVuc3RvY2stdGVzdGluZw", "-c", properties)
	if out, err := format.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("format the storage: %w\n%s", err, out)
	}
	// A JVM that is told to stop spends a second on it; nothing is kept here.
	p, err := launch("kafka", filepath.Join(dir, "log"), syscall.SIGKILL,
		exec.Command(java, "-Xmx1g", "-cp", classpath, "kafka.Kafka", properties))
	return p, fmt.Sprintf("127.0.0.1:%d", ports[0]), err
}

func probeKafka(ctx context.Context, address string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ping(ctx)
}
