package main

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// forgetStart gives the pages of the program back to the system's cache, since
// most of them were needed to start and no more; those that are needed again
// come back as they are used. It touches only what lies in memory as in the file.
func forgetStart() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var start, end uint64 // of the mapping that is read, if it is one of the program's
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) >= 5 && !strings.HasSuffix(words[0], ":") {
			start, end = 0, 0
			from, to, _ := strings.Cut(words[0], "-")
			if len(words) == 6 && words[5] == self && words[1][1] == '-' {
				start, _ = strconv.ParseUint(from, 16, 64)
				end, _ = strconv.ParseUint(to, 16, 64)
			}
		}
		if end > start && words[0] == "Anonymous:" && words[1] == "0" {
			// A refusal means that the pages stay.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, uintptr(start), uintptr(end-start), syscall.MADV_DONTNEED)
		}
	}
}
