package secagg

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"penstock/consumers/federated/kernels"
)

const (
	keyBlock = 16 << 10 // bytes of a mask that are made at once: they stay in the first cache
	sumBlock = 32 << 10 // elements that all masks are added to before the next: they stay in the second
)

// zeros is what a key stream is laid over.
var zeros [keyBlock]byte

// mask is one that is added to a vector or taken away. It is AES-128 in counter
// mode, whose key is the seed's first half and whose first counter is its second;
// four bytes, little-endian, are an element.
type mask struct {
	seed     secret
	subtract bool
}

// apply adds the masks to v, on all processors.
func apply(v []uint32, masks []mask) {
	ciphers := make([]cipher.Block, len(masks))
	for i, m := range masks {
		ciphers[i] = newAES(m.seed[:16])
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (len(v)+sumBlock-1)/sumBlock) {
		all.Go(func() {
			buffer := make([]byte, keyBlock)
			for {
				from := int(next.Add(sumBlock)) - sumBlock
				if from >= len(v) {
					return
				}
				part := v[from:min(from+sumBlock, len(v))]
				for i, m := range masks {
					add(part, ciphers[i], m, from/4, buffer)
				}
			}
		})
	}
	all.Wait()
}

// add adds the part of m that begins at block number block of its key stream.
func add(v []uint32, c cipher.Block, m mask, block int, buffer []byte) {
	stream := cipher.NewCTR(c, counter(m.seed[16:], block))
	for len(v) > 0 {
		n := min(len(v), keyBlock/4)
		b := buffer[:4*n]
		stream.XORKeyStream(b, zeros[:4*n])
		if m.subtract {
			kernels.SubtractWords(v[:n], b)
		} else {
			kernels.AddWords(v[:n], b)
		}
		v = v[n:]
	}
}

// counter is the number of 16 bytes, big-endian, plus blocks.
func counter(first []byte, blocks int) []byte {
	low, carry := bits.Add64(binary.BigEndian.Uint64(first[8:]), uint64(blocks), 0)
	return block{binary.BigEndian.Uint64(first) + carry, low}.append(nil)
}

// newAES returns AES for a key that is 16 or 32 bytes long.
func newAES(key []byte) cipher.Block {
	c, err := aes.NewCipher(key)
	if err != nil {
		panic("secagg: a key of a length that is never made: " + err.Error())
	}
	return c
}
