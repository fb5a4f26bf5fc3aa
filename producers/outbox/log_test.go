package outbox_test

import "log/slog"

// lines are what was logged.
type lines chan string

func (l lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Write implements io.Writer. What nobody reads is dropped.
func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}
