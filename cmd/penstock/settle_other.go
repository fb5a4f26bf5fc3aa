//go:build !linux

package main

// forgetStart does nothing; see the one for Linux.
func forgetStart() {}
