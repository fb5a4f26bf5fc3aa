package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/registry/compat"
	"penstock/schemas"
)

// maxSources is how many schemas a folder, tree or registry may have.
const maxSources = 10_000

// sourced is a schema and where it is from.
type sourced struct {
	name  string // among those of its folder, tree or registry
	title string // as the user would name it
	side  compat.Side
}

// schemaSources loads schemas from wherever they are.
type schemaSources struct {
	connectFlags
	reg *client.Client
}

func (s *schemaSources) close() {
	if s.reg != nil {
		_ = s.reg.Close() // it has only been read from
		s.reg = nil
	}
}

// load returns the schemas that a word of the command line means.
func (s *schemaSources) load(ctx context.Context, from string) ([]sourced, error) {
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		return s.wholeRegistry(ctx, from)
	}
	info, err := os.Stat(from)
	switch {
	case err == nil && info.IsDir():
		return loadFolder(from)
	case err == nil:
		return loadFile(from)
	}
	if subject, number, ok := cutVersion(from); ok {
		found, err := s.version(ctx, subject, number)
		return []sourced{found}, err
	}
	if revision, path, ok := strings.Cut(from, ":"); ok && revision != "" {
		return loadGit(ctx, revision, path)
	}
	return nil, usagef("%s: expected a schema file, a folder, SUBJECT@VERSION, a git REVISION:PATH or the URL of a registry, found none of them", from)
}

// cutVersion takes SUBJECT@VERSION apart.
func cutVersion(text string) (subject string, number int, ok bool) {
	i := strings.LastIndexByte(text, '@')
	if i <= 0 {
		return "", 0, false
	}
	number, err := registry.ParseVersion(text[i+1:])
	return text[:i], number, err == nil
}

// version loads a version of a subject.
func (s *schemaSources) version(ctx context.Context, subject string, number int) (sourced, error) {
	if err := s.open(); err != nil {
		return sourced{}, err
	}
	return versionOf(ctx, s.reg, subject, number)
}

// open makes sure that there is a client of the registry.
func (s *schemaSources) open() error {
	if s.reg != nil {
		return nil
	}
	reg, err := s.openRegistry(s.Broker)
	s.reg = reg
	return err
}

func versionOf(ctx context.Context, reg *client.Client, subject string, number int) (sourced, error) {
	found, err := reg.Version(ctx, subject, number, false)
	if errors.Is(err, client.ErrNotFound) {
		return sourced{}, usageError{err} // it is not that they are incompatible
	}
	if err != nil {
		return sourced{}, err
	}
	parsed, err := reg.Parse(ctx, found)
	if err != nil {
		return sourced{}, err
	}
	return sourced{subject, fmt.Sprintf("%s@%d", subject, found.Version), compat.Side{Schema: parsed, Source: found}}, nil
}

// wholeRegistry loads the newest version of each subject of another registry.
func (s *schemaSources) wholeRegistry(ctx context.Context, address string) ([]sourced, error) {
	flags := s.registryFlag
	flags.Registry = address
	reg, err := flags.openRegistry("")
	if err != nil {
		return nil, err
	}
	defer reg.Close()
	subjects, err := reg.Subjects(ctx, false)
	if err != nil {
		return nil, err
	}
	if len(subjects) > maxSources {
		return nil, usagef("%s has %d subjects, more than the limit of %d", address, len(subjects), maxSources)
	}
	var all []sourced
	for _, subject := range subjects {
		found, err := versionOf(ctx, reg, subject, -1)
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return all, nil
}

// loadFile loads one file; what it refers to may be in the others beside it.
func loadFile(file string) ([]sourced, error) {
	s, err := readSchema(file)
	if err != nil {
		return nil, err
	}
	all := []sourced{{filepath.Base(file), file, compat.Side{Source: s}}}
	texts := func() (map[string]string, error) {
		beside, err := readFolder(filepath.Dir(file), s.SchemaType)
		delete(beside, filepath.Base(file))
		return beside, err
	}
	return all, all[0].parse(texts)
}

// loadFolder loads the schema files of a folder and those below it.
func loadFolder(dir string) ([]sourced, error) {
	texts, err := readFolder(dir, "")
	if err != nil {
		return nil, err
	}
	return parseTexts(texts, func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) })
}

// readFolder reads the schema files of a folder, in one language if that is
// given and then not those of folders below.
func readFolder(dir string, language schemas.Type) (map[string]string, error) {
	texts := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && (strings.HasPrefix(d.Name(), ".") || language != "") {
				return filepath.SkipDir
			}
			return nil
		}
		is, err := typeOf(path)
		if err != nil || language != "" && is != language || !d.Type().IsRegular() {
			return nil //nolint:nilerr // it is no schema
		}
		if len(texts) == maxSources {
			return usagef("%s has more than %d schema files, which is the limit", dir, maxSources)
		}
		s, err := readSchema(path)
		texts[filepath.ToSlash(name)] = s.Schema
		return err
	})
	return texts, err
}

// loadGit loads a file or folder as it was in a revision, by the git command.
func loadGit(ctx context.Context, revision, path string) ([]sourced, error) {
	if strings.HasPrefix(revision, "-") {
		return nil, usagef("%s:%s: a revision of git does not begin with -", revision, path)
	}
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", args...).Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return "", usagef("read %s:%s: %s", revision, path, strings.TrimSpace(string(exit.Stderr)))
		}
		if err != nil {
			return "", fmt.Errorf("read %s:%s: %w", revision, path, err)
		}
		return string(out), nil
	}
	kind, err := git("cat-file", "-t", revision+":"+path)
	if err != nil {
		return nil, err
	}
	title := func(name string) string { return revision + ":" + strings.TrimSuffix(path, "/") + "/" + name }
	dir, only := path, ""
	if strings.TrimSpace(kind) == "blob" {
		if _, err := typeOf(path); err != nil {
			return nil, err
		}
		i := strings.LastIndexByte(path, '/') + 1
		dir, only = path[:i], path[i:]
		title = func(string) string { return revision + ":" + path }
	}
	texts := map[string]string{}
	tree := revision + ":" + dir
	listed, err := git("ls-tree", "-r", "-z", "--name-only", "--full-tree", tree)
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(listed, "\x00"), "\x00") {
		language, err := typeOf(name)
		if err != nil {
			continue
		}
		if wanted, _ := typeOf(only); only != "" && (language != wanted || strings.Contains(name, "/")) {
			continue
		}
		if len(texts) == maxSources {
			return nil, usagef("%s:%s has more than %d schema files, which is the limit", revision, path, maxSources)
		}
		text, err := git("cat-file", "blob", strings.TrimSuffix(tree, "/")+separator(tree)+name)
		if err != nil {
			return nil, err
		}
		if len(text) > maxSchemaFile {
			return nil, usagef("read %s: %d bytes are more than the limit of %d", title(name), len(text), maxSchemaFile)
		}
		texts[name] = text
	}
	if only == "" {
		return parseTexts(texts, title)
	}
	language, _ := typeOf(only)
	one := sourced{only, title(only), compat.Side{Source: registry.Schema{Schema: texts[only], SchemaType: language}}}
	delete(texts, only)
	err = one.parse(func() (map[string]string, error) { return texts, nil })
	return []sourced{one}, err
}

// separator joins a tree of git and a name in it.
func separator(tree string) string {
	if strings.HasSuffix(tree, ":") {
		return ""
	}
	return "/"
}

// parseTexts parses the schemas of a folder, each of which may refer to others.
func parseTexts(texts map[string]string, title func(name string) string) ([]sourced, error) {
	var all []sourced
	for _, name := range sortedNames(texts) {
		language, err := typeOf(name)
		if err != nil {
			continue
		}
		one := sourced{name, title(name), compat.Side{Source: registry.Schema{Schema: texts[name], SchemaType: language}}}
		err = one.parse(func() (map[string]string, error) {
			others := map[string]string{}
			for other, text := range texts {
				if l, err := typeOf(other); err == nil && l == language && other != name {
					others[other] = text
				}
			}
			return others, nil
		})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func sortedNames[V any](texts map[string]V) []string {
	names := make([]string, 0, len(texts))
	for name := range texts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// parse parses a schema by itself, and where that fails with the others that it
// may refer to.
func (s *sourced) parse(others func() (map[string]string, error)) error {
	source := s.side.Source
	i := slices.IndexFunc(formats(), func(f schemas.Format) bool { return f.Type() == source.SchemaType })
	format := formats()[i]
	parsed, err := format.Parse(source.Schema, nil)
	if err != nil {
		texts, failed := others()
		if failed != nil {
			return failed
		}
		if len(texts) > 0 {
			parsed, err = format.Parse(source.Schema, texts)
		}
	}
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", s.title, err)}
	}
	s.side.Schema = parsed
	return nil
}
