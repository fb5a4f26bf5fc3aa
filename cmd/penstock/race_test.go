//go:build race

package main

func init() { manyConnections = 2000 }
