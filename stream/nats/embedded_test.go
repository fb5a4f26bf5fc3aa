package nats

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/stream"
)

// The test binary, run again as a process to kill.
const (
	helperEnv = "PENSTOCK_TEST_NATS_HELPER" // what it does: serve or publish
	dirEnv    = "PENSTOCK_TEST_NATS_DIR"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(helperEnv); what != "" {
		fmt.Fprintln(os.Stderr, help(what, os.Getenv(dirEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// help serves a folder until it is killed. To publish it writes numbered
// records in calls of 1 to 40, and prints how far it got after each call.
func help(what, dir string) error {
	ctx := context.Background()
	b, err := OpenDir(ctx, dir, Options{})
	if err != nil {
		return err
	}
	if !b.Serves() {
		return errors.New("the helper does not serve the folder")
	}
	if err := b.Create(ctx, "t", 2); err != nil {
		return err
	}
	ranges, err := b.Ranges(ctx, "t")
	if err != nil {
		return err
	}
	next := int(ranges[0].Records + ranges[1].Records)
	fmt.Println(next)
	if what == "serve" {
		select {}
	}
	for call := 0; ; call++ {
		var records []stream.Record
		for range call%40 + 1 {
			records = append(records, stream.Record{Topic: "t", Key: fmt.Append(nil, next%7), Value: fmt.Append(nil, next)})
			next++
		}
		if err := b.Publish(ctx, records...); err != nil {
			return err
		}
		fmt.Println(next)
	}
}

// helper starts the helper, and returns once it serves.
func helper(t *testing.T, what, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), helperEnv+"="+what, dirEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the helper did not start")
	}
	return cmd, lines
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // SIGKILL, unless it is dead already
	_ = cmd.Wait()         // says that it was killed
}

func openDir(t testing.TB, dir string) *Broker {
	t.Helper()
	b, err := OpenDir(t.Context(), dir, Options{Failover: failover})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// read fetches and acknowledges n records.
func read(t testing.TB, src stream.Source, n int) []stream.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all []stream.Record
	for len(all) < n {
		records, ack, err := src.Fetch(ctx, n-len(all))
		if err != nil {
			t.Fatalf("fetch after %d of %d records: %v", len(all), n, err)
		}
		if err := ack(ctx, nil); err != nil {
			t.Fatal(err)
		}
		all = append(all, records...)
	}
	return all
}

func open(t testing.TB, b *Broker, s stream.Subscription) stream.SourceCloser {
	t.Helper()
	src, err := b.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// What was acknowledged is there after the process that serves the folder was
// killed, and the folder opens again. That the server syncs before it answers
// cannot be seen this way: what it wrote is the kernel's, which lives on.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		cmd, lines := helper(t, "publish", dir)
		acknowledged := 0
		for range 25 {
			if !lines.Scan() {
				t.Fatal("the helper ended by itself")
			}
			acknowledged, _ = strconv.Atoi(lines.Text())
		}
		kill(cmd)

		b := openDir(t, dir)
		if !b.Serves() {
			t.Fatal("the folder of a dead process is not served")
		}
		ranges, err := b.Ranges(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		stored := int(ranges[0].Records + ranges[1].Records)
		group := strconv.Itoa(stored)
		src := open(t, b, stream.Subscription{Topic: "t", Group: group})
		seen := map[string]bool{}
		for _, r := range read(t, src, stored) {
			seen[string(r.Value)] = true
		}
		for i := range acknowledged {
			if !seen[strconv.Itoa(i)] {
				t.Errorf("record %d was acknowledged, and is lost", i)
			}
		}
		src.Close()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Who follows a folder finds its next server by itself.
func TestFollow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, _ := helper(t, "serve", dir)
	b := openDir(t, dir)
	if b.Serves() {
		t.Fatal("two processes serve one folder")
	}
	publish := func(value string) {
		t.Helper()
		// While nobody serves the folder, the errors say so.
		for {
			err := b.Publish(t.Context(), stream.Record{Topic: "t", Value: []byte(value)})
			if err == nil {
				return
			}
			if !errors.Is(err, stream.ErrUnreachable) && !errors.Is(err, stream.ErrNoTopic) {
				t.Fatalf("publish: %v, want ErrUnreachable", err)
			}
		}
	}
	src := open(t, b, stream.Subscription{Topic: "t", Group: "g"})
	publish("first")
	if got := read(t, src, 1); string(got[0].Value) != "first" {
		t.Errorf("got %q", got[0].Value)
	}
	kill(cmd)
	if err := b.Publish(t.Context(), stream.Record{Topic: "t"}); !errors.Is(err, stream.ErrUnreachable) {
		t.Errorf("publish to a dead server: %v, want ErrUnreachable", err)
	}
	helper(t, "serve", dir)
	publish("second")
	for {
		if got := read(t, src, 1); string(got[0].Value) == "second" {
			return
		}
	}
}

func TestOpenDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first := openDir(t, dir)
	if !first.Serves() {
		t.Fatal("the first to open a folder does not serve it")
	}
	if err := first.Announce("http://127.0.0.1:8081"); err != nil {
		t.Fatal(err)
	}
	second := openDir(t, dir)
	if second.Serves() {
		t.Fatal("the second to open a folder serves it")
	}
	if err := second.Announce("http://127.0.0.1:1"); err == nil {
		t.Error("announced a registry for another process")
	}
	file, err := ReadServerFile(dir)
	if err != nil || file.Registry != "http://127.0.0.1:8081" || file.URL == "" || file.Token == "" {
		t.Errorf("server.json says %+v, %v", file, err)
	}
	info, err := os.Stat(filepath.Join(dir, "server.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("server.json: %v, %v", info, err)
	}
	// Without the token the server is closed.
	if b, err := Open(t.Context(), Config{URL: file.URL}); err == nil {
		b.Close()
		t.Error("connected without the token")
	} else if strings.Contains(err.Error(), file.Token) {
		t.Errorf("the error shows the token: %v", err)
	}
	if err := second.Create(t.Context(), "t", 1); err != nil {
		t.Fatal(err)
	}
	if err := second.Publish(t.Context(), stream.Record{Topic: "t", Value: []byte("kept")}); err != nil {
		t.Fatal(err)
	}
	second.Close()
	first.Close()
	if _, err := ReadServerFile(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: %v, want no server.json", err)
	}
	third := openDir(t, dir)
	if got := read(t, open(t, third, stream.Subscription{Topic: "t", Group: "g"}), 1); string(got[0].Value) != "kept" {
		t.Errorf("got %q", got[0].Value)
	}
	for _, name := range []string{"lock", "format", "server.json", "jetstream"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenDirStale(t *testing.T) {
	dir := t.TempDir()
	// A process was killed, and its port is anybody's now.
	if err := writeServerFile(dir, ServerFile{URL: "nats://127.0.0.1:1", Token: "old"}); err != nil {
		t.Fatal(err)
	}
	if b := openDir(t, dir); !b.Serves() {
		t.Error("the folder is not served")
	}
}

func TestOpenDirErrors(t *testing.T) {
	f := func(what string, prepare func(t *testing.T, dir string) error, want string, is error) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := prepare(t, dir); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			if errors.Is(is, ErrInUse) {
				cancel() // wait no longer
			}
			defer cancel()
			b, err := OpenDir(ctx, filepath.Join(dir, "data"), Options{})
			if err == nil {
				b.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), want) || is != nil && !errors.Is(err, is) {
				t.Errorf("error %q, want %q", err, want)
			}
		})
	}
	data := func(dir string) string { return filepath.Join(dir, "data") }
	f("in use", func(t *testing.T, dir string) error {
		if err := os.Mkdir(data(dir), 0o700); err != nil {
			return err
		}
		lock, _, err := lockDir(data(dir))
		if err == nil {
			t.Cleanup(func() { lock.Close() })
		}
		return err
	}, "in use by another process that does not answer (process "+strconv.Itoa(os.Getpid()), ErrInUse)
	f("newer", func(t *testing.T, dir string) error {
		return errors.Join(os.Mkdir(data(dir), 0o700), os.WriteFile(filepath.Join(data(dir), "format"), []byte("2\n"), 0o600))
	}, "it has format 2, this program knows up to 1: use a newer penstock", nil)
	f("damaged", func(t *testing.T, dir string) error {
		return errors.Join(os.Mkdir(data(dir), 0o700), os.WriteFile(filepath.Join(data(dir), "format"), []byte("PNG"), 0o600))
	}, `the file format says "PNG"`, nil)
	f("a file", func(t *testing.T, dir string) error {
		return os.WriteFile(data(dir), nil, 0o600)
	}, "not a directory", nil)
	f("read-only", func(t *testing.T, dir string) error {
		if os.Geteuid() == 0 {
			return mount(t, dir, "size=1m,ro")
		}
		return os.Chmod(dir, 0o500)
	}, "it cannot be written: change its permissions", nil)
	f("full", func(t *testing.T, dir string) error {
		if err := mount(t, dir, "size=64k"); err != nil {
			return err
		}
		return fill(filepath.Join(dir, "filler"))
	}, "the disk is full: make room", syscall.ENOSPC)
}

// A disk that runs full is said, and what was acknowledged is there once there
// is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := mount(t, dir, "size=24m"); err != nil {
		t.Fatal(err)
	}
	b := openDir(t, filepath.Join(dir, "data"))
	if err := b.Create(t.Context(), "t", 1); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	acknowledged := 0
	var err error
	for err == nil {
		records := make([]stream.Record, 1+acknowledged%40)
		for i := range records {
			records[i] = stream.Record{Topic: "t", Value: fmt.Append(make([]byte, 10_000), acknowledged+i)}
		}
		if err = b.Publish(t.Context(), records...); err == nil {
			acknowledged += len(records)
		}
		if acknowledged > 50 && acknowledged < 100 {
			if err := fill(filler); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !strings.Contains(err.Error(), "room") {
		t.Errorf("publish to a full disk: %v", err)
	}
	one := stream.Record{Topic: "t", Value: make([]byte, 100_000)}
	if err = b.Publish(t.Context(), one); err == nil || !strings.Contains(err.Error(), "room") {
		t.Errorf("publish one to a full disk: %v", err)
	}
	b.Close()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	b = openDir(t, filepath.Join(dir, "data"))
	seen := map[string]bool{}
	ranges, err := b.Ranges(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range read(t, open(t, b, stream.Subscription{Topic: "t", Group: "g"}), int(ranges[0].Records)) {
		seen[string(r.Value[10_000:])] = true
	}
	for i := range acknowledged {
		if !seen[strconv.Itoa(i)] {
			t.Errorf("record %d was acknowledged, and is lost", i)
		}
	}
}

// mount puts a small file system at dir, or skips the test.
func mount(t *testing.T, dir, options string) error {
	t.Helper()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return nil
}

// fill writes until the disk is full.
func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 512)); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
