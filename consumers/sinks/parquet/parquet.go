// Package parquet writes batches to Parquet files in a folder or an S3 bucket,
// each record exactly once, whoever is killed when.
//
// # Files
//
// A batch becomes one file for each folder (see Config.PartitionBy) and schema
// in it: FOLDER/TOPIC-ID-PARTITION-OFFSET.parquet, where ID stands for pipeline,
// cluster and incarnation of the topic, and OFFSET is that of the file's first
// row. Its metadata say, as penstock.next, up to which offset it holds all rows
// of the partition that belong there. Files are created exclusively and never
// changed or removed.
//
// So the files of one partition in one folder are a chain: the next one begins
// with the first row that is not in the one before, whoever writes it. Two
// writers that know the same chain make a file of the same name, only one
// succeeds, and the other reads in it which rows it can leave out. A file that a
// consumer leaves before it is killed, or that one writes which has lost the
// partition unawares, holds what the rightful owner would have written; nothing
// has to be taken back, and readers that know nothing of all this never see a
// row twice.
//
// # Positions
//
// When all files of a batch are there, and none of them reaches beyond its end,
// a manifest is created: _penstock/commits/TOPIC-ID-PARTITION/REST-NEXT.json,
// which lists them. The highest NEXT is where the partition goes on after a
// restart. REST is what NEXT lacks to the largest number, so that the newest
// manifest is the first in the order of names.
//
// # Columns
//
// There is one column for each field of the record, in that order, and each may
// be null but for those of fields that the schema requires and says no null of: integers, floats, booleans, strings, bytes, UUID, date, time and
// timestamp as Parquet has them, decimals of up to 18 digits as such and larger
// ones as text, and what is nested as JSON. Each schema has files of its own.
package parquet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"penstock/consumers"
	"penstock/schemas"
	"penstock/stream"
)

// Config says how a sink writes.
type Config struct {
	// Pipeline is the name under which positions are kept, that of the
	// consumer group.
	Pipeline string
	// PartitionBy names the fields whose values make the folders, as
	// FIELD=VALUE; a timestamp or date as FIELD:year, FIELD:month, FIELD:day or
	// FIELD:hour. It must stay as it is for as long as there are files.
	PartitionBy []string
	// Logger is told of files that were there already; nil is silent.
	Logger *slog.Logger
}

// Sink writes files below one folder. It is a consumers.Sink and a
// stream.Owner; Write may be called concurrently for different partitions.
type Sink struct {
	store  store
	config Config
	by     []folderBy
	log    *slog.Logger

	buffers sync.Pool // of *bytes.Buffer, for files

	mu     sync.Mutex
	claims map[lane]*claim
	shapes map[*schemas.Node]*shape
}

type lane struct {
	topic  string
	number int32
}

// claim is one partition that this sink was assigned. It is in the hands of
// Write alone.
type claim struct {
	partition stream.Partition
	name      string // TOPIC-ID-PARTITION
	next      int64
	written   bool // a batch was stored since the claim
	// ahead says of the chains that reach beyond next how far they do.
	ahead map[chain]int64
}

// chain is the files of a partition in one folder that have the same columns.
type chain struct{ folder, columns string }

// Open returns a sink for the folder that an address names: a path, or
// s3://BUCKET/PREFIX with ?endpoint=URL and ?region=NAME where it is not that of
// Amazon's. Keys are found as Amazon's own tools find them: environment, files,
// role.
func Open(ctx context.Context, address string, c Config) (*Sink, error) {
	s, err := open(ctx, address, c)
	if err != nil {
		return nil, fmt.Errorf("open Parquet sink: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, address string, c Config) (*Sink, error) {
	if address == "" || c.Pipeline == "" {
		return nil, errors.New("it needs a folder, and the name of a pipeline, under which its positions are kept")
	}
	s := &Sink{config: c, log: c.Logger, claims: map[lane]*claim{}, shapes: map[*schemas.Node]*shape{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, by := range c.PartitionBy {
		f, err := parseFolderBy(by)
		if err != nil {
			return nil, err
		}
		s.by = append(s.by, f)
	}
	var err error
	if strings.HasPrefix(address, "s3://") {
		s.store, err = openBucket(ctx, address)
	} else {
		s.store, err = openFolder(address)
	}
	return s, err
}

var (
	_ stream.Owner       = (*Sink)(nil)
	_ consumers.CellSink = (*Sink)(nil)
)

// TakesCells implements consumers.CellSink. A field that names a folder as it is
// spelled has to be read so.
func (s *Sink) TakesCells(schemas.Schema) bool {
	return !slices.ContainsFunc(s.by, func(by folderBy) bool { return by.layout == "" })
}

// Close forgets all partitions.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.claims)
	return nil
}

// Assigned implements stream.Owner.
func (s *Sink) Assigned(ctx context.Context, partitions []stream.Partition) (map[stream.Partition]int64, error) {
	positions := map[stream.Partition]int64{}
	claims := make([]*claim, len(partitions))
	for i, p := range partitions {
		id := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", s.config.Pipeline, p.Cluster, p.Incarnation))
		c := &claim{partition: p, name: fmt.Sprintf("%s-%x-%d", url.PathEscape(p.Topic), id[:6], p.Number), ahead: map[chain]int64{}}
		newest, err := s.store.first(ctx, c.commits())
		if err != nil {
			return nil, fmt.Errorf("read the position of %v: %w", c, err)
		}
		if newest != "" {
			_, next, _ := strings.Cut(strings.TrimSuffix(newest, ".json"), "-")
			if c.next, err = strconv.ParseInt(next, 10, 64); err != nil {
				return nil, fmt.Errorf("read the position of %v: expected a manifest REST-NEXT.json in %s, found %q; remove what penstock did not write", c, c.commits(), newest)
			}
			positions[p] = c.next
		}
		claims[i] = c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range claims {
		s.claims[lane{c.partition.Topic, c.partition.Number}] = c
	}
	return positions, nil
}

// Lost implements stream.Owner.
func (s *Sink) Lost(_ context.Context, partitions []stream.Partition) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range partitions {
		l := lane{p.Topic, p.Number}
		if c := s.claims[l]; c != nil && c.partition == p {
			delete(s.claims, l)
		}
	}
	return nil
}

func (c *claim) String() string { return fmt.Sprintf("%s[%d]", c.partition.Topic, c.partition.Number) }

func (c *claim) commits() string { return "_penstock/commits/" + c.name }

// manifest says what a batch became.
type manifest struct {
	First int64      `json:"first"`
	Next  int64      `json:"next"`
	Files []fileInfo `json:"files"`
}

type fileInfo struct {
	Path  string `json:"path"`
	Rows  int    `json:"rows"`
	Bytes int    `json:"bytes"`
}

// Write implements consumers.Sink.
func (s *Sink) Write(ctx context.Context, b consumers.Batch) error {
	s.mu.Lock()
	c := s.claims[lane{b.Topic, b.Partition}]
	s.mu.Unlock()
	return consumers.WriteClaimed(ctx, b, c, s.write)
}

func (s *Sink) write(ctx context.Context, c *claim, b consumers.Batch) error {
	if b.Next <= c.next {
		return nil
	}
	if c.written && b.First > c.next {
		return fmt.Errorf("offsets from %d on are missing before it: %w", c.next, consumers.ErrStop)
	}
	links, err := s.links(c, b)
	if err != nil {
		return err
	}
	m := manifest{First: c.next, Next: b.Next}
	for _, l := range links {
		for len(l.rows) > 0 {
			made, err := s.extend(ctx, c, l, b.Next)
			if err != nil {
				return err
			}
			if made.Path != "" {
				m.Files = append(m.Files, made)
			}
		}
	}
	beyond := false
	for k, at := range c.ahead {
		if at <= b.Next {
			delete(c.ahead, k)
		} else {
			beyond = true
		}
	}
	if !beyond {
		if err := s.commit(ctx, c, m); err != nil {
			return err
		}
	}
	c.next, c.written = b.Next, true
	return nil
}

// extend writes the rows of l as the next file of their chain. If there is one
// already, it drops from l the rows that this holds.
func (s *Sink) extend(ctx context.Context, c *claim, l *link, next int64) (fileInfo, error) {
	name := path.Join(l.folder, fmt.Sprintf("%s-%020d.parquet", c.name, l.rows[0].Offset))
	out, _ := s.buffers.Get().(*bytes.Buffer)
	if out == nil {
		out = new(bytes.Buffer)
	}
	defer s.buffers.Put(out)
	out.Reset()
	err := l.encode(out, map[string]string{
		keyPipeline: s.config.Pipeline, keyCluster: c.partition.Cluster, keyTopic: c.partition.Topic,
		keyIncarnation: c.partition.Incarnation, keyPartition: fmt.Sprint(c.partition.Number),
		keyFirst: fmt.Sprint(l.rows[0].Offset), keyNext: fmt.Sprint(next),
	})
	if err != nil {
		return fileInfo{}, err
	}
	err = s.store.create(ctx, name, out.Bytes())
	if err == nil {
		made := fileInfo{name, len(l.rows), out.Len()}
		l.rows = nil
		return made, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fileInfo{}, err
	}
	there, err := s.store.read(ctx, name)
	if err != nil {
		return fileInfo{}, err
	}
	end, err := readNext(there)
	if err != nil || end <= l.rows[0].Offset {
		return fileInfo{}, fmt.Errorf("file %s was there before: expected one that says how far it goes, found %d (%w); move it away: %w", name, end, err, consumers.ErrStop)
	}
	s.log.Info("file is there already", "file", name, "next", end)
	c.ahead[l.chain] = end
	l.drop(end)
	return fileInfo{}, nil
}

// commit creates the manifest. One that is there says the same position.
func (s *Sink) commit(ctx context.Context, c *claim, m manifest) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	err = s.store.create(ctx, fmt.Sprintf("%s/%019d-%d.json", c.commits(), math.MaxInt64-m.Next, m.Next), text)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
