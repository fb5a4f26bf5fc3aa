package nats

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// formatVersion is the layout of a folder that this program knows:
//
//	lock         held by the process that serves the folder
//	format       this version
//	server.json  where that process can be reached
//	jetstream/   the topics
//	registry/, state/   what others keep there
const formatVersion = 1

const (
	// openFor bounds the wait for a folder whose holder does not answer.
	openFor = 5 * time.Second
	// startFor bounds the wait for an embedded server.
	startFor = 30 * time.Second
)

// ErrInUse is returned where another process holds a folder but cannot be
// reached: it is just starting, or it hangs.
var ErrInUse = errors.New("folder is in use by another process that does not answer")

// ServerFile is what server.json says: how to reach the process that serves a
// folder.
type ServerFile struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	// Registry is the URL of the registry that runs with it, if one does.
	Registry string `json:"registry,omitempty"`
}

// ReadServerFile returns how to reach the process that serves dir, as far as
// one does: after that process was killed the file is still there. Without a
// file the error wraps fs.ErrNotExist.
func ReadServerFile(dir string) (ServerFile, error) {
	var f ServerFile
	b, err := os.ReadFile(filepath.Join(dir, "server.json"))
	if err != nil {
		return f, fmt.Errorf("read who serves the folder: %w", err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("read who serves the folder: %q: %w", filepath.Join(dir, "server.json"), err)
	}
	return f, nil
}

func writeServerFile(dir string, f ServerFile) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return writeFile(dir, "server.json", append(b, '\n'))
}

// writeFile writes a file that is there whole or not at all, for the owner's
// eyes only.
func writeFile(dir, name string, content []byte) error {
	f, err := os.CreateTemp(dir, name+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// OpenDir connects to the server of a folder. If no process serves it, this one
// does, until Close; a record is acknowledged once it is synced to disk. Other
// processes reach the server on a loopback port, with a token that server.json
// tells those who may read it.
//
// It returns an error that wraps ErrInUse if the process that holds the folder
// does not answer within five seconds or ctx, and others for a folder that cannot be
// written, a full disk, and a folder of a newer format.
func OpenDir(ctx context.Context, dir string, o Options) (*Broker, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, folderError(dir, err)
	}
	deadline := time.Now().Add(openFor)
	for {
		lock, holder, err := lockDir(dir)
		if err != nil {
			return nil, folderError(dir, err)
		}
		if lock != nil {
			return serve(ctx, dir, lock, o)
		}
		b, err := follow(ctx, dir, o)
		if err == nil {
			return b, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			err = ctx.Err()
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, fmt.Errorf("open folder %q: %w (process %s): wait until it has started, or stop it: %w", dir, ErrInUse, holder, err)
		}
	}
}

// folderError explains why a folder cannot be used.
func folderError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("open folder %q: the disk is full: make room, or choose another folder: %w", dir, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open folder %q: it cannot be written: change its permissions, or choose another folder: %w", dir, err)
	}
	return fmt.Errorf("open folder %q: %w", dir, err)
}

// lockDir takes the folder's lock, which ends with the file or the process. If
// another process has it, lock is nil and holder its id.
func lockDir(dir string) (lock *os.File, holder string, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, "", err
	}
	err = flock(f)
	if errors.Is(err, errLocked) {
		b := make([]byte, 32)
		n, _ := f.ReadAt(b, 0)
		return nil, strings.TrimSpace(string(b[:n])), f.Close()
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	return f, "", nil
}

// checkFormat refuses a folder of a newer program, and marks a new one.
func checkFormat(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "format"))
	if errors.Is(err, fs.ErrNotExist) {
		return writeFile(dir, "format", []byte(strconv.Itoa(formatVersion)+"\n"))
	}
	if err != nil {
		return err
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || v < 1 {
		return fmt.Errorf("the file format says %.20q, expected a version: it is no folder of penstock, or damaged", b)
	}
	if v > formatVersion {
		return fmt.Errorf("it has format %d, this program knows up to %d: use a newer penstock", v, formatVersion)
	}
	return nil
}

// follow connects to the process that serves dir. The connection follows
// server.json to whoever serves the folder later.
func follow(ctx context.Context, dir string, o Options) (*Broker, error) {
	f, err := ReadServerFile(dir)
	if err != nil {
		return nil, err
	}
	b, err := connect(ctx, f.URL, o, 1,
		nats.SetCustomDialer(followDialer(dir)),
		nats.TokenHandler(func() string {
			f, _ := ReadServerFile(dir)
			return f.Token
		}))
	if err != nil {
		return nil, err
	}
	b.dir = dir
	return b, nil
}

// followDialer dials whoever serves the folder now.
type followDialer string

func (dir followDialer) Dial(network, _ string) (net.Conn, error) {
	f, err := ReadServerFile(string(dir))
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(f.URL)
	if err != nil {
		return nil, err
	}
	return net.DialTimeout(network, u.Host, connectTimeout)
}

// server is the embedded server of a folder, and the folder's lock.
type server struct {
	dir  string
	lock *os.File
	nats *natsserver.Server

	mu   sync.Mutex
	file ServerFile
}

// serve starts the folder's server and connects to it.
func serve(ctx context.Context, dir string, lock *os.File, o Options) (b *Broker, err error) {
	s := &server{dir: dir, lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := checkFormat(dir); err != nil {
		return nil, folderError(dir, err)
	}
	token := rand.Text()
	log := &serverLog{log: o.Logger}
	s.nats, err = natsserver.NewServer(&natsserver.Options{
		ServerName:             "penstock",
		Host:                   "127.0.0.1",
		Port:                   natsserver.RANDOM_PORT,
		Authorization:          token,
		JetStream:              true,
		StoreDir:               dir, // the server appends "jetstream"
		SyncAlways:             true,
		MaxPayload:             max(natsserver.MAX_PAYLOAD_SIZE, int32(min(o.MaxValueBytes, natsserver.MAX_PAYLOAD_MAX_SIZE))+256<<10),
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("start the server of folder %q: %w", dir, err)
	}
	s.nats.SetLoggerV2(log, o.Logger.Enabled(ctx, slog.LevelDebug), false, false)
	s.nats.Start()
	if text := log.fatal(); text != "" {
		return nil, folderError(dir, fmt.Errorf("start the server: %s", text))
	}
	if !s.nats.ReadyForConnections(startFor) {
		return nil, fmt.Errorf("start the server of folder %q: not ready after %v", dir, startFor)
	}
	if !s.nats.JetStreamEnabled() {
		return nil, fmt.Errorf("start the server of folder %q: JetStream did not start", dir)
	}
	b, err = connect(ctx, s.nats.ClientURL(), o, 1, nats.InProcessServer(s.nats), nats.Token(token))
	if err != nil {
		return nil, err
	}
	s.file = ServerFile{URL: s.nats.ClientURL(), Token: token}
	if err := writeServerFile(dir, s.file); err != nil {
		return nil, errors.Join(folderError(dir, err), b.Close())
	}
	b.server, b.dir = s, dir
	return b, nil
}

// minFree is how much room the disk of a folder has at least while a refusal of
// its server has other reasons.
const minFree = 16 << 20

// full reports that the folder that the broker's server keeps its data in has
// no room, which makes the server refuse records, or stop taking any.
func (b *Broker) full() error {
	if b.dir == "" {
		return nil
	}
	if free, err := freeBytes(b.dir); err == nil && free < minFree {
		return fmt.Errorf("the disk of folder %q is full, or nearly so: make room, and start again if that does not help", b.dir)
	}
	if b.server != nil && !b.server.nats.JetStreamEnabled() {
		return fmt.Errorf("the server of folder %q has stopped taking data, as it does when the disk is full: make room, and start again", b.dir)
	}
	return nil
}

// close stops the server and gives up the folder.
func (s *server) close() error {
	err := os.Remove(filepath.Join(s.dir, "server.json"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if s.nats != nil {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
	}
	return errors.Join(err, s.lock.Close())
}

// Serves reports whether this process serves a folder.
func (b *Broker) Serves() bool { return b.server != nil }

// Announce writes the URL of the registry that runs in this process into
// server.json, where other processes find it. It is an error unless this
// process serves the folder.
func (b *Broker) Announce(registry string) error {
	s := b.server
	if s == nil {
		return errors.New("announce the registry: another process serves the broker")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.Registry = registry
	if err := writeServerFile(s.dir, s.file); err != nil {
		return fmt.Errorf("announce the registry: %w", folderError(s.dir, err))
	}
	return nil
}

// serverLog sends what the embedded server says to slog, at debug level.
type serverLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	last string // the first fatal message
}

func (l *serverLog) say(format string, v ...any) {
	l.log.Debug("embedded server: " + fmt.Sprintf(format, v...))
}

func (l *serverLog) Noticef(format string, v ...any) { l.say(format, v...) }
func (l *serverLog) Warnf(format string, v ...any)   { l.say(format, v...) }
func (l *serverLog) Errorf(format string, v ...any)  { l.say(format, v...) }
func (l *serverLog) Debugf(format string, v ...any)  { l.say(format, v...) }
func (l *serverLog) Tracef(format string, v ...any)  { l.say(format, v...) }

// Fatalf is where the server's own logger ends the process.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.say(format, v...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		l.last = fmt.Sprintf(format, v...)
	}
}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
