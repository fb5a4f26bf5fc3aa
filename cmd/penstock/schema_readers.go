package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"penstock/consumers"
	"penstock/stream"
)

// announcedFor is how old an announcement may be that counts: a week, as Kafka
// keeps records where nothing else is set. Consumers that run announce
// themselves once a day.
const announcedFor = 7 * 24 * time.Hour

// seenReader is a group that the broker knows to read a topic.
type seenReader struct {
	group     string
	announced bool
	reading   consumers.Reading
}

// passingGroup are the groups of commands that look once.
var passingGroup = regexp.MustCompile("^(tail|dlq|readers)-[A-Z2-7]{26}$")

// onBroker are the groups that read one of the topics.
func (i *impact) onBroker(ctx context.Context, t *terminal, topics []string) ([]seenReader, error) {
	broker, err := openBroker(ctx, i.Broker, t.log)
	if err != nil {
		return nil, err
	}
	defer broker.Close()
	found := map[string]*seenReader{}
	of := func(group string) *seenReader {
		if found[group] == nil {
			found[group] = &seenReader{group: group}
		}
		return found[group]
	}
	err = eachRecord(ctx, broker, consumers.ReadersTopic, "readers-"+rand.Text(), 1000, func(records []stream.Record) error {
		for _, r := range records {
			reading, err := consumers.ReadReading(r)
			if err != nil || time.Since(r.Time) > announcedFor || !slices.Contains(topics, reading.Topic) {
				continue
			}
			s := of(reading.Group)
			if !reading.Pinned { // its other members have read others
				reading.Schemas = append(reading.Schemas, s.reading.Schemas...)
			}
			s.announced, s.reading = true, reading
		}
		return nil
	})
	if err != nil && !errors.Is(err, stream.ErrNoTopic) {
		return nil, err
	}
	if surveyor, ok := broker.(stream.Surveyor); ok {
		for _, topic := range topics {
			groups, err := surveyor.Groups(ctx, topic)
			if errors.Is(err, stream.ErrNoTopic) {
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, g := range groups {
				if !passingGroup.MatchString(g.Name) {
					of(g.Name)
				}
			}
		}
	}
	var all []seenReader
	for _, name := range sortedNames(found) {
		all = append(all, *found[name])
	}
	return all, nil
}

// pipeline is who keeps positions of a topic in a database.
type pipeline struct {
	name  string
	where string // in words
}

// pipelinesIn are the pipelines that feed tables of a database from one of the
// topics, as its tables penstock_positions tell. Which table a pipeline feeds
// they do not; it is one of the same schema.
func pipelinesIn(ctx context.Context, address string, topics []string) ([]pipeline, error) {
	driver, source, list := "pgx", address, `SELECT quote_ident(schemaname) || '.', schemaname FROM pg_tables WHERE tablename = 'penstock_positions' ORDER BY 1`
	place := shown(address)
	if file, ok := strings.CutPrefix(address, "sqlite:"); ok {
		driver, source = "sqlite", "file:"+url.PathEscape(file)+"?mode=ro"
		list = `SELECT '', 'main' FROM sqlite_master WHERE name = 'penstock_positions'`
	} else if !strings.HasPrefix(address, "postgres://") && !strings.HasPrefix(address, "postgresql://") {
		return nil, usagef("--database %s: expected postgres://… or sqlite:FILE", place)
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		return nil, usagef("--database %s: %v", place, err)
	}
	defer db.Close()
	schemas, err := pairs(ctx, db, list)
	if err != nil {
		return nil, fmt.Errorf("read the positions in %s: %w", place, err)
	}
	var all []pipeline
	for _, schema := range schemas {
		for _, topic := range topics {
			found, err := pairs(ctx, db, `SELECT DISTINCT pipeline, '' FROM `+schema[0]+`penstock_positions WHERE substr(topic_id, 1, length($1)) = $1 ORDER BY 1`, topic+"/")
			if err != nil {
				return nil, fmt.Errorf("read the positions in %s: %w", place, err)
			}
			for _, f := range found {
				all = append(all, pipeline{f[0], fmt.Sprintf("a table of schema %s in %s", schema[1], place)})
			}
		}
	}
	return all, nil
}

// pairs are the rows of a query of two texts.
func pairs(ctx context.Context, db *sql.DB, query string, args ...any) (all [][2]string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var p [2]string
		if err := rows.Scan(&p[0], &p[1]); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, rows.Err()
}

// shown is an address without what may be secret: users and parameters.
func shown(address string) string {
	address, _, _ = strings.Cut(address, "?")
	return withoutSecrets(address)
}
