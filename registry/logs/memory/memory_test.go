package memory_test

import (
	"testing"

	"penstock/registry"
	"penstock/registry/logs/memory"
	"penstock/registry/registrytest"
)

func TestSuite(t *testing.T) {
	registrytest.TestLog(t, func(*testing.T) registrytest.Home {
		return registrytest.Home{
			Open:    func(*testing.T) (registry.Log, func() error) { return memory.New(), nil },
			Forgets: true,
		}
	})
}
