#include "textflag.h"

// func addWordsAVX2(v *uint32, b *byte, n int)
TEXT ·addWordsAVX2(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), DI
	MOVQ b+8(FP), SI
	MOVQ n+16(FP), CX
	XORQ DX, DX

add:
	VMOVDQU (SI)(DX*4), Y0
	VMOVDQU 32(SI)(DX*4), Y1
	VPADDD  (DI)(DX*4), Y0, Y0
	VPADDD  32(DI)(DX*4), Y1, Y1
	VMOVDQU Y0, (DI)(DX*4)
	VMOVDQU Y1, 32(DI)(DX*4)
	ADDQ    $16, DX
	CMPQ    DX, CX
	JLT     add
	VZEROUPPER
	RET

// func subtractWordsAVX2(v *uint32, b *byte, n int)
TEXT ·subtractWordsAVX2(SB), NOSPLIT, $0-24
	MOVQ v+0(FP), DI
	MOVQ b+8(FP), SI
	MOVQ n+16(FP), CX
	XORQ DX, DX

subtract:
	VMOVDQU (DI)(DX*4), Y0
	VMOVDQU 32(DI)(DX*4), Y1
	VPSUBD  (SI)(DX*4), Y0, Y0
	VPSUBD  32(SI)(DX*4), Y1, Y1
	VMOVDQU Y0, (DI)(DX*4)
	VMOVDQU Y1, 32(DI)(DX*4)
	ADDQ    $16, DX
	CMPQ    DX, CX
	JLT     subtract
	VZEROUPPER
	RET
