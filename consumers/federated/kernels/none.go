//go:build !amd64

package kernels

func fastest() []kernel { return nil }
