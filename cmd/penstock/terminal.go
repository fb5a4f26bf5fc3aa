package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// terminal is where a command reads and prints. Progress is drawn on stderr,
// and only if that is a terminal.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	log      *slog.Logger

	live  bool // stderr is a terminal: draw progress bars
	width int  // of stdout in columns, if that is a terminal; else 0: neither colours nor columns

	mu  sync.Mutex
	bar *bar // the bar being drawn, or nil
}

func newTerminal(in io.Reader, out, err io.Writer, verbose bool) *terminal {
	t := &terminal{in: in, out: out, err: err}
	if f, ok := err.(*os.File); ok {
		t.live = term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
	}
	if f, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())) {
		t.width = 80
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 40 {
			t.width = columns
		}
	}
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	t.log = slog.New(slog.NewTextHandler(barWriter{t, err}, &slog.HandlerOptions{Level: level}))
	return t
}

// aside is t with standard error in the place of standard output, for what
// accompanies an answer.
func (t *terminal) aside() *terminal {
	return &terminal{in: t.in, out: t.err, err: t.err, log: t.log, live: t.live}
}

// printf prints to standard output.
func (t *terminal) printf(format string, args ...any) {
	fmt.Fprintf(barWriter{t, t.out}, format, args...)
}

// notef prints to standard error, where it does not disturb a pipe.
func (t *terminal) notef(format string, args ...any) {
	fmt.Fprintf(barWriter{t, t.err}, format, args...)
}

// object prints v as one line of JSON.
func (t *terminal) object(v any) error {
	enc := json.NewEncoder(barWriter{t, t.out})
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// wipe removes the bar, so that something can be printed; t.mu is held.
func (t *terminal) wipe() {
	if t.bar != nil && t.bar.drawn {
		fmt.Fprint(t.err, "\r\x1b[K")
		t.bar.drawn = false
	}
}

// finish leaves the terminal as a shell expects it.
func (t *terminal) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wipe()
	t.bar = nil
}

// barWriter writes to w and keeps the bar out of the way.
type barWriter struct {
	t *terminal
	w io.Writer
}

func (w barWriter) Write(p []byte) (int, error) {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	w.t.wipe()
	return w.w.Write(p)
}

// bar is one progress bar. Its methods may be called concurrently.
type bar struct {
	t     *terminal
	label string
	total int64          // 0: not known
	part  func() float64 // where the total is not known, how much is done, from 0 to 1; may be nil
	note  func() string  // where the total is not known, what else to say; may be nil
	start time.Time
	done  int64
	last  time.Time
	drawn bool
}

// progress starts a bar in the place of the one before; end it with stop.
func (t *terminal) progress(label string, total int64) *bar {
	b := &bar{t: t, label: label, total: total, start: time.Now()}
	t.mu.Lock()
	t.wipe()
	t.bar = b
	t.mu.Unlock()
	b.set(0)
	return b
}

// add moves the bar on by n.
func (b *bar) add(n int64) {
	b.t.mu.Lock()
	defer b.t.mu.Unlock()
	b.draw(b.done + n)
}

// set moves the bar to n.
func (b *bar) set(n int64) {
	b.t.mu.Lock()
	defer b.t.mu.Unlock()
	b.draw(n)
}

// stop removes the bar.
func (b *bar) stop() {
	b.t.mu.Lock()
	defer b.t.mu.Unlock()
	b.t.wipe()
	if b.t.bar == b {
		b.t.bar = nil
	}
}

// draw prints the bar, at most ten times a second; t.mu is held.
func (b *bar) draw(n int64) {
	b.done = n
	now := time.Now()
	if !b.t.live || b.t.bar != b || now.Sub(b.last) < 100*time.Millisecond && n != b.total {
		return
	}
	b.last = now
	rate := ""
	if s := now.Sub(b.start).Seconds(); s > 0.2 && n > 0 {
		rate = fmt.Sprintf("  %s/s", count(int64(float64(n)/s)))
		left := float64(b.total-n) / (float64(n) / s)
		if b.part != nil && b.total == 0 {
			left = s/b.part() - s
		}
		if left >= 1 && left < 1e9 {
			rate += fmt.Sprintf("  %s left", time.Duration(left*float64(time.Second)).Round(time.Second))
		}
	}
	const width = 28
	if b.total > 0 {
		full := int(min(n, b.total) * width / b.total)
		fmt.Fprintf(b.t.err, "\r\x1b[K  %s [%s%s] %s of %s%s", b.label,
			strings.Repeat("=", full), strings.Repeat(" ", width-full), count(n), count(b.total), rate)
	} else {
		if b.note != nil {
			rate += "  " + b.note()
		}
		fmt.Fprintf(b.t.err, "\r\x1b[K  %s %s%s", b.label, count(n), rate)
	}
	b.drawn = true
}

// count prints n with thousands set apart.
func count(n int64) string {
	if n < 0 {
		return "-" + count(-n)
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
