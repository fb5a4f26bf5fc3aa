package access

import (
	"errors"

	"go.yaml.in/yaml/v4"
)

// loadYAML reads one document, which must have no other fields than into has.
// Of a failure it returns the line, 0 where there is none.
func loadYAML(text []byte, into any) (line int, err error) {
	err = yaml.Load(text, into, yaml.WithKnownFields())
	if load := (*yaml.LoadError)(nil); errors.As(err, &load) {
		return load.Mark.Line, errors.New(load.Message)
	}
	return 0, err
}
