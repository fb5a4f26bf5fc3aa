//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A process is a program in a process group of its own, so that a Ctrl-C at
// the terminal does not reach it and no child of its outlives it.
type process struct {
	name string
	log  string // file of its output; empty: not kept
	cmd  *exec.Cmd
	quit syscall.Signal
	done chan struct{} // closed when the program has ended
	err  error         // how it ended; read it after done
}

// launch starts cmd. quit is the signal that asks it to stop. If log is not
// empty, the program's output goes to that file.
func launch(name, log string, quit syscall.Signal, cmd *exec.Cmd) (*process, error) {
	if log != "" {
		f, err := os.Create(log)
		if err != nil {
			return nil, err
		}
		defer f.Close() // the child has its own handle
		cmd.Stdout, cmd.Stderr = f, f
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{name: name, log: log, cmd: cmd, quit: quit, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// stop asks the program to end, kills its whole group when it has ended or
// ten seconds have passed, and returns when it is gone.
func (p *process) stop() {
	p.signal(p.quit)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	// The group is gone when all of it has ended, which is what was wanted.
	_ = syscall.Kill(-p.cmd.Process.Pid, s)
}

// failure says how the program ended, with the last lines of its output. Call
// it after done.
func (p *process) failure() error {
	const lines = 15
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	text, readErr := os.ReadFile(p.log)
	if readErr != nil {
		return err
	}
	all := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return fmt.Errorf("%w\n%s", err, strings.Join(all[max(0, len(all)-lines):], "\n"))
}
