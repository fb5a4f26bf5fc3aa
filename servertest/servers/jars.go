//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"penstock/servertest"
)

// fetchJars returns the folder of the jars that a pom.xml names, which it fills
// at first use.
func fetchJars(ctx context.Context, tools, name string, pom []byte) (string, error) {
	jars := filepath.Join(tools, fmt.Sprintf("%s-%.4x", name, sha256.Sum256(pom)))
	if _, err := os.Stat(jars); err == nil {
		return jars, nil
	}
	mvn, err := servertest.Lookup("mvn", "maven")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(tools, name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom, 0o644); err != nil {
		return "", err
	}
	libs := filepath.Join(dir, "libs")
	get := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", dir, "dependency:copy-dependencies", "-DoutputDirectory="+libs)
	if out, err := get.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch the jars of %s: %w\n%s", name, err, out)
	}
	// Only a complete folder gets the name that is looked for.
	if err := os.Rename(libs, jars); err != nil {
		if _, there := os.Stat(jars); there == nil {
			return jars, nil // another run was faster
		}
		return "", err
	}
	return jars, nil
}
