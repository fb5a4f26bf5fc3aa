package compat

import (
	"strings"
	"unicode/utf8"

	"penstock/registry"
	"penstock/schemas"
)

var _ registry.Locator = Checker{}

// Locate implements registry.Locator.
func (Checker) Locate(t schemas.Type, text, path string) *registry.Position {
	switch t {
	case schemas.Avro:
		return locateAvro(text, path)
	case schemas.JSON:
		return locateJSON(text, path)
	case schemas.Protobuf:
		return locateProtobuf(text, path)
	default:
		return nil
	}
}

// position returns the line and column of a byte of text.
func position(text string, offset int) *registry.Position {
	before := text[:min(offset, len(text))]
	line := before[strings.LastIndexByte(before, '\n')+1:]
	return &registry.Position{Line: strings.Count(before, "\n") + 1, Column: utf8.RuneCountInString(line) + 1}
}

// locateAvro finds a JSON pointer, in which the members of a union go by their
// index. A type that is referred to by its name has nothing below it.
func locateAvro(text, path string) *registry.Position {
	at, err := schemas.ReadJSON(text, schemas.JSONOptions{Comments: true, LastWins: true})
	if err != nil {
		return nil
	}
	for token := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		next := step(at, token)
		if next == nil {
			break
		}
		at = next
	}
	return position(text, at.Offset)
}
