package kernels

import (
	"encoding/binary"
	"unsafe"
)

// Floats are the numbers that data has, little-endian, without copying them. It is nil
// where they do not lie as this processor wants them. Neither may change after it.
func Floats(data []byte) []float32 {
	one := [2]byte{1}
	start := unsafe.Pointer(unsafe.SliceData(data))
	if binary.NativeEndian.Uint16(one[:]) != 1 || uintptr(start)%unsafe.Alignof(float32(0)) != 0 {
		return nil
	}
	return unsafe.Slice((*float32)(start), len(data)/4)
}
