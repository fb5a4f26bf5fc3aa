package protobuf

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestHostileZ(t *testing.T) {
	only := os.Getenv("ONLY")
	f := func(name, text string) {
		if only != "" && only != name {
			return
		}
		runtime.GC()
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		st := time.Now()
		s, err := Format{}.Parse(text, nil)
		d := time.Since(st)
		runtime.ReadMemStats(&b)
		m := ""
		if err != nil {
			m = err.Error()
			if len(m) > 150 {
				m = m[:150]
			}
		}
		var e time.Duration
		if err == nil {
			st = time.Now()
			if _, err := s.(*Schema).Normalized(); err != nil {
				t.Error(err)
			}
			e = time.Since(st)
		}
		fmt.Printf("%-12s %8d bytes %8.1fms alloc %dMB sys %dMB norm %v err %v\n", name, len(text), float64(d.Microseconds())/1000, (b.TotalAlloc-a.TotalAlloc)>>20, b.Sys>>20, e, m)
	}
	fields := func(n int) string {
		var b strings.Builder
		b.WriteString("syntax=\"proto3\";message A{")
		for i := 1; i <= n; i++ {
			k := i
			if k >= 19000 {
				k += 1000
			}
			fmt.Fprintf(&b, "int32 f%d=%d;", i, k)
		}
		b.WriteString("}")
		return b.String()
	}
	f("10k", fields(10000))
	f("50k", fields(50000))
	f("200k", fields(200000))
	maps := func(n int) string {
		var b strings.Builder
		b.WriteString("syntax=\"proto3\";message A{")
		for i := 1; i <= n; i++ {
			k := i
			if k >= 19000 {
				k += 1000
			}
			fmt.Fprintf(&b, "map<int32,A>f%d=%d;", i, k)
		}
		b.WriteString("}")
		return b.String()
	}
	f("maps10k", maps(10000))
	f("maps40k", maps(40000))
	f("enum50k", func() string {
		var b strings.Builder
		b.WriteString("syntax=\"proto3\";enum A{")
		for i := 0; i < 50000; i++ {
			fmt.Fprintf(&b, "F%d=%d;", i, i)
		}
		b.WriteString("}")
		return b.String()
	}())
	f("msgs", func() string {
		var b strings.Builder
		b.WriteString("syntax=\"proto3\";")
		for i := 0; i < 60000; i++ {
			fmt.Fprintf(&b, "message M%d{}", i)
		}
		return b.String()
	}())
	f("reserved", "syntax=\"proto3\";message A{reserved "+strings.Repeat("1,", 400000)+"2;}")
	f("reserved2", func() string {
		var b strings.Builder
		b.WriteString("syntax=\"proto3\";message A{")
		for i := 1; i < 60000; i++ {
			fmt.Fprintf(&b, "reserved %d;", i)
		}
		b.WriteString("}")
		return b.String()
	}())
	f("deep", strings.Repeat("message A{", 100000))
	f("deepagg", "option a={"+strings.Repeat("a:{", 300000))
	f("deep32", "syntax=\"proto3\";"+strings.Repeat("message A{", 33)+strings.Repeat("}", 33))
	f("longname", "syntax=\"proto3\";message "+strings.Repeat("A", 500000)+"{"+strings.Repeat("message A{", 20)+strings.Repeat("}", 20)+fields(20000)[26:])
	f("longpkg", "syntax=\"proto3\";package a"+strings.Repeat(".a", 200000)+";"+fields(10000)[16:])
	f("pkgref", "syntax=\"proto3\";package a"+strings.Repeat(".a", 2000)+";message A{A a=1;A b=2;A c=3;}")
	f("imports", "syntax=\"proto3\";"+strings.Repeat("import \"google/protobuf/any.proto\";", 30000))
	f("hugeint", "syntax=\"proto3\";message A{int32 a="+strings.Repeat("9", 1000000)+";}")
	f("hugefloat", "message A{optional double a=1[default=1e"+strings.Repeat("9", 1000000)+"];}")
	f("strings", "option java_package="+strings.Repeat("\"a\"", 300000)+";")
	f("semis", strings.Repeat(";", 1000000))
	f("opts", "import \"google/protobuf/descriptor.proto\";extend google.protobuf.FileOptions{repeated int32 a=5000;}"+strings.Repeat("option(a)=1;", 80000))
	f("tags", "import \"confluent/meta.proto\";option(confluent.file_meta)={"+strings.Repeat("tags:\"\" ", 120000)+"};")
	f("tagopts", "import \"confluent/meta.proto\";"+strings.Repeat("option(confluent.file_meta).tags=\"\";", 30000))
	f("dots", "option "+strings.Repeat("a.", 400000)+"b=1;")
	f("oneofs", func() string {
		var b strings.Builder
		b.WriteString("syntax=\"proto3\";message A{")
		for i := 1; i <= 15000; i++ {
			fmt.Fprintf(&b, "oneof o%d{int32 f%d=%d;}", i, i, i)
		}
		b.WriteString("}")
		return b.String()
	}())
	f("optional", func() string {
		var b strings.Builder
		b.WriteString("syntax=\"proto3\";message A{")
		for i := 1; i <= 15000; i++ {
			fmt.Fprintf(&b, "optional int32 f%d=%d;", i, i)
		}
		b.WriteString("}")
		return b.String()
	}())
	f("exts", func() string {
		var b strings.Builder
		b.WriteString("message A{extensions 1 to max;}extend A{")
		for i := 1; i <= 15000; i++ {
			fmt.Fprintf(&b, "optional int32 f%d=%d;", i, i)
		}
		b.WriteString("}")
		return b.String()
	}())
	f("rpcs", func() string {
		var b strings.Builder
		b.WriteString("message A{}service S{")
		for i := 1; i <= 30000; i++ {
			fmt.Fprintf(&b, "rpc R%d(A)returns(A);", i)
		}
		b.WriteString("}")
		return b.String()
	}())
}
