package kafka

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"penstock/stream"
)

// Groups implements stream.Surveyor: the consumer groups whose members have
// subscribed to the topic, or that have committed an offset in it.
func (b *Broker) Groups(ctx context.Context, name string) ([]stream.Group, error) {
	groups, err := b.groups(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("groups of topic %q: %w", name, err)
	}
	return groups, nil
}

func (b *Broker) groups(ctx context.Context, name string) ([]stream.Group, error) {
	if err := b.usable(ctx); err != nil {
		return nil, err
	}
	if _, err := b.lookup(ctx, name); err != nil {
		return nil, err
	}
	asked, cancel := b.ask(ctx)
	defer cancel()
	listed, err := b.admin.ListGroups(asked)
	if err != nil {
		return nil, translate(ctx, err)
	}
	all := listed.Groups()
	if len(all) == 0 {
		return nil, nil
	}
	members := map[string]int{}
	for _, fetched := range b.admin.FetchManyOffsets(asked, all...) {
		if fetched.Err == nil && len(fetched.Fetched[name]) > 0 {
			members[fetched.Group] = 0
		}
	}
	count := func(group string, n int, topics []string) {
		if _, committed := members[group]; committed || slices.Contains(topics, name) {
			members[group] = max(n, members[group])
		}
	}
	described, err := b.admin.DescribeGroups(asked, all...)
	if err != nil {
		return nil, translate(ctx, err)
	}
	var balanced []string // those that the server balances (KIP-848), perhaps
	for _, g := range described {
		if g.Err != nil || g.State == "Dead" {
			balanced = append(balanced, g.Group)
		}
		count(g.Group, len(g.Members), g.JoinTopics())
	}
	if len(balanced) > 0 {
		// A broker that knows no such groups has none, and answers with an error.
		described, err := b.admin.DescribeConsumerGroups(asked, balanced...)
		if ctx.Err() != nil {
			return nil, translate(ctx, err)
		}
		for _, g := range described {
			count(g.Group, len(g.Members), g.SubscribedTopics())
		}
	}
	var groups []stream.Group
	for name, n := range members {
		groups = append(groups, stream.Group{Name: name, Members: n})
	}
	slices.SortFunc(groups, func(a, b stream.Group) int { return cmp.Compare(a.Name, b.Name) })
	return groups, nil
}

var _ stream.Surveyor = (*Broker)(nil)
