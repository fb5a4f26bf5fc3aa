package registry

import (
	"strings"
	"testing"
)

// TestRoutesAreDescribed: every route is in the description, with its
// parameters, and names none that is not described.
func TestRoutesAreDescribed(t *testing.T) {
	paths := describe("v", routes())["paths"].(map[string]any)
	for _, rt := range routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		operations, _ := paths[strings.TrimSuffix(path, "{$}")].(map[string]any)
		op, ok := operations[strings.ToLower(method)].(map[string]any)
		if !ok {
			t.Errorf("%s is not described", rt.pattern)
			continue
		}
		described := map[string]bool{}
		for _, p := range op["parameters"].([]map[string]any) {
			described[p["name"].(string)] = true
		}
		for _, name := range rt.params {
			if !described[name] {
				t.Errorf("%s: parameter %q is not described", rt.pattern, name)
			}
		}
		for segment := range strings.SplitSeq(path, "/") {
			if name := strings.Trim(segment, "{}"); strings.HasPrefix(segment, "{") && name != "$" && !described[name] {
				t.Errorf("%s: %q in the path is not described", rt.pattern, name)
			}
		}
		if (rt.body != nil) != (op["requestBody"] != nil) {
			t.Errorf("%s: the body is not described, or there is none", rt.pattern)
		}
		if rt.op == "" && rt.of != nil || rt.serve == nil {
			t.Errorf("%s asks for no operation, or does nothing", rt.pattern)
		}
	}
}
