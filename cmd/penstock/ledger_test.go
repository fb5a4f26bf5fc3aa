package main

import "testing"

func TestLedgerFindsWhatDoesNotAddUp(t *testing.T) {
	var l ledger
	all := l.add("offered", "file", 10)
	kept := l.add("stored", "table", 7)
	refused := l.add("refused", "topic", 3)
	l.balance(all, kept, refused)
	if got := l.failures(); len(got) != 0 {
		t.Fatalf("10 = 7 + 3 fails: %v", got)
	}
	l.balance(all, kept)
	if got, want := l.failures(), "offered = stored: 10 = 7"; len(got) != 1 || got[0] != want {
		t.Fatalf("failures = %q, want only %q", got, want)
	}
}
