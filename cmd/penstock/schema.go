package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"penstock/registry"
	"penstock/registry/client"
	"penstock/schemas"
	"penstock/schemas/samples"
)

// schemaCmd looks at, registers and checks schemas.
type schemaCmd struct {
	List       schemaListCmd       `cmd:"" help:"List subjects and their versions."`
	Get        schemaGetCmd        `cmd:"" help:"Print the schema of a subject."`
	Register   schemaRegisterCmd   `cmd:"" help:"Register a schema under a subject."`
	Lookup     schemaLookupCmd     `cmd:"" help:"Find the version of a subject that says what a file says."`
	Check      schemaCheckCmd      `cmd:"" help:"Check whether a schema is compatible with a subject."`
	Diff       schemaDiffCmd       `cmd:"" help:"Show what changed between two schemas, and whom it breaks."`
	Changelog  schemaChangelogCmd  `cmd:"" help:"Write the history of a subject: what each version changed, and whom it broke."`
	Infer      schemaInferCmd      `cmd:"" help:"Propose a schema from sample events, or show how they drift from one."`
	Generate   schemaGenerateCmd   `cmd:"" help:"Write the types of a schema in Go, Python or TypeScript."`
	References schemaReferencesCmd `cmd:"" help:"Show what a version refers to, and what refers to it."`
	Config     schemaConfigCmd     `cmd:"" help:"Show, set or take away a compatibility level."`
	Mode       schemaModeCmd       `cmd:"" help:"Show, set or take away a mode, such as READONLY."`
	Delete     schemaDeleteCmd     `cmd:"" help:"Delete a subject or one version."`
	Sample     schemaSampleCmd     `cmd:"" help:"Print made-up events of a schema."`
}

// registryFlags are what the commands on a registry share. They find it beside
// an embedded broker as the other commands do.
type registryFlags struct {
	connectFlags
	outputFlag
}

// connectFlags say where the registry is.
type connectFlags struct {
	brokerFlag
	registryFlag
}

// with calls do with a client of the registry.
func (f *connectFlags) with(do func(reg *client.Client) error) error {
	reg, err := f.openRegistry(f.Broker)
	if err != nil {
		return err
	}
	defer reg.Close()
	return advised(do(reg))
}

// versionNumber is the number that a version's name stands for.
func versionNumber(name string) (int, error) {
	n, err := registry.ParseVersion(name)
	if err != nil {
		return 0, usagef("version %q is neither a number nor latest", name)
	}
	return n, nil
}

// schemaListCmd lists subjects.
type schemaListCmd struct {
	Deleted bool `help:"List deleted ones too, as far as they are not gone for good."`
	Names   bool `help:"Print the names of the subjects alone."`
	registryFlags
}

// Help shows examples.
func (schemaListCmd) Help() string {
	return `Examples:
  penstock schema list
  penstock schema list -o json | jq -r .subject
  penstock schema list --registry https://registry.example --registry-user @login

Every schema command works with any registry that speaks Confluent's dialect.`
}

// Run prints a line a subject.
func (c *schemaListCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(func(reg *client.Client) error {
		subjects, err := reg.Subjects(ctx, c.Deleted)
		if err != nil {
			return err
		}
		for _, name := range subjects {
			if c.Names && !c.json() {
				t.printf("%s\n", name)
				continue
			}
			versions, err := reg.Versions(ctx, name, c.Deleted)
			if errors.Is(err, client.ErrNotFound) {
				continue // deleted meanwhile
			}
			if err != nil {
				return err
			}
			if c.json() {
				if err := t.object(map[string]any{"subject": name, "versions": versions}); err != nil {
					return err
				}
				continue
			}
			words := make([]string, len(versions))
			for i, v := range versions {
				words[i] = strconv.Itoa(v)
			}
			t.printf("%s  versions %s\n", name, strings.Join(words, ", "))
		}
		return nil
	})
}

// schemaGetCmd prints a schema.
type schemaGetCmd struct {
	Subject string `arg:"" help:"Subject."`
	Version string `arg:"" optional:"" default:"latest" help:"Version, or latest (default)."`
	registryFlags
}

// Help shows examples.
func (schemaGetCmd) Help() string {
	return `Examples:
  penstock schema get flights-value > flights.avsc
  penstock schema get flights-value 2 -o json

-o json adds id, type, references and what else the registry says of it.`
}

// Run prints the schema's text, or all that the registry says of it.
func (c *schemaGetCmd) Run(ctx context.Context, t *terminal) error {
	number, err := versionNumber(c.Version)
	if err != nil {
		return err
	}
	return c.with(func(reg *client.Client) error {
		s, err := reg.Version(ctx, c.Subject, number, false)
		if err != nil {
			return err
		}
		if c.json() {
			return t.object(s)
		}
		t.printf("%s\n", strings.TrimSuffix(s.Schema, "\n"))
		return nil
	})
}

// schemaFileFlags are what the commands about a schema file share.
type schemaFileFlags struct {
	schemaFile
	outputFlag
}

// schemaFile is a schema in a file, and the subject that it is for.
type schemaFile struct {
	File      string   `arg:"" help:"Schema file; its ending says the language: .avsc, .proto or .json."`
	Subject   string   `required:"" placeholder:"NAME" help:"Subject."`
	Reference []string `placeholder:"NAME=SUBJECT[:N]" help:"What the schema refers to, and where it is registered."`
	connectFlags
}

// read is the schema of the file with its references.
func (f *schemaFile) read() (registry.Schema, error) {
	s, err := readSchema(f.File)
	if err != nil {
		return s, err
	}
	for _, text := range f.Reference {
		name, subject, ok := strings.Cut(text, "=")
		ref := registry.Reference{Name: name, Subject: subject, Version: -1}
		if i := strings.LastIndexByte(subject, ':'); i > 0 {
			if n, err := registry.ParseVersion(subject[i+1:]); err == nil {
				ref.Subject, ref.Version = subject[:i], n
			}
		}
		if !ok || name == "" || ref.Subject == "" {
			return s, usagef("--reference %q: write NAME=SUBJECT or NAME=SUBJECT:VERSION", text)
		}
		s.References = append(s.References, ref)
	}
	return s, nil
}

// with calls do with a client of the registry and the schema of the file.
func (f *schemaFile) with(do func(reg *client.Client, s registry.Schema) error) error {
	s, err := f.read()
	if err != nil {
		return err
	}
	return f.connectFlags.with(func(reg *client.Client) error { return do(reg, s) })
}

// schemaRegisterCmd registers a schema.
type schemaRegisterCmd struct {
	schemaFileFlags
}

// Help shows examples.
func (schemaRegisterCmd) Help() string {
	return `Examples:
  penstock schema register flights.avsc --subject flights-value
  penstock schema register order.proto --subject orders-value --reference money.proto=common-money:1

Registering what is there already gives its id again. Exit code 1 is a schema
that the subject's level refuses.`
}

// Run registers, or explains why the schema is refused.
func (c *schemaRegisterCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(func(reg *client.Client, s registry.Schema) error {
		id, err := reg.Register(ctx, c.Subject, s)
		if answer := (*registry.Error)(nil); errors.As(err, &answer) && len(answer.Findings) > 0 {
			locate(s, answer.Findings)
			if err := (reportFlag{c.Output}).write(t, report{c.Subject, c.File, false, answer.Findings}); err != nil {
				return err
			}
			return errNo
		}
		if err != nil {
			return refusedSchema(err)
		}
		if c.json() {
			return t.object(map[string]any{"subject": c.Subject, "id": id})
		}
		t.printf("registered under %s as id %d\n", c.Subject, id)
		return nil
	})
}

// refusedSchema is a registry's refusal with what can be done about it.
func refusedSchema(err error) error {
	var answer *registry.Error
	if errors.As(err, &answer) && answer.Code == registry.CodeIncompatible {
		return withHint(noError{err}, "'penstock schema check' explains each finding")
	}
	return err
}

// schemaLookupCmd finds a schema.
type schemaLookupCmd struct {
	schemaFileFlags
}

// Help shows examples.
func (schemaLookupCmd) Help() string {
	return `Examples:
  penstock schema lookup flights.avsc --subject flights-value

Exit code 1 is that there is none.`
}

// Run prints the version, or exits with 1.
func (c *schemaLookupCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(func(reg *client.Client, s registry.Schema) error {
		found, err := reg.Lookup(ctx, c.Subject, s)
		if errors.Is(err, client.ErrNotFound) {
			return noError{fmt.Errorf("no version of %s says what %s says", c.Subject, c.File)}
		}
		if err != nil {
			return err
		}
		if c.json() {
			return t.object(found)
		}
		t.printf("%s version %d, id %d\n", c.Subject, found.Version, found.ID)
		return nil
	})
}

// schemaCheckCmd checks the compatibility of schemas.
type schemaCheckCmd struct {
	Files     []string `arg:"" name:"file" help:"Schema files, or folders of them; the ending says the language: .avsc, .proto or .json."`
	Subject   string   `required:"" placeholder:"NAME" help:"Subject. {name} in it stands for the file's name without its ending."`
	Reference []string `placeholder:"NAME=SUBJECT[:N]" help:"What the schemas refer to, and where it is registered."`
	connectFlags
	reportFlag
	Against string `default:"all" placeholder:"N" help:"Compare with this version only, or latest. Default: those that the subject's level asks for."`
}

// Help shows examples.
func (schemaCheckCmd) Help() string {
	return `Examples:
  penstock schema check flights.avsc --subject flights-value
  penstock schema check flights.avsc --subject flights-value -o json
  penstock schema check schemas/ --subject '{name}-value' -o github

Exit code 0 is compatible, 1 is not; every finding is explained. junit, sarif,
github (annotations of a workflow) and markdown are for build pipelines.`
}

// Run prints every finding.
func (c *schemaCheckCmd) Run(ctx context.Context, t *terminal) error {
	number := registry.AllVersions
	if c.Against != "all" {
		var err error
		if number, err = versionNumber(c.Against); err != nil {
			return err
		}
	}
	files, err := schemaFiles(c.Files)
	if err != nil {
		return err
	}
	if len(files) > 1 && !strings.Contains(c.Subject, "{name}") {
		return usagef("--subject %s: expected {name} in it, as in '{name}-value', for %d files", c.Subject, len(files))
	}
	return c.with(func(reg *client.Client) error {
		var all []report
		for _, file := range files {
			r, err := c.check(ctx, reg, file, number)
			if err != nil {
				return err
			}
			all = append(all, r)
		}
		if err := c.write(t, all...); err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(r report) bool { return !r.Compatible }) {
			return errNo
		}
		return nil
	})
}

// check checks one file.
func (c *schemaCheckCmd) check(ctx context.Context, reg *client.Client, file string, number int) (report, error) {
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	one := schemaFile{File: file, Subject: strings.ReplaceAll(c.Subject, "{name}", name), Reference: c.Reference}
	s, err := one.read()
	if err != nil {
		return report{}, err
	}
	findings, err := reg.Check(ctx, one.Subject, number, s)
	if c.Against != "all" && errors.Is(err, client.ErrNotFound) {
		return report{}, usageError{err} // it is not that the schema is incompatible
	}
	if err != nil {
		return report{}, err
	}
	locate(s, findings)
	return report{one.Subject, file, registry.Compatible(findings), findings}, nil
}

// schemaFiles are the files that are named, and the schema files of folders.
func schemaFiles(named []string) (files []string, err error) {
	for _, name := range named {
		info, err := os.Stat(name)
		if err != nil || !info.IsDir() {
			files = append(files, name)
			continue
		}
		texts, err := readFolder(name, "")
		if err != nil {
			return nil, err
		}
		if len(texts) == 0 {
			return nil, usagef("%s: expected schema files in it (.avsc, .json or .proto), found none", name)
		}
		for _, inside := range sortedNames(texts) {
			files = append(files, filepath.Join(name, filepath.FromSlash(inside)))
		}
	}
	return files, nil
}

// printFindings explains findings, each line after the indent.
func printFindings(t *terminal, findings []registry.Finding, indent string) {
	for _, f := range findings {
		place := ""
		if at := newSide(f); at != nil {
			place = fmt.Sprintf(", line %d, column %d", at.Line, at.Column)
		}
		t.printf("%s%s %s%s%s\n%s  %s\n", indent, f.Severity, titled(f), place, compared(f), indent, f.Message)
		if f.Fix != "" {
			t.printf("%s  to fix it: %s\n", indent, f.Fix)
		}
	}
}

// schemaConfigCmd shows, sets or takes away a compatibility level.
type schemaConfigCmd struct {
	Subject string `arg:"" optional:"" help:"Subject, or a context as :.name:. Default: all that have no level of their own."`
	Level   string `placeholder:"LEVEL" xor:"change" help:"NONE, BACKWARD, FORWARD, FULL, or the last three with _TRANSITIVE. Default: show it."`
	Delete  bool   `xor:"change" help:"Take the configuration of this subject away, so that the one of all holds."`
	registryFlags
}

// Help shows examples.
func (schemaConfigCmd) Help() string {
	return `Examples:
  penstock schema config
  penstock schema config flights-value --level full_transitive
  penstock schema config flights-value --delete

-o json shows what else is configured.`
}

// Run changes the level if that is asked for, and prints what holds.
func (c *schemaConfigCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(func(reg *client.Client) error {
		if c.Delete {
			if err := deleteSetting(ctx, reg, "config", c.Subject); err != nil {
				return err
			}
		}
		if c.Level != "" {
			level, err := registry.ParseLevel(c.Level)
			if err != nil {
				return usageError{err}
			}
			if err := reg.SetConfig(ctx, c.Subject, registry.Config{CompatibilityLevel: level}); err != nil {
				return err
			}
		}
		cfg, err := reg.Config(ctx, c.Subject)
		if err != nil {
			return err
		}
		if c.json() {
			return t.object(cfg)
		}
		t.printf("%s\n", cfg.CompatibilityLevel)
		return nil
	})
}

// schemaDeleteCmd deletes a subject or a version.
type schemaDeleteCmd struct {
	Subject   string `arg:"" help:"Subject."`
	Version   string `arg:"" optional:"" help:"Version, or latest. Default: the whole subject."`
	Permanent bool   `help:"Delete for good what was deleted before."`
	registryFlags
}

// Help shows examples.
func (schemaDeleteCmd) Help() string {
	return `Examples:
  penstock schema delete flights-value 2
  penstock schema delete flights-value
  penstock schema delete flights-value --permanent

Deleted versions are still there for who reads old events by id. What is deleted
for good must have been deleted before, and is gone.`
}

// Run deletes, and prints what.
func (c *schemaDeleteCmd) Run(ctx context.Context, t *terminal) error {
	return c.with(func(reg *client.Client) error {
		var (
			deleted []int
			err     error
		)
		if c.Version == "" {
			deleted, err = reg.DeleteSubject(ctx, c.Subject, c.Permanent)
		} else {
			var n int
			if n, err = versionNumber(c.Version); err != nil {
				return err
			}
			n, err = reg.DeleteVersion(ctx, c.Subject, n, c.Permanent)
			deleted = []int{n}
		}
		for _, twice := range []registry.Code{registry.CodeSubjectDeleted, registry.CodeVersionDeleted} {
			if errors.Is(err, &registry.Error{Code: twice}) {
				return withHint(err, "--permanent does that")
			}
		}
		if err != nil {
			return err
		}
		if c.json() {
			return t.object(map[string]any{"subject": c.Subject, "deleted": deleted})
		}
		t.printf("deleted from %s: %v\n", c.Subject, deleted)
		return nil
	})
}

// maxSchemaFile bounds a schema file, in bytes.
const maxSchemaFile = 10 << 20

// readSchema reads a schema file.
func readSchema(file string) (registry.Schema, error) {
	language, err := typeOf(file)
	if err != nil {
		return registry.Schema{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return registry.Schema{}, usageError{fmt.Errorf("read schema: %w", err)}
	}
	if info.Size() > maxSchemaFile {
		return registry.Schema{}, usagef("read schema %s: %d bytes are more than the limit of %d", file, info.Size(), maxSchemaFile)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return registry.Schema{}, usageError{fmt.Errorf("read schema: %w", err)}
	}
	return registry.Schema{Schema: string(text), SchemaType: language}, nil
}

// registerFile registers a schema file under a subject.
func registerFile(ctx context.Context, reg *client.Client, subject, file string) error {
	s, err := readSchema(file)
	if err != nil {
		return err
	}
	_, err = reg.Register(ctx, subject, s)
	return refusedSchema(err)
}

// registerSample registers the Avro schema of a sample under a subject.
func registerSample(ctx context.Context, reg *client.Client, subject string, s samples.Sample) error {
	text, err := s.Schema(schemas.Avro)
	if err != nil {
		return err
	}
	_, err = reg.Register(ctx, subject, registry.Schema{Schema: text, SchemaType: schemas.Avro})
	return refusedSchema(err)
}
