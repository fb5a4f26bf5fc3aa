package compat

import "penstock/registry"

// locateProtobuf finds nothing: Protobuf has no rules here.
func locateProtobuf(_, _ string) *registry.Position { return nil }
