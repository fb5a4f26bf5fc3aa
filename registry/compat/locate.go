package compat

import (
	"slices"
	"strings"
	"unicode/utf8"

	"penstock/registry"
	"penstock/schemas"
)

var _ registry.Locator = Checker{}

// Locate implements registry.Locator.
func (Checker) Locate(t schemas.Type, text, path string) *registry.Position {
	return finder(t, text)(path)
}

// finder returns what finds places in a text of a language, which it reads once.
func finder(t schemas.Type, text string) func(path string) *registry.Position {
	var find func(path string) *registry.Position
	switch t {
	case schemas.Avro:
		find = findAvro(text)
	case schemas.JSON:
		find = findJSON(text)
	case schemas.Protobuf:
		find = findProtobuf(text)
	}
	if find == nil {
		return func(string) *registry.Position { return nil }
	}
	return find
}

// positions returns what tells the line and column of a byte of text.
func positions(text string) func(offset int) *registry.Position {
	starts := []int{0} // of the lines
	for i := range len(text) {
		if text[i] == '\n' {
			starts = append(starts, i+1)
		}
	}
	return func(offset int) *registry.Position {
		offset = min(offset, len(text))
		line, exact := slices.BinarySearch(starts, offset)
		if !exact {
			line--
		}
		return &registry.Position{Line: line + 1, Column: utf8.RuneCountInString(text[starts[line]:offset]) + 1}
	}
}

// findAvro finds JSON pointers, in which the members of a union go by their
// index. A type that is referred to by its name has nothing below it.
func findAvro(text string) func(path string) *registry.Position {
	root, err := schemas.ReadJSON(text, schemas.JSONOptions{Comments: true, LastWins: true})
	if err != nil {
		return nil
	}
	position := positions(text)
	return func(path string) *registry.Position {
		at := root
		for token := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			next := step(at, token)
			if next == nil {
				break
			}
			at = next
		}
		return position(at.Offset)
	}
}
