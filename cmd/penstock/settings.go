package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v4"
)

// settings gives a flag that stands not on the command line its value from the
// environment (PENSTOCK_<COMMAND>_<FLAG>, or a variable of the flag's own) or
// else from the configuration file, which nests as the commands do:
//
//	consume:
//	  microbatch:
//	    group: billing
type settings struct {
	file map[string]any
}

// Validate implements kong.Resolver.
func (settings) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (s settings) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	words := strings.Fields(commandWords(ctx))
	name := strings.ToUpper("PENSTOCK_" + strings.Join(append(words[:len(words):len(words)], flag.Name), "_"))
	if v, ok := os.LookupEnv(strings.ReplaceAll(name, "-", "_")); ok {
		return v, nil
	}
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil // kong has read it
		}
	}
	level := s.file
	for _, w := range words {
		level, _ = level[w].(map[string]any)
	}
	if v, ok := level[flag.Name]; ok {
		return fmt.Sprint(v), nil
	}
	return nil, nil
}

// commandWords are the commands of a call, without its positional arguments.
func commandWords(ctx *kong.Context) string {
	var words []string
	for _, p := range ctx.Path {
		if p.Command != nil {
			words = append(words, p.Command.Name)
		}
	}
	return strings.Join(words, " ")
}

// configFile is the --config flag: it reads the file before other flags are
// resolved.
type configFile string

// BeforeResolve implements kong's hook.
func (configFile) BeforeResolve(ctx *kong.Context, app *kong.Kong, trace *kong.Path) error {
	const limit = 1 << 20
	if pipelineCommands[commandWords(ctx)] {
		return nil // there it names pipelines
	}
	c := ctx.FlagValue(trace.Flag).(configFile)
	if info, err := os.Stat(string(c)); err != nil || info.Size() > limit {
		return usagef("read configuration %q: no such file, or larger than %d bytes", string(c), limit)
	}
	data, err := os.ReadFile(string(c))
	if err != nil {
		return usageError{fmt.Errorf("read configuration: %w", err)}
	}
	var file map[string]any
	if err := yaml.Unmarshal(data, &file); err != nil {
		return usagef("read configuration %s: %v", string(c), err)
	}
	if err := checkSettings(file, app.Model.Node, string(c)); err != nil {
		return err
	}
	ctx.AddResolver(settings{file: file})
	return nil
}

// checkSettings refuses a name that is neither a command nor a flag.
func checkSettings(level map[string]any, node *kong.Node, path string) error {
next:
	for name, v := range level {
		for _, child := range node.Children {
			if child.Name == name {
				sub, ok := v.(map[string]any)
				if !ok {
					return usagef("configuration %s: %q is a command, and holds its flags by name", path, name)
				}
				if err := checkSettings(sub, child, path+": "+name); err != nil {
					return err
				}
				continue next
			}
		}
		for _, flag := range node.Flags {
			if flag.Name == name {
				continue next
			}
		}
		return usagef("configuration %s: %q is neither a command nor a flag there", path, name)
	}
	return nil
}
