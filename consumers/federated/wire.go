package federated

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"penstock/consumers/federated/strategies"
	"penstock/schemas"
)

// maxState is how many vectors a strategy may keep.
const maxState = 16

//go:embed model.avsc
var modelSchema string

//go:embed update.avsc
var updateSchema string

// ModelSchema is the Avro schema of the values of the models topic.
func ModelSchema() string { return modelSchema }

// UpdateSchema is the Avro schema of the values of the updates topic.
func UpdateSchema() string { return updateSchema }

// Model is a global model and the state of the training. Treat its slices as
// read-only.
type Model struct {
	Round, Rounds int64
	Hash          Hash
	Base          Hash // of the model before; zero for the first
	Clients       []string
	Contributions []Contribution
	Positions     []Position
	Strategy      string // what makes the models, as strategies.Parse reads it
	State         strategies.State
	Parameters    []Tensor

	// Of the round that starts from the model.
	Sample   []string // who is asked, where those are not all Clients
	Quorum   int64    // how many updates are enough; 0 is all
	Deadline int64    // Unix milliseconds; 0 is none
	Attempt  int32    // at this round, counted from 0
	Aborted  string   // why the attempt before came to nothing
	// Closed is why the round before ended: Complete, ByQuorum, or ByDeadline.
	Closed string
	Sum    string // how updates are added up: "" in float64, in the log's order, or SumExact
	// Privacy is how the round protects its clients; nil is not at all. Its
	// contributions then have the weight 1 and no norm: either would tell on a client.
	Privacy *Privacy
	// Trust is which clients the round believes, who are then Clients, by their
	// signatures; nil is whoever says that it is one of Clients.
	Trust *Trust

	// Edges are which of Clients aggregate clients of their own, and send partial sums.
	Edges []string
	// Edge is, on the topic of an edge, its name: the model was made above it.
	Edge string
	// Addends is how many updates the sum of the round may have, all over the tree, as
	// if each branch had as many as this one; 0 is one for each of Clients.
	Addends int64
	// Shards share the round: of the partitions of the updates topic each reads some.
	Shards Shards
}

// Final says that m is the result: no round starts from it.
func (m Model) Final() bool { return m.Round >= m.Rounds }

// Loss is that of the model before, as the clients say of their examples: the mean by
// examples. known is false if nobody says anything.
func (m Model) Loss() (mean float64, known bool) { return lossOf(m.Contributions) }

func lossOf(contributions []Contribution) (mean float64, known bool) {
	var samples float64
	for _, c := range contributions {
		if c.Loss != 0 {
			samples += float64(c.Samples)
		}
	}
	for _, c := range contributions {
		if c.Loss != 0 {
			mean += c.Loss * (float64(c.Samples) / samples) // in this order it stays finite
		}
	}
	return mean, samples > 0
}

// Contribution is an update that was counted.
type Contribution struct {
	Client    string
	Samples   int64
	Partition int32
	Offset    int64
	Norm      float64 // the distance from the model it was trained from
	Loss      float64 // of that model, as the client says; 0 where it says nothing
	Stale     int64   // how many models were published since that one, before the sum
	Updates   int64   // of an edge, how many updates it had added up; 0 is a client's own
}

// Position is where a partition of the updates topic goes on.
type Position struct {
	Cluster, Topic, Incarnation string
	Partition                   int32
	Next                        int64
}

// Update is what a client made of a model.
type Update struct {
	Client     string
	Round      int64
	Base       Hash // the model's hash
	Samples    int64
	Loss       float64 // of the model on the client's examples, before training; qfedavg needs it
	Steps      int64   // that the training took; fednova needs it
	Parameters []Tensor
	Signature  []byte // by the client; empty is none
	// Partial says that the parameters are a sum of updates, and of which. nil is an
	// update of the client's own.
	Partial *Partial
}

// value is m as its schema has it.
func (m Model) value() map[string]any {
	v := map[string]any{
		"round":      m.Round,
		"rounds":     m.Rounds,
		"hash":       m.Hash[:],
		"base":       nil,
		"strategy":   m.Strategy,
		"parameters": tensorValues(m.Parameters),
		"sample":     textValues(m.Sample),
		"quorum":     m.Quorum,
		"deadline":   m.Deadline,
		"attempt":    m.Attempt,
		"aborted":    m.Aborted,
		"closed":     m.Closed,
		"sum":        m.Sum,
		"privacy":    m.Privacy.value(),
		"trust":      m.Trust.value(),
		"edges":      textValues(m.Edges),
		"edge":       m.Edge,
		"addends":    m.Addends,
		"shards":     m.Shards.value(),
	}
	state := []any{}
	for _, name := range sortedKeys(m.State) {
		data := make([]byte, 0, 8*len(m.State[name]))
		for _, x := range m.State[name] {
			data = binary.LittleEndian.AppendUint64(data, math.Float64bits(x))
		}
		state = append(state, map[string]any{"name": name, "data": data})
	}
	v["state"] = state
	if m.Base != (Hash{}) {
		v["base"] = m.Base[:]
	}
	v["clients"], v["contributions"], v["positions"] = textValues(m.Clients), contributionValues(m.Contributions), positionValues(m.Positions)
	return v
}

func contributionValues(contributions []Contribution) []any {
	out := make([]any, len(contributions))
	for i, c := range contributions {
		out[i] = map[string]any{
			"client": c.Client, "samples": c.Samples, "partition": c.Partition, "offset": c.Offset, "norm": c.Norm, "stale": c.Stale, "loss": c.Loss, "updates": c.Updates,
		}
	}
	return out
}

func positionValues(positions []Position) []any {
	out := make([]any, len(positions))
	for i, p := range positions {
		out[i] = map[string]any{
			"cluster": p.Cluster, "topic": p.Topic, "incarnation": p.Incarnation, "partition": p.Partition, "next": p.Next,
		}
	}
	return out
}

func textValues(texts []string) []any {
	out := make([]any, len(texts))
	for i, text := range texts {
		out[i] = text
	}
	return out
}

func readTexts(name string, v any) (texts []string, err error) {
	list, _ := v.([]any)
	for i, v := range list {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("at /%s/%d: expected text", name, i)
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// ReadModel reads the decoded value of a record of the models topic, which is to hold
// a whole model; a Joiner reads those that take several. Its error
// says what is wrong with it; a model whose hash is not that of its parameters
// is refused, too.
func ReadModel(v any) (Model, error) {
	m, whole, err := NewJoiner().Model(v)
	if err == nil && !whole {
		err = fmt.Errorf("read model: %w: a Joiner reads them", errIncomplete)
	}
	return m, err
}

func readModel(fields map[string]any, n *numbers) (m Model, err error) {
	var ok1, ok2, ok3, ok4 bool
	m.Round, ok1 = fields["round"].(int64)
	m.Rounds, ok2 = fields["rounds"].(int64)
	m.Hash, ok3 = readHash(fields["hash"])
	m.Strategy, ok4 = fields["strategy"].(string)
	if !(ok1 && ok2 && ok3 && ok4) || m.Round < 0 || m.Round > m.Rounds {
		return m, errors.New("expected round, rounds, hash and strategy")
	}
	if base := fields["base"]; base != nil {
		if m.Base, ok1 = readHash(base); !ok1 {
			return m, errors.New("at /base: expected a SHA-256")
		}
	}
	if m.Clients, err = readTexts("clients", fields["clients"]); err != nil {
		return m, err
	}
	if m.Sample, err = readTexts("sample", fields["sample"]); err != nil {
		return m, err
	}
	// Models of earlier versions have none of these.
	m.Quorum, _ = fields["quorum"].(int64)
	m.Deadline, _ = fields["deadline"].(int64)
	m.Attempt, _ = fields["attempt"].(int32)
	m.Aborted, _ = fields["aborted"].(string)
	m.Closed, _ = fields["closed"].(string)
	m.Sum, _ = fields["sum"].(string)
	if m.Privacy, err = readPrivacy(fields["privacy"]); err != nil {
		return m, err
	}
	if m.Trust, err = readTrust(fields["trust"]); err != nil {
		return m, err
	}
	if m.Contributions, err = readContributions(fields["contributions"]); err != nil {
		return m, err
	}
	if m.Positions, err = readPositions(fields["positions"]); err != nil {
		return m, err
	}
	if m.Edges, err = readTexts("edges", fields["edges"]); err != nil {
		return m, err
	}
	m.Edge, _ = fields["edge"].(string)
	if m.Addends, _ = fields["addends"].(int64); m.Addends < 0 {
		return m, fmt.Errorf("at /addends: expected a number of 0 or more, found %d", m.Addends)
	}
	if m.Shards, err = readShards(fields["shards"]); err != nil {
		return m, err
	}
	if m.Parameters, err = readTensors(fields["parameters"], n, nil); err != nil {
		return m, err
	}
	if m.State, err = readState(fields["state"], n); err != nil {
		return m, err
	}
	if err := n.end(); err != nil {
		return m, err
	}
	for i, t := range m.Parameters {
		if t.DType != "" {
			return m, fmt.Errorf("at /parameters/%d: %w, found %q", i, errPacked, t.DType)
		}
	}
	if hash := hashOf(m.Parameters); hash != m.Hash {
		return m, fmt.Errorf("expected parameters with hash %v, found %v", m.Hash, hash)
	}
	return m, nil
}

func readContributions(v any) (out []Contribution, err error) {
	list, _ := v.([]any)
	for i, v := range list {
		f, _ := v.(map[string]any)
		var c Contribution
		var ok [5]bool
		c.Client, ok[0] = f["client"].(string)
		c.Samples, ok[1] = f["samples"].(int64)
		c.Partition, ok[2] = f["partition"].(int32)
		c.Offset, ok[3] = f["offset"].(int64)
		c.Norm, ok[4] = f["norm"].(float64)
		if slices.Contains(ok[:], false) {
			return nil, fmt.Errorf("at /contributions/%d: expected client, samples, partition, offset and norm", i)
		}
		c.Stale, _ = f["stale"].(int64)
		c.Loss, _ = f["loss"].(float64)
		c.Updates, _ = f["updates"].(int64)
		out = append(out, c)
	}
	return out, nil
}

func readPositions(v any) (out []Position, err error) {
	list, _ := v.([]any)
	for i, v := range list {
		f, _ := v.(map[string]any)
		var p Position
		var ok [5]bool
		p.Cluster, ok[0] = f["cluster"].(string)
		p.Topic, ok[1] = f["topic"].(string)
		p.Incarnation, ok[2] = f["incarnation"].(string)
		p.Partition, ok[3] = f["partition"].(int32)
		p.Next, ok[4] = f["next"].(int64)
		if slices.Contains(ok[:], false) {
			return nil, fmt.Errorf("at /positions/%d: expected cluster, topic, incarnation, partition and next", i)
		}
		out = append(out, p)
	}
	return out, nil
}

// readState reads what a strategy keeps. Its hash is not the model's: numbers
// that are not finite are refused here.
func readState(v any, n *numbers) (strategies.State, error) {
	list, _ := v.([]any)
	if len(list) > maxState {
		return nil, fmt.Errorf("at /state: expected at most %d entries, found %d", maxState, len(list))
	}
	state := strategies.State{}
	for i, v := range list {
		f, _ := v.(map[string]any)
		name, ok1 := f["name"].(string)
		data, ok2 := f["data"].([]byte)
		size, err := n.next(data)
		if _, twice := state[name]; !ok1 || !ok2 || err != nil || size%8 != 0 || twice {
			return nil, errors.Join(fmt.Errorf("at /state/%d: expected a name of its own and 8 bytes a number", i), err)
		}
		if data, err = n.all(data, size); err != nil {
			return nil, fmt.Errorf("at /state/%d: %w", i, err)
		}
		values := make([]float64, len(data)/8)
		for j := range values {
			if values[j] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*j:])); !finite(values[j]) {
				return nil, fmt.Errorf("at /state/%d: %w, found %v in element %d of %q", i, errNotFinite, values[j], j, name)
			}
		}
		state[name] = values
	}
	return state, nil
}

// value is u as its schema has it.
func (u Update) value() map[string]any {
	return map[string]any{
		"client":     u.Client,
		"round":      u.Round,
		"base":       u.Base[:],
		"samples":    u.Samples,
		"loss":       u.Loss,
		"steps":      u.Steps,
		"parameters": tensorValues(u.Parameters),
		"signature":  u.Signature,
		"partial":    u.Partial.value(),
	}
}

// ReadUpdate reads the decoded value of a record of the updates topic, which is to
// hold a whole update; a Joiner reads those that take several. Its error
// says what is wrong with it.
func ReadUpdate(v any) (Update, error) {
	u, p, err := readHead(v)
	if err == nil && p != nil {
		err = fmt.Errorf("%w: a Joiner reads them", errIncomplete)
	}
	if err == nil {
		err = u.read(v, nil, nil)
	}
	if err != nil {
		return u, fmt.Errorf("read update: %w", err)
	}
	return u, nil
}

// readHead reads all of an update but its parameters, and what the record says of
// the others that the update takes.
func readHead(v any) (u Update, p *piece, err error) {
	fields, _ := v.(map[string]any)
	var oks [4]bool
	u.Client, oks[0] = fields["client"].(string)
	u.Round, oks[1] = fields["round"].(int64)
	u.Base, oks[2] = readHash(fields["base"])
	u.Samples, oks[3] = fields["samples"].(int64)
	if slices.Contains(oks[:], false) {
		return Update{}, nil, fmt.Errorf("expected an update with client, round, base and samples, found %.60s", schemas.Describe(v))
	}
	u.Loss, _ = fields["loss"].(float64)
	u.Steps, _ = fields["steps"].(int64)
	u.Signature, _ = fields["signature"].([]byte)
	if u.Partial, err = readPartial(fields["partial"]); err != nil {
		return u, nil, err
	}
	if u.Partial != nil {
		u.Partial.Samples = float64(u.Samples)
	}
	p, err = readPiece(fields["piece"])
	return u, p, err
}

// read reads the parameters of an update, with a meter as readTensors says.
func (u *Update) read(v any, n *numbers, m *meter) (err error) {
	fields, _ := v.(map[string]any)
	if u.Parameters, err = readTensors(fields["parameters"], n, m); err != nil {
		return err
	}
	return n.end()
}
