package nats

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"penstock/stream"
)

// Groups implements stream.Surveyor: the durable consumers of the topic's
// stream, those of one of Penstock's groups as one. How many members a group has
// the server does not tell. One whose sink holds positions is among them until it
// has been away for as long as leaseIdle. A group's name that was too long for a
// consumer is given as that was cut.
func (b *Broker) Groups(ctx context.Context, name string) ([]stream.Group, error) {
	_, s, err := b.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	asking, cancel, err := b.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("groups of topic %q: %w", name, err)
	}
	defer cancel()
	var groups []stream.Group
	consumers := s.ListConsumers(asking)
	for c := range consumers.Info() {
		if c.Config.Durable != "" {
			groups = append(groups, stream.Group{Name: groupOf(c.Config), Members: -1})
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, fmt.Errorf("groups of topic %q: %w", name, b.explain(ctx, err))
	}
	slices.SortFunc(groups, func(a, b stream.Group) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(groups, func(a, b stream.Group) bool { return a.Name == b.Name }), nil
}

// groupOf is the group that a durable consumer belongs to: what join made its
// name of, or its own name if it is another's.
func groupOf(c jetstream.ConsumerConfig) string {
	if !slices.Contains(c.PriorityGroups, priorityGroup) {
		return c.Durable
	}
	escaped := strings.TrimSuffix(c.Durable, "-lease")
	if i := strings.LastIndexByte(escaped, '-'); i >= 0 {
		escaped = escaped[:i]
	}
	if name, err := url.PathUnescape(escaped); err == nil {
		return name
	}
	return escaped
}

var _ stream.Surveyor = (*Broker)(nil)
