package kernels

import (
	"encoding/binary"
	"unsafe"
)

// Floats are the numbers that data has, little-endian, without copying them. It is nil
// where they do not lie as this processor wants them. Neither may change after it.
func Floats(data []byte) []float32 {
	start := unsafe.Pointer(unsafe.SliceData(data))
	if !littleEndian() || uintptr(start)%unsafe.Alignof(float32(0)) != 0 {
		return nil
	}
	return unsafe.Slice((*float32)(start), len(data)/4)
}

// Bytes are values, little-endian, without copying them: what Floats is of.
func Bytes(values []float32) []byte {
	if !littleEndian() {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), 4*len(values))
}

func littleEndian() bool {
	one := [2]byte{1}
	return binary.NativeEndian.Uint16(one[:]) == 1
}
