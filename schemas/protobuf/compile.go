package protobuf

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/protoutil"
	"github.com/bufbuild/protocompile/reporter"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// builtIn holds the files, besides google/protobuf, that may be imported
// without a reference: the public layout of google/type and confluent, written
// anew.
//
//go:embed imports
var builtIn embed.FS

// constraints is the file of Protovalidate's options, which may be imported without a
// reference too. It is large, so that it is neither compiled nor made anew for each
// schema, but taken from the code that its makers have generated of it.
var constraints = validate.File_buf_validate_validate_proto

// knownTo are the files that a file imports which need not be made anew.
func knownTo(file linker.File, refs map[string]string) (*protoregistry.Files, error) {
	known := &protoregistry.Files{}
	if refs[constraints.Path()] != "" || find(file, constraints.Path(), map[string]bool{}) == nil {
		return known, nil
	}
	return known, register(known, constraints)
}

// register adds a file and what it imports.
func register(known *protoregistry.Files, file protoreflect.FileDescriptor) error {
	for i := range file.Imports().Len() {
		imported := file.Imports().Get(i).FileDescriptor
		if _, err := known.FindFileByPath(imported.Path()); err == nil {
			continue
		}
		if err := register(known, imported); err != nil {
			return err
		}
	}
	return known.RegisterFile(file)
}

// unit is a file to compile and what it may import.
type unit struct {
	name string // the file's
	refs map[string]string
	// What may yet come: bytes, and what weigh finds in them.
	left, elements, weight int
	text                   *fileText
	// protos are the files read that were descriptors.
	protos map[string]*descriptorpb.FileDescriptorProto
	unused []string // imports of the file
}

// compile links a file and returns it with its text.
func compile(text string, refs map[string]string) (linker.File, *fileText, error) {
	u := &unit{name: "schema.proto", refs: refs, left: maxText, elements: maxElements, weight: maxWeight, protos: map[string]*descriptorpb.FileDescriptorProto{}}
	for refs[u.name] != "" {
		u.name = "_" + u.name
	}
	file, err := u.link(text)
	if err != nil {
		return nil, nil, err
	}
	if len(u.protos) == 0 {
		used := slices.DeleteFunc(slices.Clone(u.text.weak), func(name string) bool { return slices.Contains(u.unused, name) })
		if len(used) == len(u.text.weak) {
			return file, u.text, nil
		}
		u.text.weak = used // an unused one is not kept
		return compile(u.text.print(false), refs)
	}
	// Now that it is known what the imports define, the custom options of the
	// descriptors can be written too.
	refs = maps.Clone(refs)
	for name, d := range u.protos {
		written, err := readProto(d, linker.ResolverFromFile(find(file, name, map[string]bool{})))
		if err != nil {
			return nil, nil, err
		}
		if name == u.name {
			text = written.print(false)
		} else {
			refs[name] = written.print(false)
		}
	}
	return compile(text, refs)
}

// index makes a file and what it imports anew, as descriptors that find a field
// by its name or number at once: the compiler's look through all of them. known
// are the files that were made before.
func index(file linker.File, known *protoregistry.Files) (protoreflect.FileDescriptor, error) {
	for i := range file.Imports().Len() {
		imported := file.FindImportByPath(file.Imports().Get(i).Path())
		if _, err := known.FindFileByPath(imported.Path()); err == nil {
			continue
		}
		made, err := index(imported, known)
		if err != nil {
			return nil, err
		}
		if err := known.RegisterFile(made); err != nil {
			return nil, err
		}
	}
	return protodesc.NewFile(protoutil.ProtoFromFileDescriptor(file), known)
}

// find looks for a file among another and what it imports.
func find(file linker.File, path string, seen map[string]bool) linker.File {
	if file == nil || seen[file.Path()] {
		return nil
	}
	if file.Path() == path {
		return file
	}
	seen[file.Path()] = true
	for i := range file.Imports().Len() {
		if f := find(file.FindImportByPath(file.Imports().Get(i).Path()), path, seen); f != nil {
			return f
		}
	}
	return nil
}

func (u *unit) link(text string) (linker.File, error) {
	root, err := u.read(u.name, text)
	if err != nil {
		return nil, err
	}
	open := func(path string) (protocompile.SearchResult, error) {
		if path == u.name {
			return protocompile.SearchResult{AST: root}, nil
		}
		text, ok := u.refs[path]
		if !ok && path == constraints.Path() {
			return protocompile.SearchResult{Desc: constraints}, nil
		}
		if !ok {
			b, err := builtIn.ReadFile("imports/" + path)
			if err != nil {
				return protocompile.SearchResult{}, fmt.Errorf("there is no reference %q: name the schema that defines it among the references: %w", path, os.ErrNotExist)
			}
			text = string(b)
		}
		file, err := u.read(path, text)
		return protocompile.SearchResult{AST: file}, err
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(protocompile.ResolverFunc(open)),
		MaxParallelism: 1,
		Reporter: reporter.NewReporter(nil, func(warning reporter.ErrorWithPos) {
			var unused linker.ErrorUnusedImport
			if errors.As(warning, &unused) {
				u.unused = append(u.unused, unused.UnusedImport())
			}
		}),
	}
	files, err := compiler.Compile(context.Background(), u.name)
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

// read returns the syntax tree of a file that is text or a descriptor in
// base64.
func (u *unit) read(path, text string) (*ast.FileNode, error) {
	if len(text) > u.left {
		return nil, fmt.Errorf("%s: expected a schema of at most %d bytes, all that it imports included, found more: take it apart", path, maxText)
	}
	u.left -= len(text)
	file, err := parseText(path, text)
	if err != nil {
		d := decodeProto(text)
		if d == nil {
			return nil, err
		}
		u.protos[path] = d
		written, err := readProto(d, nil)
		if err != nil {
			return nil, err
		}
		if file, err = parseText(path, written.print(false)); err != nil {
			return nil, err
		}
	}
	if file.Edition != nil {
		return nil, fmt.Errorf("%v: %w", file.NodeInfo(file.Edition).Start(), refuseEdition(file.Edition.Edition.AsString()))
	}
	f := readSource(file)
	if path == u.name {
		u.text = f
	}
	elements, weight := weigh(f)
	u.elements, u.weight = u.elements-elements, u.weight-weight
	if u.elements < 0 || u.weight < 0 {
		return nil, fmt.Errorf("%s: expected at most %d statements, with full names of at most %d bytes, all that it imports included, found more: take it apart", path, maxElements, maxWeight)
	}
	if n := len(f.imports) + len(f.public) + len(f.weak); n > maxImports {
		return nil, fmt.Errorf("%s: expected at most %d imports, found %d", path, maxImports, n)
	}
	plain, found, err := withMaps(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if found {
		return parseText(path, plain.print(false))
	}
	return file, nil
}

func parseText(path, text string) (*ast.FileNode, error) {
	if at := tooMuch(text); at >= 0 {
		return nil, fmt.Errorf("%s:%d:1: expected at most %d brackets within each other and %d blocks, statements and values in all, found one more", path, 1+strings.Count(text[:at], "\n"), maxBrackets, maxElements)
	}
	return parser.Parse(path, strings.NewReader(text), reporter.NewHandler(nil))
}

func refuseEdition(name string) error {
	return fmt.Errorf(`expected syntax "proto2" or "proto3", found edition %q: Confluent's clients cannot read editions`, name)
}

// tooMuch returns where brackets nest too deeply for a recursive parser, or
// there are too many blocks, statements, values or dots for its memory, or -1.
func tooMuch(text string) int {
	depth, many, dots := 0, 0, 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch c {
		case ':', '{', ';':
			many++
		case '.':
			dots++
		}
		if many > maxElements || dots > 2*maxElements {
			return i
		}
		switch c {
		case '{', '[', '(', '<':
			if depth++; depth > maxBrackets {
				return i
			}
		case '}', ']', ')', '>':
			depth = max(0, depth-1)
		case '"', '\'':
			for i++; i < len(text) && text[i] != c && text[i] != '\n'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '/':
			end, found := "", false
			switch {
			case strings.HasPrefix(text[i:], "//"):
				end = "\n"
			case strings.HasPrefix(text[i:], "/*"):
				end = "*/"
			default:
				continue
			}
			var comment string
			if comment, _, found = strings.Cut(text[i+2:], end); !found {
				return -1
			}
			i += 1 + len(comment) + len(end)
		}
	}
	return -1
}

// weigh is what linking costs beyond the length of the text: how many elements
// there are, those that the compiler is slow with counted several times, and
// the bytes of their full names, which are built for each of them and again
// for each scope around in which a type is looked up.
func weigh(f *fileText) (elements, weight int) {
	w := weigher{proto3: f.syntax == "proto3"}
	w.options(f.options)
	w.in(f.pkg, func() {
		w.messages(f.messages)
		w.enums(f.enums)
		w.extends(f.extends)
		for _, s := range f.services {
			w.in(s.name, func() {
				w.options(s.options)
				for i := range s.rpcs {
					w.add(s.rpcs[i].name, 1)
					w.options(s.rpcs[i].options)
				}
			})
		}
	})
	return w.elements, w.weight
}

type weigher struct {
	elements, weight int
	length, levels   int // of the scope
	proto3           bool
}

func (w *weigher) add(name string, times int) {
	w.elements += times
	w.weight += (w.length + len(name)) * (w.levels + 1) * times
}

func (w *weigher) in(name string, body func()) {
	w.add(name, 1)
	length, levels := w.length, w.levels
	w.length += len(name) + 1
	w.levels += strings.Count(name, ".") + 1
	body()
	w.length, w.levels = length, levels
}

func (w *weigher) messages(all []*messageText) {
	for _, m := range all {
		w.in(m.name, func() { w.message(m) })
	}
}

func (w *weigher) message(m *messageText) {
	w.ranges(m.reserved)
	w.ranges(m.extensions)
	w.options(m.options)
	w.fields(m.fields)
	w.fields(m.groups)
	for _, o := range m.oneofs {
		w.add(o.name, 5)
		w.options(o.options)
		w.fields(o.fields)
		w.fields(o.groups)
	}
	w.extends(m.extends)
	w.messages(m.messages)
	w.enums(m.enums)
}

func (w *weigher) fields(all []*fieldText) {
	for _, f := range all {
		w.add(f.name, 1)
		switch {
		case f.body != nil:
			w.in(f.name, func() { w.message(f.body) })
		case f.key != "" || w.proto3 && f.label == "optional":
			w.add(f.name, 4) // a message of its own, or a oneof
		}
		w.options(f.options)
	}
}

func (w *weigher) ranges(all []ranges) {
	for _, r := range all {
		w.elements += len(r.spans) + len(r.names)
		w.options(r.options)
	}
}

func (w *weigher) options(all []option) {
	for i := range all {
		w.elements++
		for _, part := range all[i].name {
			w.add(part.name, 1)
		}
		w.value(&all[i].value)
	}
}

func (w *weigher) value(v *value) {
	for i := range v.list {
		w.elements++
		w.value(&v.list[i])
	}
	for i := range v.entries {
		w.add(v.entries[i].key, 1)
		w.value(&v.entries[i].value)
	}
}

func (w *weigher) extends(all []*extendText) {
	for _, e := range all {
		w.fields(e.fields)
		w.fields(e.groups)
	}
}

func (w *weigher) enums(all []*enumText) {
	for _, e := range all {
		w.add(e.name, 1)
		w.ranges(e.reserved)
		w.options(e.options)
		for i := range e.constants {
			w.add(e.constants[i].name, 1)
			w.options(e.constants[i].options)
		}
	}
}

// withMaps returns the file with maps for what is written as the entries of
// maps, as in a text that was made of a descriptor: the compiler does not take
// it. found is false if there is none.
func withMaps(f *fileText) (_ *fileText, found bool, err error) {
	out := *f
	out.messages, found, err = mapsOf(f.messages, f.pkg)
	return &out, found, err
}

func mapsOf(messages []*messageText, scope string) (_ []*messageText, found bool, err error) {
	out := make([]*messageText, len(messages))
	for i, m := range messages {
		if m.isMapEntry() {
			return nil, false, fmt.Errorf("message %s: expected a map_entry within the message that has the map, found it outside", m.name)
		}
		full := scope + "." + m.name
		m = &messageText{
			m.name, m.reserved, m.options, m.fields, m.oneofs, m.groups, m.extensions, m.extends, m.messages, m.enums,
		}
		out[i] = m
		var nested []*messageText
		for _, e := range m.messages {
			if !e.isMapEntry() {
				nested = append(nested, e)
				continue
			}
			found = true
			if m.fields, err = mapOf(m.fields, e, "."+strings.TrimPrefix(full, ".")); err != nil {
				return nil, false, err
			}
		}
		inner, foundInner, err := mapsOf(nested, full)
		if err != nil {
			return nil, false, err
		}
		m.messages = inner
		found = found || foundInner
	}
	return out, found, nil
}

// mapOf returns the fields of the message scope with a map for the one field
// whose entry e is.
func mapOf(fields []*fieldText, e *messageText, scope string) ([]*fieldText, error) {
	full := scope + "." + e.name
	i := slices.IndexFunc(fields, func(f *fieldText) bool {
		return f.label == "repeated" && (f.typ == full || f.typ != "" && f.typ[0] != '.' && strings.HasSuffix(full, "."+f.typ)) && entryName(f.name) == e.name
	})
	if i < 0 || len(e.fields) != 2 || e.fields[0].number != 1 || e.fields[1].number != 2 ||
		len(e.oneofs)+len(e.groups)+len(e.messages)+len(e.enums)+len(e.extends)+len(e.extensions) > 0 {
		return nil, fmt.Errorf("message %s: expected a map_entry of a key = 1 and a value = 2 for one repeated field, found another: write map<K, V>", full[1:])
	}
	f := *fields[i]
	f.label, f.key, f.typ = "", e.fields[0].typ, e.fields[1].typ
	fields = slices.Clone(fields)
	fields[i] = &f
	return fields, nil
}

// entryName is how the message of a map's entries is called.
func entryName(field string) string {
	name := jsonName(field)
	if name != "" && name[0] >= 'a' && name[0] <= 'z' {
		name = string(name[0]-'a'+'A') + name[1:]
	}
	return name + "Entry"
}
