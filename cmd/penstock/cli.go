package main

import (
	"github.com/alecthomas/kong"
)

const (
	defaultBroker   = "embedded:./penstock-data"
	defaultRegistry = "http://127.0.0.1:8081"
)

// cli is the command line.
type cli struct {
	Up         upCmd         `cmd:"" help:"Start broker, registry and gateway in one process."`
	Demo       demoCmd       `cmd:"" help:"Show the whole thing on real flight data, from nothing, in under a minute."`
	Registry   registryCmd   `cmd:"" help:"Serve a schema registry."`
	Schema     schemaCmd     `cmd:"" help:"Look at, register and check schemas."`
	Produce    produceCmd    `cmd:"" help:"Publish events that fit their schema."`
	Outbox     outboxCmd     `cmd:"" help:"Publish the rows of a PostgreSQL table, in the order of commits, once each."`
	Bridge     bridgeCmd     `cmd:"" help:"Publish what other brokers deliver."`
	Consume    consumeCmd    `cmd:"" help:"Run consumers."`
	DLQ        dlqCmd        `cmd:"" name:"dlq" help:"Look at dead letters, and bring them back."`
	Federated  federatedCmd  `cmd:"" help:"Train a model across clients that keep their data."`
	Bench      benchCmd      `cmd:"" help:"Measure Penstock against the raw client, side by side."`
	Doctor     doctorCmd     `cmd:"" help:"Check a set-up and say what would lose data."`
	Completion completionCmd `cmd:"" help:"Print a completion script for a shell."`

	Config  configFile       `help:"Read settings from this YAML file; of 'consume', the pipelines to run, from a file or a folder." placeholder:"FILE"`
	Verbose bool             `short:"v" help:"Say on standard error what is going on."`
	Version kong.VersionFlag `help:"Print the version and exit."`
}

// brokerFlag is embedded by the commands that talk to a broker.
type brokerFlag struct {
	Broker string `default:"${broker}" placeholder:"URL" help:"embedded:DIR, kafka://HOST:PORT,… or nats://HOST:PORT. Default: ${default}."`
}

// outputFlag is embedded by the commands that print an answer.
type outputFlag struct {
	Output string `short:"o" enum:"text,json" default:"text" help:"Print text or json."`
}

func (o outputFlag) json() bool { return o.Output == "json" }
