package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/consumers/federated/trust"
	"penstock/producers"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/schemas/samples"
	"penstock/stream"
)

// federatedCmd trains models in rounds over topics.
type federatedCmd struct {
	Aggregate federatedAggregateCmd `cmd:"" help:"Make a model of the clients' updates, round by round, until the training is finished."`
	Edge      federatedEdgeCmd      `cmd:"" help:"Add up the updates of some of a training's clients, and send the sum to the aggregator."`
	Shard     federatedShardCmd     `cmd:"" help:"Add up the updates in some partitions of a training's topic, and send the sum to the aggregator."`
	Join      federatedJoinCmd      `cmd:"" help:"Take part as a client that trains on sample data."`
	Status    federatedStatusCmd    `cmd:"" help:"Say how far the training is."`
	History   federatedHistoryCmd   `cmd:"" help:"List the models, and what each was made of."`
	Export    federatedExportCmd    `cmd:"" help:"Write a model to a file for numpy or any reader of safetensors."`
	Keys      federatedKeysCmd      `cmd:"" help:"Make the keys of a training with secure aggregation."`
	Enrol     federatedEnrolCmd     `cmd:"" help:"Put clients on the roster of a training whose updates are signed."`
	Revoke    federatedRevokeCmd    `cmd:"" help:"Take clients off the roster, and out of the round in progress."`
	Clients   federatedClientsCmd   `cmd:"" help:"Show the roster."`
	Audit     federatedAuditCmd     `cmd:"" help:"Say what was decided about each update and client, and why; put outliers under quarantine."`
	Verify    federatedVerifyCmd    `cmd:"" help:"Make every model again from the log, and compare."`
}

// trainingFlags say which training, and where.
type trainingFlags struct {
	Training string `arg:"" help:"Name of the training: its topics are NAME.models and NAME.updates."`
	connectFlags
	outputFlag
}

func (f trainingFlags) models() string  { return f.Training + ".models" }
func (f trainingFlags) updates() string { return f.Training + ".updates" }

// aggregator is the group that reads the updates.
func (f trainingFlags) aggregator() string { return f.Training + ".aggregator" }

// takeOverAfter is how long an aggregator on Kafka may be silent before another takes over.
const takeOverAfter = 10 * time.Second

// training is a connection to one.
type training struct {
	trainingFlags
	broker stream.Broker
	reg    *client.Client
}

// connect calls do with the broker and the registry.
func (f trainingFlags) connect(ctx context.Context, t *terminal, do func(training) error) error {
	return f.with(func(reg *client.Client) error {
		broker, err := openBrokerFor(ctx, f.Broker, t.log, takeOverAfter)
		if err != nil {
			return err
		}
		return errors.Join(do(training{f, broker, reg}), broker.Close())
	})
}

// federatedAggregateCmd runs the aggregator.
type federatedAggregateCmd struct {
	trainingFlags
	Clients  []string      `placeholder:"NAME,…" help:"Who is expected in every round. With --keys, those who are enrolled."`
	Edges    []string      `placeholder:"NAME,…" help:"Edges that take part: each adds up the updates of clients of its own, and sends the sum (see federated edge)."`
	Shards   int           `placeholder:"N" help:"Have N aggregators share each round over the partitions of the updates (see federated shard)."`
	Rounds   int64         `default:"10" placeholder:"N" help:"How many rounds there are (default ${default})."`
	Quorum   int           `placeholder:"N" help:"End a round with N updates; with --deadline, no sooner than that. Default: those of all clients; with --deadline, 1."`
	Deadline time.Duration `placeholder:"TIME" help:"End a round after TIME with the updates that there are; the rest are refused as late."`
	Fraction float64       `placeholder:"0…1" help:"Ask this share of the clients in each round, drawn at random. Default: all."`
	Strategy string        `default:"fedavg" placeholder:"NAME[:KEY=VALUE,…]" help:"What makes the next model of the updates (default ${default})."`
	Sum      string        `default:"float64" enum:"float64,exact" placeholder:"float64|exact" help:"How updates are added up: in the log's order, or in fixed point, in any order (default ${default})."`
	Piece    int           `default:"524288" placeholder:"BYTES" help:"Publish models that have more bytes of numbers in several records (default ${default})."`
	MaxNorm  float64       `placeholder:"NORM" help:"Refuse updates that are further from the model. Default: any distance."`
	Initial  string        `placeholder:"FILE" help:"The first model: float32 tensors in FILE.npz, or in safetensors."`
	Sample   string        `placeholder:"digits" help:"Or an untrained classifier of sample data: digits."`
	signingFlags
	privacyFlags
	secureAggregateFlags
}

// Help shows examples.
func (federatedAggregateCmd) Help() string {
	return `Examples:
  penstock federated aggregate digits --sample digits --clients ann,bob,cyd --rounds 5
  penstock federated aggregate lab --initial model.safetensors --clients a,b,c,d,e,f,g --strategy krum:byzantine=2

Stop and start it as you like, with the same flags: it goes on where the log says,
and publishes the same models, byte for byte, that it would have without a stop.
A second one, with the same flags, stands by, and takes over when the first is gone.
What it refuses lies in the dead-letter topic, under the client's key, with the reason.`
}

// Run aggregates until the last model is published.
func (c *federatedAggregateCmd) Run(ctx context.Context, t *terminal) error {
	initial, err := c.initial()
	if err != nil {
		return err
	}
	if named := len(c.Clients) > 0; named && c.Keys != "" || !named && c.Keys == "" && len(c.Edges) == 0 {
		return usagef("expected either --clients NAME,… (or --edges) or --keys FOLDER, which takes the signed updates of those who are enrolled")
	}
	if c.Keys != "" && c.Secure != "" {
		return usagef("--keys does not go with --secure, which signs everything")
	}
	private, key, err := c.settings(len(c.Clients), c.Secure != "")
	if err != nil {
		return err
	}
	if c.Secure != "" {
		if c.Quorum > 0 || c.Deadline > 0 || c.Fraction > 0 || c.Sum == "exact" || c.Shards != 0 {
			return usagef("--secure does not go with --quorum, --deadline, --fraction, --sum or --shards")
		}
		return c.securely(ctx, t, initial, private)
	}
	return c.connect(ctx, t, func(tr training) error {
		updates, shards, err := c.updates(), federated.Shards{}, tr.prepareTopic(ctx, c.models(), federated.ModelSchema(), 1)
		if c.Shards != 0 && err == nil {
			updates = c.shardSums()
			shards, err = tr.shards(ctx, c.Shards)
		} else if err == nil {
			err = tr.prepareTopic(ctx, updates, federated.UpdateSchema(), 0)
		}
		if err != nil {
			return err
		}
		roster, err := tr.rosterOf(ctx, t, c.Keys)
		if err != nil {
			return err
		}
		group := c.aggregator()
		parameters := 0
		for _, tensor := range initial {
			parameters += len(tensor.Values)
		}
		defer collectEarly(parameters)()
		a, err := federated.Open(ctx, federated.Config{
			Models: c.models(), Updates: updates, Group: group, Clients: c.Clients, Edges: c.Edges, Shards: shards, Rounds: c.Rounds,
			Initial: initial, Strategy: c.Strategy, MaxNorm: c.MaxNorm, Roster: roster, Piece: c.Piece,
			Quorum: c.Quorum, Deadline: c.Deadline, Fraction: c.Fraction, Privacy: private, NoiseKey: key, Sum: map[string]string{"exact": federated.SumExact}[c.Sum],
			Broker: tr.broker, Registry: tr.reg, Publisher: eventPublisher{producers.New(tr.broker, tr.reg, producers.Config{})},
			OnModel: func(m federated.Model) {
				if m.Aborted != "" && !m.Final() {
					t.notef("round %d, attempt %d: %s\n", m.Round, m.Attempt+1, m.Aborted)
					return
				}
				if m.Final() && m.Privacy != nil && m.Round < c.Rounds {
					t.notef("the training ends with round %d: %s\n", m.Round, m.Aborted)
				}
				t.notef("model of round %d of %d: %d updates\n", m.Round, m.Rounds, updatesIn(m))
			},
		})
		if err != nil {
			return err
		}
		if !a.Model().Final() {
			j := job{topic: updates, group: group, sink: a, owner: a, inFlight: updatesInFlight}
			j.hooks.DeadLetter = func(_ stream.Record, why *consumers.Reason) { t.notef("refused: %v\n", why.Err) }
			waiting := func() { t.notef("another aggregator is at work; this one stands by\n") }
			err := federated.Lead(ctx, tr.broker, c.models(), group, waiting, func(ctx context.Context) error {
				return rereading(ctx, a, func(ctx context.Context) error { return runJob(ctx, tr.broker, tr.reg, j) })
			})
			if err := finished(err); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return c.show(t, a.Model())
	})
}

// rereading runs job as aggregating does, again whenever the updates of the round are to
// be read again.
func rereading(ctx context.Context, a *federated.Aggregator, job func(context.Context) error) error {
	for {
		if err := aggregating(ctx, a, job); !errors.Is(err, federated.ErrReread) {
			return err
		}
	}
}

// aggregating runs job, and beside it what ends rounds at their deadline. Whichever
// ends first ends the other.
func aggregating(ctx context.Context, a *federated.Aggregator, job func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() {
		err := a.Watch(ctx)
		cancel()
		watched <- err
	}()
	err := job(ctx)
	cancel()
	if watch := <-watched; errors.Is(watch, consumers.ErrStop) && (err == nil || errors.Is(err, context.Canceled)) {
		return watch
	}
	return err
}

func (c *federatedAggregateCmd) initial() ([]federated.Tensor, error) {
	if (c.Sample == "") == (c.Initial == "") || c.Sample != "" && c.Sample != "digits" {
		return nil, usagef("expected either --initial FILE or --sample digits")
	}
	if c.Sample != "" {
		return federated.NewSoftmax(digitFeatures, digitClasses), nil
	}
	file, err := os.ReadFile(c.Initial)
	if err != nil {
		return nil, fmt.Errorf("read the first model: %w", err)
	}
	read := federated.ReadSafetensors
	if filepath.Ext(c.Initial) == ".npz" {
		read = federated.ReadNPZ
	}
	tensors, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Initial, err)
	}
	return tensors, nil
}

const digitFeatures, digitClasses = 64, 10

// federatedJoinCmd trains a classifier of digits on a share of them.
type federatedJoinCmd struct {
	trainingFlags
	Name     string `required:"" placeholder:"NAME" help:"As the aggregator expects it."`
	Piece    int    `default:"524288" placeholder:"BYTES" help:"Send updates that have more bytes of numbers in several records (default ${default})."`
	Compress string `placeholder:"fp16|int8|top:SHARE" help:"Send differences from the model in fewer bytes; what is left out is made up for later."`
	Share    string `default:"1/1" placeholder:"I/N" help:"Train on share I of N of the sample digits (default ${default})."`
	signingFlags
	localPrivacyFlags
	secureSumFlags
}

// Help shows examples.
func (federatedJoinCmd) Help() string {
	return `Examples:
  penstock federated join digits --name ann --share 1/3

A program of your own takes part with consumers/federated.Client.`
}

// Run takes part until the last model is published.
func (c *federatedJoinCmd) Run(ctx context.Context, t *terminal) error {
	i, n, err := oneOfMany("--share", c.Share)
	if err != nil {
		return err
	}
	digits, err := samples.Digits()
	if err != nil {
		return err
	}
	shares, _ := federated.Split(examplesOf(digits), n, demoSeed)
	train := func(_ context.Context, m federated.Model) (federated.Trained, error) {
		trained, err := localTraining.Answer(m, shares[i-1])
		if err != nil {
			return trained, fmt.Errorf("%w: %w", consumers.ErrStop, err)
		}
		t.notef("round %d of %d: trained on %d examples\n", m.Round, m.Rounds, trained.Samples)
		return trained, nil
	}
	compression, err := federated.ParseCompression(c.Compress)
	if err != nil {
		return usagef("--compress: %v", err)
	}
	if c.Secure != "" {
		if c.Compress != "" || c.given() {
			return usagef("--secure does not go with --compress, nor with --clip-norm and --noise, which the aggregator says")
		}
		if c.Keys != "" {
			return usagef("--keys does not go with --secure, which signs everything")
		}
		return c.securely(ctx, t, train)
	}
	private, err := c.protect(t, train)
	if err != nil {
		return err
	}
	var key trust.PrivateKey
	if c.Keys != "" {
		if key, err = signingKey(c.Keys, c.Name); err != nil {
			return err
		}
	}
	return c.connect(ctx, t, func(tr training) error {
		// Whoever comes first makes the topic.
		if err := tr.broker.Create(ctx, c.models(), 1); err != nil {
			return err
		}
		member, err := federated.NewClient(federated.ClientConfig{
			Name: c.Name, Updates: c.updates(), Publisher: eventPublisher{producers.New(tr.broker, tr.reg, producers.Config{})},
			Train: private, Compression: compression, Key: key,
			Waiting: func(m federated.Model) {
				t.notef("round %d of %d: %s is not enrolled for it\n", m.Round, m.Rounds, c.Name)
			},
			Piece: c.Piece,
		})
		if err != nil {
			return err
		}
		return finished(runJob(ctx, tr.broker, tr.reg, job{topic: c.models(), group: c.models() + "." + c.Name, sink: member, owner: noPositions{}}))
	})
}

// modelRow is a model in a line.
type modelRow struct {
	Round    int64      `json:"round"`
	Rounds   int64      `json:"rounds"`
	Hash     string     `json:"hash"`
	Strategy string     `json:"strategy"`
	Updates  int64      `json:"updates"`
	Edges    int        `json:"edges,omitempty"` // whose sums the updates are in
	Shards   int        `json:"shards,omitempty"`
	Samples  int64      `json:"samples"`
	Largest  float64    `json:"largest_norm"`
	From     string     `json:"largest_norm_of,omitempty"`
	Closed   string     `json:"closed,omitempty"` // why the round before ended
	Asked    int        `json:"asked"`
	Quorum   int64      `json:"quorum,omitempty"`
	Deadline *time.Time `json:"deadline,omitempty"`
	Attempt  int32      `json:"attempt"`
	Aborted  string     `json:"aborted,omitempty"`
	// Of a training with differential privacy: what it has spent, of which budget.
	Epsilon float64 `json:"epsilon,omitempty"`
	Tight   float64 `json:"epsilon_pld,omitempty"` // by a tighter account; of the last model alone
	Budget  float64 `json:"epsilon_budget,omitempty"`
	Delta   float64 `json:"delta,omitempty"`
	Clip    float64 `json:"clip,omitempty"`
	// Loss is what the clients say of the model before, on their examples.
	Loss *float64 `json:"loss_before,omitempty"`
	// Accuracy is that of a classifier of the sample digits, on those that no client has.
	Accuracy *float64 `json:"accuracy,omitempty"`
}

// updatesIn is how many updates a model is made of, those in sums too.
func updatesIn(m federated.Model) (n int64) {
	for _, c := range m.Contributions {
		n += max(1, c.Updates)
	}
	return n
}

func rowOf(m federated.Model) modelRow {
	row := modelRow{Round: m.Round, Rounds: m.Rounds, Hash: m.Hash.String(), Strategy: m.Strategy, Updates: updatesIn(m),
		Closed: m.Closed, Asked: len(m.Asked()), Quorum: m.Quorum, Attempt: m.Attempt, Aborted: m.Aborted}
	if p := m.Privacy; p != nil {
		row.Clip, row.Epsilon, row.Budget, row.Delta = p.Clip, p.Spent, p.Epsilon, p.Delta
	}
	if m.Deadline > 0 {
		deadline := time.UnixMilli(m.Deadline).UTC()
		row.Deadline = &deadline
	}
	for _, c := range m.Contributions {
		row.Samples += c.Samples
		switch {
		case m.Shards.Of > 0:
			row.Shards++
		case c.Updates > 0:
			row.Edges++
		}
		if c.Norm > row.Largest {
			row.Largest, row.From = c.Norm, c.Client
		}
	}
	if loss, known := m.Loss(); known {
		row.Loss = &loss
	}
	if digits, err := samples.Digits(); err == nil {
		_, test := federated.Split(examplesOf(digits), 1, demoSeed)
		if accuracy, err := federated.Accuracy(m.Parameters, test); err == nil {
			row.Accuracy = &accuracy
		}
	}
	return row
}

func (f trainingFlags) show(t *terminal, m federated.Model) error { return f.showRow(t, rowOf(m)) }

func (f trainingFlags) showRow(t *terminal, row modelRow) error {
	if f.json() {
		return t.object(row)
	}
	text := fmt.Sprintf("round %d of %d  model %s  %s", row.Round, row.Rounds, row.Hash, row.Strategy)
	if row.Updates > 0 {
		text += fmt.Sprintf("  %d updates", row.Updates)
		if row.Edges > 0 {
			text += fmt.Sprintf(" by way of %d edges", row.Edges)
		}
		if row.Shards > 0 {
			text += fmt.Sprintf(" by way of %d shards", row.Shards)
		}
		if row.From != "" {
			text += fmt.Sprintf(" of %s examples, the furthest %.4g by %s", count(row.Samples), row.Largest, row.From)
		}
	}
	if row.Closed == federated.ByQuorum || row.Closed == federated.ByDeadline {
		text += "  closed by " + row.Closed
	}
	if row.Clip > 0 {
		text += fmt.Sprintf("  clipped to %.4g", row.Clip)
	}
	if row.Epsilon > 0 {
		text += fmt.Sprintf("  epsilon %.4g", row.Epsilon)
		if row.Budget > 0 {
			text += fmt.Sprintf(" of %.4g", row.Budget)
		}
		text += fmt.Sprintf(" spent at delta %g", row.Delta)
		if row.Tight > 0 {
			text += fmt.Sprintf(" (%.4g by PLD)", row.Tight)
		}
	}
	if row.Attempt > 0 {
		text += fmt.Sprintf("  attempt %d at its round: %s", row.Attempt+1, row.Aborted)
	}
	if row.Loss != nil {
		text += fmt.Sprintf("  loss before %.4g", *row.Loss)
	}
	if row.Accuracy != nil {
		text += fmt.Sprintf("  accuracy on digits held back %.3f", *row.Accuracy)
	}
	t.printf("%s\n", text)
	return nil
}

// federatedStatusCmd shows the last model.
type federatedStatusCmd struct{ trainingFlags }

// Run shows it.
func (c *federatedStatusCmd) Run(ctx context.Context, t *terminal) error {
	return c.connect(ctx, t, func(tr training) error {
		var m federated.Model
		err := tr.each(ctx, func(next federated.Model) error { m = next; return nil })
		if err != nil {
			return err
		}
		row := rowOf(m)
		if row.Tight, err = m.Privacy.Tight(); err != nil {
			return err
		}
		return c.showRow(t, row)
	})
}

// federatedHistoryCmd shows all models.
type federatedHistoryCmd struct{ trainingFlags }

// Run shows them.
func (c *federatedHistoryCmd) Run(ctx context.Context, t *terminal) error {
	return c.connect(ctx, t, func(tr training) error {
		return tr.each(ctx, func(m federated.Model) error { return c.show(t, m) })
	})
}

// federatedExportCmd writes a model to a file.
type federatedExportCmd struct {
	trainingFlags
	To    string `required:"" placeholder:"FILE" help:"FILE.npz or FILE.safetensors."`
	Round int64  `default:"-1" placeholder:"N" help:"The model that round N starts from. Default: the last."`
}

// Help shows examples.
func (federatedExportCmd) Help() string {
	return `Examples:
  penstock federated export digits --to digits.safetensors
  penstock federated export digits --to round-3.npz --round 3`
}

// Run writes it.
func (c *federatedExportCmd) Run(ctx context.Context, t *terminal) (err error) {
	kind := filepath.Ext(c.To)
	if kind != ".npz" && kind != ".safetensors" {
		return usagef("--to %s: expected a name that ends in .npz or .safetensors", c.To)
	}
	return c.connect(ctx, t, func(tr training) (err error) {
		m, err := c.model(ctx, tr)
		if err != nil {
			return err
		}
		file, err := os.Create(c.To)
		if err != nil {
			return fmt.Errorf("write model: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		if kind == ".npz" {
			err = federated.WriteNPZ(file, m.Parameters)
		} else {
			about := map[string]string{"training": c.Training, "round": strconv.FormatInt(m.Round, 10), "sha256": m.Hash.String(), "strategy": m.Strategy}
			err = federated.WriteSafetensors(file, m.Parameters, about)
		}
		if err != nil {
			return err
		}
		return c.show(t, m)
	})
}

// model is the one that is asked for.
func (c *federatedExportCmd) model(ctx context.Context, tr training) (m federated.Model, err error) {
	first, last := int64(-1), int64(0)
	found := false
	err = tr.each(ctx, func(next federated.Model) error {
		if first < 0 {
			first = next.Round
		}
		last = next.Round
		if c.Round < 0 || next.Round == c.Round && !found {
			m, found = next, true
		}
		return nil
	})
	if err == nil && !found {
		err = usagef("--round %d: the topic holds the models of rounds %d to %d", c.Round, first, last)
	}
	return m, err
}

// federatedVerifyCmd makes all models again.
type federatedVerifyCmd struct {
	trainingFlags
	NoiseKey string `placeholder:"FILE" help:"The secret that the noise of the models was made from."`
	Keys     string `placeholder:"FOLDER" help:"Ask that the updates are signed by clients whom aggregator.pub in this folder enrolled."`
}

// Help says what it needs.
func (federatedVerifyCmd) Help() string {
	return `Reads the models and the updates, and makes each model again out of the one before
and the updates that it names: every update that counted must lie on the log, as the
client's first of its round, and the result must be the same to the byte. Where updates
are signed, each must be by a client that its round's roster has. Exit code 1 if not.

Example:
  penstock federated verify digits`
}

// place is where an update ends.
type place struct {
	partition int32
	offset    int64
}

// contributions reads the updates that models name, or with shards their sums. Those in
// pieces lie in files.
func (t training) contributions(ctx context.Context, models []federated.Model) (func(federated.Contribution) (federated.Update, error), error) {
	bases, named, clients := map[int64]federated.Hash{}, map[place]bool{}, map[string]bool{}
	for _, m := range models {
		bases[m.Round] = m.Hash
		for _, c := range m.Contributions {
			named[place{c.Partition, c.Offset}], clients[c.Client] = true, true
		}
	}
	known := func(u federated.Update) bool {
		return u.Base == bases[u.Round] && clients[u.Client]
	}
	decoder, joiner := consumers.NewDecoder(t.reg, schemas.Limits{}), federated.NewJoiner()
	defer joiner.Close()
	found := map[place]func() (federated.Update, error){}
	topic := t.updates()
	if models[0].Shards.Of > 0 {
		topic = t.shardSums()
	}
	err := eachRecord(ctx, t.broker, topic, t.Training+".reader", 1000, func(records []stream.Record) error {
		for _, r := range records {
			message, err := decoder.Decode(ctx, r)
			var why *consumers.Reason
			if errors.As(err, &why) {
				continue // a dead letter, like other values that are no update
			} else if err != nil {
				return err
			}
			read, err := joiner.Update(message, known)
			if err != nil {
				return err
			}
			if at := (place{r.Partition, r.Offset}); read != nil && named[at] {
				found[at] = read
			}
		}
		return nil
	})
	if models[0].Edge != "" && errors.Is(err, stream.ErrNoTopic) {
		err = usagef("%q is a shard: expected the training that it is of", t.Training)
	}
	return func(c federated.Contribution) (federated.Update, error) {
		if read := found[place{c.Partition, c.Offset}]; read != nil {
			return read()
		}
		return federated.Update{}, errors.New("it is not on the topic")
	}, err
}

// Run verifies them.
func (c *federatedVerifyCmd) Run(ctx context.Context, t *terminal) error {
	var key *federated.NoiseKey
	if c.NoiseKey != "" {
		var err error
		if key, err = noiseKey(c.NoiseKey, false); err != nil {
			return err
		}
	}
	return c.connect(ctx, t, func(tr training) error { return c.verify(ctx, t, tr, key) })
}

// verify holds two models, or as many as updates may be of.
func (c *federatedVerifyCmd) verify(ctx context.Context, t *terminal, tr training, key *federated.NoiseKey) error {
	if _, err := tr.broker.Ranges(ctx, federated.SecureTopics(c.Training)[0]); err == nil {
		return usagef("training %q adds up masked updates, which nobody can add up again: expected a training without --secure", c.Training)
	}
	models, err := tr.outlines(ctx)
	if err != nil {
		return err
	}
	read, err := tr.contributions(ctx, models)
	if err != nil {
		return err
	}
	_, added, err := tr.fromShards(ctx, models, read)
	if err != nil {
		return err
	}
	signed, err := tr.signatures(ctx, t, models, c.Keys)
	if err != nil {
		return err
	}
	var sums edgeSums
	if models[0].Edge != "" {
		if sums, err = tr.sums(ctx); err != nil {
			return err
		}
	}
	updates := 0
	err = tr.eachStep(ctx, models, func(before []federated.Model, m federated.Model) error {
		if err := signed.begin(before[len(before)-1]); err != nil {
			return noError{err}
		}
		check := func(c federated.Contribution) (federated.Update, error) {
			u, err := read(c)
			if err == nil {
				err = signed.check(u)
			}
			return u, err
		}
		made, err := len(m.Contributions), error(nil)
		if m.Edge != "" {
			err = sums.verify(before[len(before)-1], m, check)
		} else {
			err = federated.RecomputeAfter(before, m, key, check)
		}
		if m.Shards.Of > 0 && err == nil {
			made, err = verifyShards(before[len(before)-1], m, read, added)
		}
		if err != nil {
			return noError{err}
		}
		updates += made
		return nil
	})
	if err != nil {
		return err
	}
	if c.json() {
		return t.object(map[string]int{"models": len(models), "updates": updates})
	}
	if models[0].Edge != "" {
		t.printf("the sums for %d models are what %d updates make, to the byte%s\n", len(models)-1, updates, signed.say())
		return nil
	}
	t.printf("%d models are what their %d updates make, to the byte%s\n", len(models), updates, signed.say())
	return nil
}

// updatesInFlight is how many bytes of updates an aggregator has fetched and not yet
// looked at: enough to be read while others are folded, and little beside a model for
// which it matters.
const updatesInFlight = 8 << 20

// collectEarly has the collector run when memory has grown by a twentieth, and not only
// once it has doubled, where a model is so large that this matters: its vectors hold no
// pointers, so that a collection takes no longer for them. It leaves a GOGC of the user's
// alone. restore undoes it.
func collectEarly(parameters int) (restore func()) {
	if os.Getenv("GOGC") != "" || parameters < 4<<20 {
		return func() {}
	}
	before := debug.SetGCPercent(5)
	return func() { debug.SetGCPercent(before) }
}
