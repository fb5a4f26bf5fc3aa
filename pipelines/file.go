package pipelines

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"penstock/schemas"
	"penstock/schemas/jsonschema"
)

const (
	maxFile  = 1 << 20 // bytes
	maxFiles = 1000
	maxDepth = 20
)

// Error is a fault in a file.
type Error struct {
	File         string
	Line, Column int // 0 where it is none in particular
	Err          error
}

// Error is one sentence.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d:%d: %v", e.File, e.Line, e.Column, e.Err)
}

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// Options say what files leave open.
type Options struct {
	// Broker and Registry are those of a source that names none.
	Broker, Registry string
	// Env looks up what ${NAME} stands for in the URLs of a file; nil is
	// os.LookupEnv.
	Env func(name string) (string, bool)
}

// Load reads the pipelines of a file, or of the files of a folder whose names
// end in .yaml or .yml. Its error joins an *Error for each fault of every file.
func Load(path string, o Options) ([]Pipeline, error) {
	files := []string{path}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read pipelines: %w", err)
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("read pipelines: %w", err)
		}
		files = nil
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 || len(files) > maxFiles {
			return nil, fmt.Errorf("read pipelines of folder %q: expected 1 to %d files that end in .yaml, found %d", path, maxFiles, len(files))
		}
	}
	var all []Pipeline
	var bad []error
	for _, file := range files {
		text, err := readFile(file)
		if err == nil {
			var p Pipeline
			if p, err = Parse(file, text, o); err == nil {
				err = apart(all, p, file)
				all = append(all, p)
			}
		}
		if err != nil {
			bad = append(bad, err)
		}
	}
	return all, errors.Join(bad...)
}

// apart says whether p can run beside the others.
func apart(others []Pipeline, p Pipeline, file string) error {
	for _, o := range others {
		if o.Name == p.Name {
			return &Error{file, 0, 0, &Problem{Pointer: "/name", Expected: "a name of its own", Found: fmt.Sprintf("%q, which another file's pipeline has", p.Name), Hint: "write another name"}}
		}
		if o.Source.Broker == p.Source.Broker && o.Source.Topic == p.Source.Topic && o.Source.Group == p.Source.Group {
			return &Error{file, 0, 0, &Problem{
				Pointer: "/source/group", Expected: "a group of its own", Hint: "write another group",
				Found: fmt.Sprintf("%q, in which pipeline %q reads that topic: they would have a part of it each", p.Source.Group, o.Name),
			}}
		}
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read pipeline: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read pipeline %q: %w", name, err)
	}
	if len(text) > maxFile {
		return nil, &Error{name, 0, 0, fmt.Errorf("expected at most %d bytes, found more", maxFile)}
	}
	return text, nil
}

// Parse reads one pipeline and completes it. file is what it is called in
// errors, which are an *Error, or join several.
func Parse(file string, text []byte, o Options) (Pipeline, error) {
	d := document{file: file, lines: strings.Split(string(text), "\n"), env: o.Env, values: map[string]*yaml.Node{}, keys: map[string]*yaml.Node{}}
	if d.env == nil {
		d.env = os.LookupEnv
	}
	var p Pipeline
	v, err := d.read(text)
	if err != nil {
		return p, err
	}
	if err := d.check(v); err != nil {
		return p, err
	}
	plain, err := schemas.AppendJSON(nil, v)
	if err == nil {
		err = json.Unmarshal(plain, &p)
	}
	if err != nil {
		return p, &Error{file, 0, 0, err}
	}
	p.Name = cmp.Or(p.Name, strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
	p = p.WithDefaults()
	p.Source.Broker = cmp.Or(p.Source.Broker, o.Broker)
	p.Source.Registry = cmp.Or(p.Source.Registry, o.Registry)
	if problem := (*Problem)(nil); errors.As(p.Check(), &problem) {
		return p, d.at(problem)
	}
	return p, nil
}

// document is a file on its way to a pipeline.
type document struct {
	file string
	env  func(string) (string, bool)
	// values and keys are the nodes by pointer.
	values, keys map[string]*yaml.Node
	lines        []string
}

// read turns the text into the values that JSON has.
func (d *document) read(text []byte) (any, error) {
	var root yaml.Node
	if err := yaml.Load(text, &root); err != nil {
		if load := (*yaml.LoadError)(nil); errors.As(err, &load) {
			return nil, &Error{d.file, load.Mark.Line, load.Mark.Column, fmt.Errorf("not YAML: %s", load.Message)}
		}
		return nil, &Error{d.file, 0, 0, fmt.Errorf("not one document of YAML: %w", err)}
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 {
		return nil, &Error{d.file, 0, 0, errors.New("expected a pipeline, found nothing; begin with source and sink")}
	}
	return d.value("", root.Content[0])
}

func (d *document) value(pointer string, n *yaml.Node) (any, error) {
	refuse := func(format string, args ...any) (any, error) {
		return nil, &Error{d.file, n.Line, n.Column, fmt.Errorf(format, args...)}
	}
	d.values[pointer] = n
	if strings.Count(pointer, "/") > maxDepth {
		return refuse("expected at most %d levels", maxDepth)
	}
	switch n.Kind {
	case yaml.MappingNode:
		out := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			name := key.Value
			if key.Kind != yaml.ScalarNode || name == "<<" {
				return refuse("expected names that are plain text; write them out")
			}
			at := pointer + "/" + schemas.EscapePointer(name)
			if _, twice := out[name]; twice {
				return nil, &Error{d.file, key.Line, key.Column, fmt.Errorf("%s: expected each field once, found it a second time; remove one", at)}
			}
			d.keys[at] = key
			v, err := d.value(at, n.Content[i+1])
			if err != nil {
				return nil, err
			}
			out[name] = v
		}
		return out, nil
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, item := range n.Content {
			var err error
			if out[i], err = d.value(pointer+"/"+strconv.Itoa(i), item); err != nil {
				return nil, err
			}
		}
		return out, nil
	case yaml.ScalarNode:
		var v any
		if err := n.Decode(&v); err != nil {
			return refuse("%s: not a value of YAML: %w", pointer, err)
		}
		switch v := v.(type) {
		case int:
			return int64(v), nil
		case nil, bool, int64, uint64, float64:
			return v, nil
		}
		if expanded[pointer] {
			return d.expand(pointer, n)
		}
		return n.Value, nil
	}
	return refuse("%s: expected a value, found a reference to another; write it out", pointer)
}

// expanded are the texts in which ${NAME} stands for a variable of the
// environment.
var expanded = map[string]bool{"/source/broker": true, "/source/registry": true, "/sink/url": true, "/sink/secret": true}

var variable = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`)

func (d *document) expand(pointer string, n *yaml.Node) (any, error) {
	missing := ""
	text := variable.ReplaceAllStringFunc(n.Value, func(s string) string {
		v, ok := d.env(s[2 : len(s)-1])
		if !ok {
			missing = s[2 : len(s)-1]
		}
		return v
	})
	if missing != "" {
		return nil, d.at(&Problem{Pointer: pointer, Expected: "variables that are set", Found: missing + ", which is not", Hint: "set it, or write the value"})
	}
	return text, nil
}

// compiled is Schema, as a schema and as the tree that its descriptions are
// looked up in.
var compiled = sync.OnceValues(func() (schemas.Schema, map[string]any) {
	s, err := jsonschema.Format{}.Parse(Schema, nil)
	var tree map[string]any
	if err == nil {
		err = json.NewDecoder(bytes.NewReader([]byte(Schema))).Decode(&tree)
	}
	if err != nil {
		panic(err) // a test finds it
	}
	return s, tree
})

// check holds the value against Schema.
func (d *document) check(v any) error {
	schema, _ := compiled()
	_, err := schema.AppendEncode(nil, v)
	var value *schemas.ValueError
	if err != nil && !errors.As(err, &value) {
		return &Error{d.file, 0, 0, err}
	}
	if value == nil {
		return nil
	}
	var all []*Error
	for _, v := range value.Violations {
		p := &Problem{Pointer: v.Pointer, Expected: v.Expected, Found: v.Found, Hint: v.Hint}
		if !strings.HasPrefix(p.Hint, "did you mean") {
			p.Hint = describe(v.Pointer)
		}
		all = append(all, d.at(p))
	}
	slices.SortStableFunc(all, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, len(all))
	for i, e := range all {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// describe is what Schema says of a place, or "".
func describe(pointer string) string {
	_, at := compiled()
	for _, name := range strings.Split(pointer, "/")[1:] {
		properties, _ := at["properties"].(map[string]any)
		next, ok := properties[schemas.UnescapePointer(name)].(map[string]any)
		if !ok {
			break
		}
		at = next
	}
	text, _ := at["description"].(string)
	if text != "" {
		text = "it is " + text
	}
	return text
}

// at says where in the file a problem is: at its value or, of a field that
// should be there or should not, at the name that is nearest.
func (d *document) at(p *Problem) *Error {
	n := d.values[p.Pointer]
	if strings.HasPrefix(p.Found, "the unknown field") {
		n = d.keys[p.Pointer]
	}
	for up := p.Pointer; n == nil; {
		i := strings.LastIndexByte(up, '/')
		if i < 0 {
			return &Error{d.file, 1, 1, p}
		}
		up = up[:i]
		n = cmp.Or(d.keys[up], d.values[up])
	}
	line, column := n.Line, n.Column
	if p.line > 0 {
		line, column = d.within(n, p.line, p.column)
	}
	return &Error{d.file, line, column, p}
}

// within is where a place in the text of n, from 1, lies in the file: exactly
// where the file has the text as it is, else at its beginning.
func (d *document) within(n *yaml.Node, line, column int) (int, int) {
	switch {
	case n.Style&yaml.LiteralStyle != 0: // from the next line on, by as much further in as that line is
		if n.Line < len(d.lines) {
			first := d.lines[n.Line]
			return n.Line + line, len(first) - len(strings.TrimLeft(first, " ")) + column
		}
	case line > 1, n.Style&yaml.FoldedStyle != 0:
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		return n.Line, n.Column + column
	default:
		return n.Line, n.Column + column - 1
	}
	return n.Line, n.Column
}
