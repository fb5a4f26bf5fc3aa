package protobuf

import "google.golang.org/protobuf/reflect/protoreflect"

// Descriptor is the whole file that the message lies in, with its imports.
func (s *Schema) Descriptor() protoreflect.FileDescriptor { return s.descriptor }

// MessageDescriptor is the message itself, nil in a file without messages.
func (s *Schema) MessageDescriptor() protoreflect.MessageDescriptor { return s.message }
