//go:build unix

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"penstock/servertest"
)

//go:embed avro.xml
var avroPom []byte

// findAvro has Apache Avro's jars at hand; there is no process. Tests run a
// program on them from its source, for which a JRE is not enough.
func findAvro(ctx context.Context, tools, _ string) (*process, string, error) {
	java, err := servertest.Lookup("java", "default-jdk-headless")
	if err != nil {
		return nil, "", err
	}
	modules, err := exec.CommandContext(ctx, java, "--list-modules").Output()
	if err != nil {
		return nil, "", fmt.Errorf("list Java's modules: %w", err)
	}
	if !strings.Contains(string(modules), "jdk.compiler") {
		return nil, "", errors.New("java has no compiler (module jdk.compiler): apt-get install default-jdk-headless")
	}
	jars, err := fetchJars(ctx, tools, "avro", avroPom)
	return nil, jars, err
}
