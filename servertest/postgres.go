//go:build unix

package servertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// PostgreSQL is a PostgreSQL with its data in dir, that lets everybody in from this
// machine.
func PostgreSQL(dir string) (Program, error) {
	bin, err := postgresFolder()
	if err != nil {
		return Program{}, err
	}
	owner, err := unprivileged(dir)
	if err != nil {
		return Program{}, err
	}
	ports, err := FreePorts(1)
	if err != nil {
		return Program{}, err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"),
		"-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir = dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := initdb.CombinedOutput(); err != nil {
		return Program{}, fmt.Errorf("make the cluster: %w\n%s", err, out)
	}
	return Program{func() *exec.Cmd {
		cmd := grouped(filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(ports[0]),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=300")
		cmd.Dir = dir
		cmd.SysProcAttr.Credential = owner
		return cmd
	}, fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", ports[0])}, nil
}

// postgresFolder returns the folder of the server's programs. Debian keeps
// them, by version, outside the PATH.
func postgresFolder() (string, error) {
	folders, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	version := func(folder string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder)))
		return n
	}
	slices.SortFunc(folders, func(a, b string) int { return version(b) - version(a) })
	for _, folder := range folders {
		if _, err := os.Stat(filepath.Join(folder, "postgres")); err == nil {
			return folder, nil
		}
	}
	path, err := Lookup("postgres", "postgresql")
	return filepath.Dir(path), err
}

// unprivileged gives dir to a user under whom PostgreSQL agrees to run, which
// root is not, and returns that user. For other users it returns nil.
func unprivileged(dir string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, err
		}
		// The folder around a test's own lets nobody through.
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(os.Chown(dir, int(uid), int(gid)), os.Chmod(filepath.Dir(dir), 0o755))
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
}
