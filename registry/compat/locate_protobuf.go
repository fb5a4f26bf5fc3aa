package compat

import (
	"slices"
	"strconv"
	"strings"

	"github.com/bufbuild/protocompile/ast"
	"github.com/bufbuild/protocompile/parser"
	"github.com/bufbuild/protocompile/reporter"

	"penstock/registry"
)

// maxLocated is the longest text in which places are looked for.
const maxLocated = 4 << 20

// findProtobuf finds where the element of a path such as #/Message/Inner/1
// begins in text, or the nearest one above it that text has. The root is the
// package statement, and the begin of the text where there is none. A text that
// is no Protobuf has no places: nil.
func findProtobuf(text string) (find func(path string) *registry.Position) {
	if len(text) > maxLocated {
		return nil
	}
	defer func() {
		if recover() != nil { // the parser's
			find = nil
		}
	}()
	// Without a reporter of its own the handler stops at the first error.
	file, err := parser.Parse("", strings.NewReader(text), reporter.NewHandler(nil))
	if err != nil {
		return nil
	}
	position := positions(text)
	return func(path string) *registry.Position {
		found := elementAt(file, path)
		if found == nil {
			i := slices.IndexFunc(file.Decls, func(d ast.FileElement) bool { _, ok := d.(*ast.PackageNode); return ok })
			if i < 0 {
				return &registry.Position{Line: 1, Column: 1}
			}
			found = file.Decls[i]
		}
		return position(file.NodeInfo(found).Start().Offset)
	}
}

// elementAt is the element of a path, or the nearest one above it; nil is the
// file.
func elementAt(file *ast.FileNode, path string) ast.Node {
	var found ast.Node
	var scope, message ast.CompositeNode = file, file
	steps := strings.FieldsFunc(strings.TrimPrefix(path, "#"), func(r rune) bool { return r == '/' })
	for i, step := range steps {
		n := childOf(scope, step)
		if n == nil {
			n = memberOf(message, step)
		}
		if n == nil && i+2 == len(steps) {
			continue // perhaps a oneof that is gone, and its field is there
		}
		if n == nil {
			break
		}
		found = n
		switch n := n.(type) {
		case *ast.MessageNode:
			scope, message = n, n
		case *ast.EnumNode:
			scope, message = n, n
		case *ast.OneofNode:
			scope = n
		}
	}
	return found
}

// childOf is the element within scope that a step of a path leads to, or nil.
func childOf(scope ast.CompositeNode, step string) ast.Node {
	number, err := strconv.ParseInt(step, 10, 64)
	for _, child := range scope.Children() {
		var there bool
		switch n := child.(type) {
		case *ast.MessageNode:
			there = n.Name.Val == step
		case *ast.EnumNode:
			there = n.Name.Val == step
		case *ast.OneofNode:
			there = n.Name.Val == step
		case *ast.FieldNode:
			there = err == nil && n.Tag.Val == uint64(number)
		case *ast.MapFieldNode:
			there = err == nil && n.Tag.Val == uint64(number)
		case *ast.EnumValueNode:
			v, ok := n.Number.AsInt64()
			there = err == nil && ok && v == number
		}
		if there {
			return child
		}
	}
	return nil
}

// memberOf is the field of that number in a message, whatever oneof it is in.
func memberOf(message ast.CompositeNode, step string) ast.Node {
	if n := childOf(message, step); n != nil {
		return n
	}
	for _, child := range message.Children() {
		if o, ok := child.(*ast.OneofNode); ok {
			if n := childOf(o, step); n != nil {
				return n
			}
		}
	}
	return nil
}
