package parquet

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"penstock/consumers"
)

// store holds files by names with slashes.
type store interface {
	// create makes a file, durable when it returns, or fails with fs.ErrExist.
	create(ctx context.Context, name string, data []byte) error
	read(ctx context.Context, name string) ([]byte, error)
	// first is the name of the first file in a folder, without the folder;
	// empty if there is none.
	first(ctx context.Context, folder string) (string, error)
}

// folder is a store on a disk.
type folder struct{ dir string }

// unfinished is where files are written before they get their names. What is
// left there by a process that died is never read.
const unfinished = "_penstock/unfinished"

func openFolder(dir string) (*folder, error) {
	f := &folder{dir}
	return f, makeFolder(f.path(unfinished))
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

// create writes the file under another name and links it to its own, which no
// file system does where there is one.
func (f *folder) create(_ context.Context, name string, data []byte) (err error) {
	temporary := f.path(unfinished + "/" + rand.Text())
	defer func() {
		if e := os.Remove(temporary); err == nil && e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}()
	if err := writeSynced(temporary, data); err != nil {
		return err
	}
	target := f.path(name)
	if err := makeFolder(filepath.Dir(target)); err != nil {
		return err
	}
	if err := os.Link(temporary, target); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(target))
}

func writeSynced(name string, data []byte) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// makeFolder makes a folder and those above it, durably.
func makeFolder(dir string) error {
	err := os.Mkdir(dir, 0o755)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := makeFolder(filepath.Dir(dir)); err != nil {
			return err
		}
		return makeFolder(dir)
	case err != nil:
		return err
	}
	return syncFolder(filepath.Dir(dir))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *folder) read(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(f.path(name))
}

func (f *folder) first(_ context.Context, name string) (string, error) {
	entries, err := os.ReadDir(f.path(name)) // sorted
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return entries[0].Name(), nil
}

// bucket is a store on S3, or on what speaks its protocol and refuses to write
// over an object if it is asked to (If-None-Match).
type bucket struct {
	client *minio.Client
	name   string
	prefix string
}

func openBucket(ctx context.Context, address string) (*bucket, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("expected s3://BUCKET/PREFIX, with the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	endpoint := &url.URL{Scheme: "https", Host: "s3.amazonaws.com"}
	if text := u.Query().Get("endpoint"); text != "" {
		if endpoint, err = url.Parse(text); err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" {
			return nil, errors.New("endpoint: expected http://HOST:PORT or https://HOST")
		}
	}
	b := &bucket{name: u.Host, prefix: strings.Trim(u.Path, "/")}
	if b.prefix != "" {
		b.prefix += "/"
	}
	b.client, err = minio.New(endpoint.Host, &minio.Options{
		Secure: endpoint.Scheme == "https",
		Region: u.Query().Get("region"),
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		}),
	})
	if err != nil {
		return nil, err
	}
	there, err := b.client.BucketExists(ctx, b.name)
	if err == nil && !there {
		err = fmt.Errorf("there is no bucket %q; make it first", b.name)
	}
	return b, err
}

// create uses one request, so that the condition holds for the whole object.
func (b *bucket) create(ctx context.Context, name string, data []byte) error {
	options := minio.PutObjectOptions{DisableMultipart: true, ContentType: "application/octet-stream"}
	options.SetMatchETagExcept("*")
	_, err := b.client.PutObject(ctx, b.name, b.prefix+name, bytes.NewReader(data), int64(len(data)), options)
	return b.explain(name, err)
}

func (b *bucket) read(ctx context.Context, name string) ([]byte, error) {
	object, err := b.client.GetObject(ctx, b.name, b.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, b.explain(name, err)
	}
	defer object.Close()
	data, err := io.ReadAll(object)
	return data, b.explain(name, err)
}

func (b *bucket) first(ctx context.Context, folder string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing
	for o := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix + folder + "/", MaxKeys: 1}) {
		return strings.TrimPrefix(o.Key, b.prefix+folder+"/"), b.explain(folder, o.Err)
	}
	return "", ctx.Err()
}

// explain marks what does not pass by waiting.
func (b *bucket) explain(name string, err error) error {
	if err == nil {
		return nil
	}
	answer := minio.ToErrorResponse(err)
	switch {
	case answer.StatusCode == http.StatusPreconditionFailed:
		return fs.ErrExist
	case answer.StatusCode == http.StatusForbidden, answer.StatusCode == http.StatusUnauthorized, answer.Code == "NoSuchBucket":
		return fmt.Errorf("s3://%s/%s%s: %w: %w", b.name, b.prefix, name, consumers.ErrStop, err)
	}
	return fmt.Errorf("s3://%s/%s%s: %w", b.name, b.prefix, name, err)
}
