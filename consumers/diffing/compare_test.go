package diffing

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/consumers"
	"penstock/stream"
)

func TestComparison(t *testing.T) {
	c, err := OpenComparison(t.TempDir(), "", Rules{Ignore: []string{"/at"}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	add := func(side Side, values ...string) {
		t.Helper()
		if err := c.Add(side, batchOf(0, values...).Messages...); err != nil {
			t.Fatal(err)
		}
	}
	add(Left, `a={"x":1}`, `b={"x":1,"at":1}`, `c=3`, `d=4`, `a={"x":1,"y":[2]}`, `e=5`)
	add(Left, `d`)
	add(Right, `a={"x":1,"y":[3]}`, `b={"x":1.0,"at":2}`, `e=5`, `f=6`)
	add(Right, `e`, `d=null`)
	var got []string
	same, err := c.Report(func(d Difference) error {
		got = append(got, fmt.Sprintf("%s %s %s %s", d.Key, d.Left, d.Right, d.Patch))
		return nil
	})
	want := []string{`a {"x":1,"y":[2]} {"x":1,"y":[3]} [{"op":"replace","path":"/y/0","value":3}]`, `c 3  `, `e 5  `, `d  null `, `f  6 `}
	if diff := cmp.Diff(want, got); diff != "" || err != nil || same != 1 {
		t.Errorf("%d the same, %v:\n%s", same, err, diff)
	}
	if _, err := c.Report(func(Difference) error { return errPublish }); !errors.Is(err, errPublish) {
		t.Errorf("an error of who is told gives %v", err)
	}
	var bad *stream.BatchError
	err = c.Add(Left, consumers.Message{Record: stream.Record{Value: []byte("1")}}, messageOf(1, `g=1`))
	if !errors.As(err, &bad) || len(bad.Errs) != 1 || bad.Errs[0] == nil {
		t.Errorf("a message without a key gives %v", err)
	}
}
