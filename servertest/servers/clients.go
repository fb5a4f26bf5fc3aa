//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"penstock/servertest"
)

// A kit is what a session with other people's clients runs on. It is fetched
// once, and runs nothing by itself.
type kit struct {
	name string
	// files says what to fetch, by name; a kit of other files is another kit.
	files map[string][]byte
	// fetch fills dir, which holds the files.
	fetch func(ctx context.Context, dir string) error
}

//go:embed python/requirements.txt
var requirements []byte

//go:embed node/package.json
var packageJSON []byte

//go:embed node/package-lock.json
var packageLock []byte

var (
	python = kit{"python", map[string][]byte{"requirements.txt": requirements}, fetchPython}
	node   = kit{"node", map[string][]byte{"package.json": packageJSON, "package-lock.json": packageLock}, fetchNode}
)

// find returns the kit's folder; there is no process.
func (k kit) find(ctx context.Context, tools, _ string) (*process, string, error) {
	folder, err := k.get(ctx, tools)
	return nil, folder, err
}

// get returns the kit's folder below tools, which it fills at first use.
func (k kit) get(ctx context.Context, tools string) (string, error) {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(k.files)) {
		_, _ = sum.Write(k.files[name]) // a hash takes every write
	}
	folder := filepath.Join(tools, fmt.Sprintf("%s-%.4x", k.name, sum.Sum(nil)))
	done := filepath.Join(folder, "complete")
	if _, err := os.Stat(done); err == nil {
		return folder, nil
	}
	// A virtual environment cannot be moved, so what is there without the mark
	// was cut off, and goes.
	if err := errors.Join(os.RemoveAll(folder), os.MkdirAll(folder, 0o755)); err != nil {
		return "", err
	}
	for name, text := range k.files {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			return "", err
		}
	}
	if err := k.fetch(ctx, folder); err != nil {
		return "", err
	}
	return folder, os.WriteFile(done, nil, 0o644)
}

func fetchPython(ctx context.Context, dir string) error {
	python, err := servertest.Lookup("python3", "python3-venv")
	if err != nil {
		return err
	}
	pip := filepath.Join(dir, "bin", "pip")
	if err := quietly(exec.CommandContext(ctx, python, "-m", "venv", dir)); err != nil {
		return fmt.Errorf("make a virtual environment (apt-get install python3-venv): %w", err)
	}
	return quietly(exec.CommandContext(ctx, pip, "install", "-q", "--disable-pip-version-check", "-r", filepath.Join(dir, "requirements.txt")))
}

func fetchNode(ctx context.Context, dir string) error {
	npm, err := servertest.Lookup("npm", "npm")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, npm, "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	return quietly(cmd)
}

// quietly runs cmd; what it prints is part of the error.
func quietly(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", cmd, err, out)
	}
	return nil
}
