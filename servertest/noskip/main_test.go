package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	const events = `go: downloading something
{"Action":"start","Package":"p/a"}
{"Action":"run","Package":"p/a","Test":"TestGood"}
{"Action":"output","Package":"p/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"p/a","Test":"TestGood","Output":"chatter\n"}
{"Action":"pass","Package":"p/a","Test":"TestGood","Elapsed":0}
{"Action":"output","Package":"p/a","Test":"TestBad","Output":"    a_test.go:7: wrong\n"}
{"Action":"output","Package":"p/a","Test":"TestBad","Output":"--- FAIL: TestBad (0.00s)\n"}
{"Action":"fail","Package":"p/a","Test":"TestBad","Elapsed":0}
{"Action":"output","Package":"p/a","Test":"TestAway","Output":"--- SKIP: TestAway (0.00s)\n"}
{"Action":"skip","Package":"p/a","Test":"TestAway","Elapsed":0}
{"Action":"output","Package":"p/a","Output":"FAIL\tp/a\t0.2s\n"}
{"Action":"fail","Package":"p/a","Elapsed":0.2}
{"Action":"output","Package":"p/b","Test":"TestCrash","Output":"fatal error: deadlock\n"}
{"Action":"output","Package":"p/b","Output":"FAIL\tp/b\t0.1s\n"}
{"Action":"fail","Package":"p/b","Elapsed":0.1}
{"Action":"output","Package":"p/c","Output":"?   \tp/c\t[no test files]\n"}
{"Action":"skip","Package":"p/c","Elapsed":0}
{"ImportPath":"p/d","Action":"build-output","Output":"d.go:1: no\n"}
{"ImportPath":"p/d","Action":"build-fail"}
`
	const want = `go: downloading something
    a_test.go:7: wrong
--- FAIL: TestBad (0.00s)
--- SKIP: TestAway (0.00s)
FAIL	p/a	0.2s
FAIL	p/b	0.1s
unfinished: p/b TestCrash
fatal error: deadlock
?   	p/c	[no test files]
d.go:1: no
`
	var out strings.Builder
	got, err := report(strings.NewReader(events), &out)
	if err != nil {
		t.Fatal(err)
	}
	if want := (sums{passed: 1, failed: 3, skipped: 1}); got != want {
		t.Errorf("sums: got %+v, want %+v", got, want)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}
