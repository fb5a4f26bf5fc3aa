package diffing

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"penstock/schemas"
)

// misfit says that the value at path is not what it should be.
func misfit(path []string, expected, found, hint string) error {
	var pointer []byte
	for _, token := range path {
		pointer = appendToken(pointer, token)
	}
	return &schemas.ValueError{Violations: []schemas.Violation{{
		Pointer: string(pointer), Expected: expected, Found: found, Hint: hint,
	}}}
}

// parseJSON reads back what schemas.AppendJSON wrote.
func parseJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}
