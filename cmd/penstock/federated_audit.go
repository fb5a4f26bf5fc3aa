package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/consumers/federated/trust"
	"penstock/producers"
	"penstock/stream"
)

// federatedAuditCmd shows what was decided about each update and client.
type federatedAuditCmd struct {
	trainingFlags
	Quarantine float64 `placeholder:"SCORE" help:"Put clients under quarantine of whose updates one that counted scores more; with --keys."`
	Keys       string  `placeholder:"FOLDER" help:"Where aggregator.key is."`
}

// Help says what it reads, and from where.
func (federatedAuditCmd) Help() string {
	return `For each update that counted it says how far it is from the model, how well its
direction fits that of the others, the loss that the client reports, and a score: the
largest of these in standard deviations from the round's median. Then come the updates
that were refused, with the reason, and the entries of the roster. All of it is on the
log, and anyone who may read that gets the same.

With --quarantine, clients above a score are taken off the roster, with the score as the
reason, until they are enrolled again. Run it as often as you like, also while the training
runs: a client is put under quarantine for updates after its enrolment.

Examples:
  penstock federated audit lab
  penstock federated audit lab --quarantine 6 --keys lab-keys`
}

// auditRow is a decision.
type auditRow struct {
	Round     *int64   `json:"round,omitempty"`
	Client    string   `json:"client"`
	Decision  string   `json:"decision"` // counted, refused, enrol, revoke or quarantine
	Reason    string   `json:"reason,omitempty"`
	Partition *int32   `json:"partition,omitempty"` // of the update
	Offset    *int64   `json:"offset,omitempty"`
	Entry     int64    `json:"entry,omitempty"` // of the roster
	Norm      *float64 `json:"norm,omitempty"`
	Cosine    *float64 `json:"cosine,omitempty"`
	Loss      *float64 `json:"loss,omitempty"`
	Score     *float64 `json:"score,omitempty"`
	By        string   `json:"by,omitempty"` // what the score is of
}

func (r auditRow) String() string {
	switch {
	case r.Score != nil:
		text := fmt.Sprintf("round %d  %s  %s  norm %.4g  cosine %.3f  loss %.4g  score %.1f", *r.Round, r.Client, r.Decision, *r.Norm, *r.Cosine, *r.Loss, *r.Score)
		if r.By != "" {
			text += " by " + r.By
		}
		return text
	case r.Entry > 0:
		return strings.TrimRight(fmt.Sprintf("entry %d  %s  %s  %s", r.Entry, r.Client, r.Decision, r.Reason), " ")
	}
	return fmt.Sprintf("%s  %s  %s", r.Client, r.Decision, r.Reason)
}

// Run shows them.
func (c *federatedAuditCmd) Run(ctx context.Context, t *terminal) error {
	if (c.Quarantine > 0) != (c.Keys != "") || c.Quarantine < 0 {
		return usagef("expected --quarantine SCORE and --keys FOLDER together, with a score above 0")
	}
	return c.connect(ctx, t, func(tr training) error {
		models, err := tr.outlines(ctx)
		if err != nil {
			return err
		}
		rows, err := tr.counted(ctx, models)
		if err != nil {
			return err
		}
		counted := len(rows)
		refused, err := tr.refused(ctx)
		if err != nil {
			return err
		}
		signed, err := tr.signatures(ctx, t, models, c.Keys)
		if err != nil {
			return err
		}
		rows = append(rows, refused...)
		if signed.roster != nil {
			for n := int64(1); n < signed.roster.Next(); n++ {
				e := signed.roster.Entry(n)
				rows = append(rows, auditRow{Client: e.Client, Decision: e.Action, Reason: e.Reason, Entry: n})
			}
		}
		for _, row := range rows {
			if c.json() {
				if err := t.object(row); err != nil {
					return err
				}
				continue
			}
			t.printf("%v\n", row)
		}
		if c.Quarantine == 0 {
			return nil
		}
		return tr.quarantine(ctx, t, c.Keys, c.Quarantine, models, signed.roster, rows[:counted])
	})
}

// counted are the updates that models are made of.
func (t training) counted(ctx context.Context, models []federated.Model) (rows []auditRow, err error) {
	read, err := t.contributions(ctx, models)
	if err != nil {
		return nil, err
	}
	whole, read, err := t.fromShards(ctx, models, read)
	if err != nil {
		return nil, err
	}
	of := map[int64][]federated.Contribution{}
	for _, m := range whole {
		of[m.Round] = m.Contributions
	}
	err = t.eachStep(ctx, models, func(before []federated.Model, m federated.Model) error {
		var updates []federated.Update
		for _, place := range of[m.Round] {
			u, err := read(place)
			if err != nil {
				return fmt.Errorf("update at %d/%d: %w", place.Partition, place.Offset, err)
			}
			updates = append(updates, u)
		}
		measured, err := federated.Measure(before, updates)
		if err != nil {
			return noError{err}
		}
		round := before[len(before)-1].Round
		for k, s := range measured {
			place := of[m.Round][k]
			rows = append(rows, auditRow{
				Round: &round, Client: s.Client, Decision: "counted", Partition: &place.Partition, Offset: &place.Offset,
				Norm: &s.Norm, Cosine: &s.Cosine, Loss: &s.Loss, Score: &s.Score, By: s.By,
			})
		}
		return nil
	})
	return rows, err
}

// refused are the updates in the dead-letter topic, each once.
func (t training) refused(ctx context.Context) (rows []auditRow, err error) {
	records, err := readTopic(ctx, t.broker, consumers.DeadLetterTopic(t.updates(), t.aggregator()), t.Training+".reader")
	if errors.Is(err, stream.ErrNoTopic) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, r := range records {
		about := map[string]string{}
		for _, h := range r.Headers {
			about[h.Key] = string(h.Value)
		}
		row := auditRow{Client: string(r.Key), Decision: "refused", Reason: about[stream.HeaderError]}
		// After a start, what was refused in the round in progress is refused again.
		if id := about[stream.HeaderPartition] + "/" + about[stream.HeaderOffset] + row.Reason; seen[id] {
			continue
		} else {
			seen[id] = true
		}
		if p, err := strconv.ParseInt(about[stream.HeaderPartition], 10, 32); err == nil {
			number := int32(p)
			row.Partition = &number
		}
		if offset, err := strconv.ParseInt(about[stream.HeaderOffset], 10, 64); err == nil {
			row.Offset = &offset
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// quarantine takes clients off the roster of whose updates since their enrolment one
// scores above most.
func (t training) quarantine(ctx context.Context, to *terminal, folder string, most float64, models []federated.Model, roster *trust.Roster, rows []auditRow) error {
	key, err := signingKey(folder, aggregatorName)
	if err != nil {
		return err
	}
	base := map[int64]federated.Model{}
	for _, m := range models {
		base[m.Round] = m
	}
	now := roster.Now()
	worst := map[string]auditRow{}
	for _, row := range rows {
		member, known := now[row.Client]
		then := roster.At(base[*row.Round].Trust.Next)[row.Client]
		if !known || member.Gone || then.Number != member.Number || *row.Score <= most {
			continue
		}
		if was, ok := worst[row.Client]; !ok || *row.Score > *was.Score {
			worst[row.Client] = row
		}
	}
	publisher := eventPublisher{producers.New(t.broker, t.reg, producers.Config{})}
	for _, row := range slices.SortedFunc(maps.Values(worst), func(a, b auditRow) int { return cmp.Compare(a.Client, b.Client) }) {
		e := trust.Entry{Action: trust.Quarantine, Client: row.Client, Reason: fmt.Sprintf("in round %d its update scores %.1f by %s, above %g", *row.Round, *row.Score, row.By, most)}
		if err := t.rosterLog(to, key.Public()).Append(ctx, publisher, key, e); err != nil {
			return fmt.Errorf("quarantine %s: %w", row.Client, err)
		}
		to.notef("quarantine for %s: %s\n", row.Client, e.Reason)
	}
	return nil
}
