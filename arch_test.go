package penstock

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport says for each package what it may import besides the standard
// library: our packages by their path in the tree, exactly; libraries by module
// or any path above the package. "*" is everything but the packages named
// *test, which only tests import. Test files may import what they like.
//
// A new row, and a new entry in one, needs a sentence in docs/adr.
var mayImport = map[string][]string{
	".": {},

	"schemas":            {},
	"schemas/avro":       {"schemas", "github.com/twmb/avro"},
	"schemas/jsonschema": {"schemas", "github.com/dlclark/regexp2", "github.com/santhosh-tekuri/jsonschema/v6", "golang.org/x/text"},
	"schemas/protobuf":   {"schemas", "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go", "github.com/bufbuild/protocompile", "google.golang.org/protobuf"},
	"schemas/samples":    {"schemas"},

	"rules": {
		"schemas",
		"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go", "buf.build/go/protovalidate", "cel.dev/cel-go", "github.com/blues/jsonata-go", "google.golang.org/protobuf",
	},

	"stream":                   {},
	"stream/kafka":             {"stream", "stream/kafka/transaction", "github.com/twmb/franz-go"},
	"stream/kafka/transaction": {"github.com/twmb/franz-go"},
	"stream/memory":            {"stream"},
	"stream/nats":              {"stream", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go"},
	"stream/watermill":         {"stream", "github.com/ThreeDotsLabs/watermill"},
	"stream/streamtest":        {"stream", "github.com/google/go-cmp"},

	"openapi":         {},
	"registry":        {"openapi", "schemas"},
	"registry/client": {"registry", "schemas", "github.com/riferrei/srclient", "github.com/twmb/franz-go/pkg/sr", "golang.org/x/sync"},
	"registry/compat": {
		"registry", "schemas", "schemas/avro", "github.com/twmb/avro",
		"github.com/bufbuild/protocompile", "google.golang.org/protobuf",
	},
	"registry/linking":        {"registry", "schemas"},
	"registry/logs/file":      {"registry", "registry/logs/frame"},
	"registry/logs/frame":     {"registry"},
	"registry/logs/jetstream": {"registry", "registry/logs/frame", "github.com/nats-io/nats.go"},
	"registry/logs/kafka":     {"registry", "stream/kafka/transaction", "github.com/twmb/franz-go"},
	"registry/logs/memory":    {"registry"},
	"registry/registrytest":   {"registry", "registry/compat", "schemas", "schemas/avro", "github.com/anishathalye/porcupine", "github.com/google/go-cmp"},

	"access": {
		"github.com/golang-jwt/jwt/v5", "go.yaml.in/yaml/v4", "golang.org/x/crypto",
	},
	"telemetry": {"github.com/prometheus/client_golang", "go.opentelemetry.io/otel"},

	"producers":           {"rules", "schemas", "stream"},
	"producers/amqp":      {"producers", "schemas", "stream", "github.com/Azure/go-amqp", "github.com/rabbitmq/amqp091-go"},
	"producers/gateway":   {"access", "openapi", "producers", "schemas", "stream", "github.com/coder/websocket"},
	"producers/outbox":    {"producers", "schemas", "stream", "github.com/jackc/pgx/v5"},
	"producers/watermill": {"producers", "schemas", "stream", "github.com/ThreeDotsLabs/watermill"},
	"producers/mqtt":      {"producers", "schemas", "stream", "github.com/mochi-mqtt/server/v2"},

	"consumers":                      {"rules", "schemas", "stream"},
	"consumers/diffing":              {"consumers", "schemas", "stream", "github.com/cockroachdb/pebble/v2"},
	"consumers/federated":            {"consumers", "consumers/federated/kernels", "consumers/federated/privacy", "consumers/federated/secagg", "consumers/federated/strategies", "consumers/federated/trust", "schemas", "stream"},
	"consumers/federated/kernels":    {"golang.org/x/sys/cpu"},
	"consumers/federated/privacy":    {},
	"consumers/federated/secagg":     {"consumers/federated/kernels", "consumers/federated/privacy"},
	"consumers/federated/strategies": {},
	"consumers/federated/trust":      {"filippo.io/mldsa", "filippo.io/mldsa/x509"},
	"consumers/handlers":             {"consumers", "stream", "stream/watermill", "github.com/ThreeDotsLabs/watermill"},
	"consumers/microbatch":           {"consumers", "schemas", "stream"},
	"consumers/sinks/parquet": {
		"consumers", "consumers/sinks/sqlsink", "schemas", "stream", // sqlsink: columns and their values
		"github.com/minio/minio-go/v7", "github.com/parquet-go/parquet-go",
	},
	"consumers/sinks/postgres": {"consumers", "consumers/sinks/sqlsink", "schemas", "stream", "github.com/jackc/pgx/v5"},
	"consumers/sinks/sqlite":   {"consumers", "consumers/sinks/sqlsink", "schemas", "stream", "modernc.org/sqlite"},
	"consumers/sinks/sinktest": {
		"consumers", "consumers/microbatch", "consumers/sinks/sqlsink", "schemas", "stream",
		"github.com/google/go-cmp", "pgregory.net/rapid",
	},
	"consumers/sinks/topic":   {"consumers", "schemas", "stream"},
	"consumers/sinks/webhook": {"consumers", "schemas", "stream"},
	"consumers/sinks/sqlsink": {"consumers", "schemas", "stream"}, // what both databases share

	"pipelines": {"consumers", "consumers/microbatch", "rules", "schemas", "schemas/jsonschema", "go.yaml.in/yaml/v4"},

	"cmd/penstock": {"*"},

	"servertest":         {"github.com/jackc/pgx/v5"},
	"servertest/mutants": {},
	"servertest/noskip":  {},
	"servertest/servers": {
		"servertest",
		"github.com/jackc/pgx/v5", "github.com/nats-io/nats.go", "github.com/rabbitmq/amqp091-go", "github.com/twmb/franz-go", // to see them ready
	},
}

func TestImports(t *testing.T) {
	imports, err := importsOf(".")
	if err != nil {
		t.Fatal(err)
	}
	for pkg, files := range imports {
		allowed, listed := mayImport[pkg]
		if !listed {
			t.Errorf("%s has no row in mayImport", pkg)
			continue
		}
		for file, paths := range files {
			for _, p := range paths {
				if !isAllowed(p, allowed) {
					t.Errorf("%s: %s may not import %s", file, pkg, p)
				}
			}
		}
	}
	for pkg := range mayImport {
		if imports[pkg] == nil {
			t.Errorf("mayImport has a row for %s, which has no Go files", pkg)
		}
	}
}

// importsOf returns, by package and by file, what the files below root import,
// tests left out.
func importsOf(root string) (map[string]map[string][]string, error) {
	packages := map[string]map[string][]string{}
	err := walk(root, func(name string) error {
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := path.Dir(filepath.ToSlash(name))
		if packages[pkg] == nil {
			packages[pkg] = map[string][]string{}
		}
		packages[pkg][name], err = importPaths(file)
		return err
	})
	return packages, err
}

func importPaths(file *ast.File) ([]string, error) {
	var paths []string
	for _, spec := range file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// walk calls f for each Go file below root. It passes over testdata and what is
// not of this module.
func walk(root string, f func(name string) error) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != root && foreign(name) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		return f(name)
	})
}

// foreign reports whether the go command would not look for our packages in dir.
func foreign(dir string) bool {
	base := filepath.Base(dir)
	if base == "testdata" || base == "node_modules" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func isAllowed(imported string, allowed []string) bool {
	const module = "penstock/"
	ours, inside := strings.CutPrefix(imported, module)
	if inside {
		return slices.Contains(allowed, ours) || slices.Contains(allowed, "*") && !strings.HasSuffix(ours, "test")
	}
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return true // the standard library
	}
	return slices.ContainsFunc(allowed, func(a string) bool {
		return a == "*" || a == imported || strings.HasPrefix(imported, a+"/")
	})
}

func TestIsAllowed(t *testing.T) {
	row := []string{"stream", "github.com/twmb/franz-go"}
	f := func(imported string, allowed []string, want bool) {
		t.Helper()
		if got := isAllowed(imported, allowed); got != want {
			t.Errorf("isAllowed(%q, %q) = %t", imported, allowed, got)
		}
	}
	f("net/http", row, true)
	f("penstock/stream", row, true)
	f("penstock/stream/kafka", row, false)
	f("penstock/schemas", row, false)
	f("github.com/twmb/franz-go/pkg/kgo", row, true)
	f("github.com/twmb/franz-gone", row, false)
	f("github.com/twmb/avro", row, false)
	f("penstock/stream/kafka", []string{"*"}, true)
	f("penstock/servertest", []string{"*"}, false)
	f("github.com/twmb/avro", []string{"*"}, true)
}

// A test that sleeps either waits too long or fails on a busy machine. Where
// the clock is testing/synctest's, sleeping costs nothing and is exact.
func TestNobodySleeps(t *testing.T) {
	err := walk(".", func(name string) error {
		if !strings.HasSuffix(name, "_test.go") {
			return nil // the linter forbids it there
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		paths, err := importPaths(file)
		if err != nil || slices.Contains(paths, "testing/synctest") {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: wait for the event itself, or use testing/synctest", fset.Position(s.Pos()))
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
