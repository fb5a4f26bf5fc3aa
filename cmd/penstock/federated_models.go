package main

import (
	"context"
	"fmt"
	"slices"

	"penstock/consumers"
	"penstock/consumers/federated"
	"penstock/schemas"
	"penstock/stream"
)

// each calls do with each model of the training, in their order, and holds one.
func (t training) each(ctx context.Context, do func(federated.Model) error) error {
	decoder, joiner := consumers.NewDecoder(t.reg, schemas.Limits{}), federated.NewJoiner()
	defer joiner.Close()
	var last *federated.Model
	// Few at once: a record of a model may have as many bytes as the broker takes.
	err := eachRecord(ctx, t.broker, t.models(), t.Training+".reader", 8, func(records []stream.Record) error {
		for _, r := range records {
			m, err := decoder.Decode(ctx, r)
			if err != nil {
				return err
			}
			model, whole, err := joiner.Model(m.Data)
			if err != nil {
				return fmt.Errorf("record %d of %q: %w", r.Offset, t.models(), err)
			}
			if !whole {
				continue
			}
			// After a lost answer a model may lie there twice, the same to the byte.
			// So it does for another attempt at its round.
			if last != nil && (last.Round != model.Round || last.Hash != model.Hash) {
				if err := do(*last); err != nil {
					return err
				}
			}
			last = &model
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case last == nil:
		return fmt.Errorf("topic %q holds no model yet", t.models())
	}
	return do(*last)
}

// outlines are all models of the training without what takes room: their parameters and
// the state of their strategy.
func (t training) outlines(ctx context.Context) (models []federated.Model, err error) {
	err = t.each(ctx, func(m federated.Model) error {
		m.Parameters, m.State = nil, nil
		models = append(models, m)
		return nil
	})
	return models, err
}

// eachStep calls do with each of the models but the first, and with those before it of
// which its updates may be, the newest last. models are the outlines of the training, and
// those that were published since are left out.
func (t training) eachStep(ctx context.Context, models []federated.Model, do func(before []federated.Model, m federated.Model) error) error {
	var before []federated.Model
	return t.each(ctx, func(m federated.Model) error {
		if len(models) == 0 {
			return nil
		}
		if m.Round != models[0].Round || m.Hash != models[0].Hash {
			return fmt.Errorf("topic %q held the model %v of round %d, and now %v of round %d: it was made again; try again", t.models(), models[0].Hash, models[0].Round, m.Hash, m.Round)
		}
		models = models[1:]
		if len(before) > 0 {
			if err := do(before, m); err != nil {
				return err
			}
		}
		before = append(before, m)
		before = slices.Delete(before, 0, max(0, len(before)-m.Reach()))
		return nil
	})
}
