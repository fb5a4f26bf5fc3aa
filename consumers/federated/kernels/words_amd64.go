package kernels

import "golang.org/x/sys/cpu"

// The functions in assembly look at n words, a multiple of wordsAtOnce and not 0.
const wordsAtOnce = 16

//go:noescape
func addWordsAVX2(v *uint32, b *byte, n int)

//go:noescape
func subtractWordsAVX2(v *uint32, b *byte, n int)

// addMany adds what the processor does many at once, and returns how many those were.
func addMany(v []uint32, b []byte) int {
	n := many(v)
	if n > 0 {
		addWordsAVX2(&v[0], &b[:4*n][0], n)
	}
	return n
}

func subtractMany(v []uint32, b []byte) int {
	n := many(v)
	if n > 0 {
		subtractWordsAVX2(&v[0], &b[:4*n][0], n)
	}
	return n
}

func many(v []uint32) int {
	if !cpu.X86.HasAVX2 {
		return 0
	}
	return len(v) &^ (wordsAtOnce - 1)
}
