//go:build amd64 && !goexperiment.simd

#include "textflag.h"
#include "go_asm.h"

// Each value is converted, multiplied and added by instructions of their own, in
// the order of the updates: the roundings are those of the plain code.

// func add1AVX2(sum *float64, x *float32, w float64, n int)
TEXT ·add1AVX2(SB), NOSPLIT, $0-32
	MOVQ         sum+0(FP), DI
	MOVQ         x+8(FP), R8
	VBROADCASTSD w+16(FP), Y12
	MOVQ         n+24(FP), CX
	XORQ         DX, DX

add1:
	VCVTPS2PD (R8)(DX*4), Y0
	VCVTPS2PD 16(R8)(DX*4), Y1
	VMULPD    Y12, Y0, Y0
	VMULPD    Y12, Y1, Y1
	VADDPD    (DI)(DX*8), Y0, Y0
	VADDPD    32(DI)(DX*8), Y1, Y1
	VMOVUPD   Y0, (DI)(DX*8)
	VMOVUPD   Y1, 32(DI)(DX*8)
	ADDQ      $8, DX
	CMPQ      DX, CX
	JLT       add1
	VZEROUPPER
	RET

// func add4AVX2(sum *float64, x *[4]*float32, w *[4]float64, n int)
TEXT ·add4AVX2(SB), NOSPLIT, $0-32
	MOVQ         sum+0(FP), DI
	MOVQ         x+8(FP), AX
	MOVQ         w+16(FP), BX
	MOVQ         n+24(FP), CX
	MOVQ         (AX), R8
	MOVQ         8(AX), R9
	MOVQ         16(AX), R10
	MOVQ         24(AX), R11
	VBROADCASTSD (BX), Y12
	VBROADCASTSD 8(BX), Y13
	VBROADCASTSD 16(BX), Y14
	VBROADCASTSD 24(BX), Y15
	XORQ         DX, DX

add4:
	VCVTPS2PD   (R8)(DX*4), Y0
	VCVTPS2PD   16(R8)(DX*4), Y1
	VCVTPS2PD   (R9)(DX*4), Y2
	VCVTPS2PD   16(R9)(DX*4), Y3
	VCVTPS2PD   (R10)(DX*4), Y4
	VCVTPS2PD   16(R10)(DX*4), Y5
	VCVTPS2PD   (R11)(DX*4), Y6
	VCVTPS2PD   16(R11)(DX*4), Y7
	VMULPD      Y12, Y0, Y0
	VMULPD      Y12, Y1, Y1
	VMULPD      Y13, Y2, Y2
	VMULPD      Y13, Y3, Y3
	VMULPD      Y14, Y4, Y4
	VMULPD      Y14, Y5, Y5
	VMULPD      Y15, Y6, Y6
	VMULPD      Y15, Y7, Y7
	VADDPD      (DI)(DX*8), Y0, Y0
	VADDPD      32(DI)(DX*8), Y1, Y1
	VADDPD      Y2, Y0, Y0
	VADDPD      Y3, Y1, Y1
	VADDPD      Y4, Y0, Y0
	VADDPD      Y5, Y1, Y1
	VADDPD      Y6, Y0, Y0
	VADDPD      Y7, Y1, Y1
	VMOVUPD     Y0, (DI)(DX*8)
	VMOVUPD     Y1, 32(DI)(DX*8)
	ADDQ        $8, DX
	CMPQ        DX, CX
	JLT         add4
	VZEROUPPER
	RET

// func squaresAVX2(squares *[lanes]float64, x, base *float32, n int)
TEXT ·squaresAVX2(SB), NOSPLIT, $0-32
	MOVQ    squares+0(FP), AX
	MOVQ    x+8(FP), R8
	MOVQ    base+16(FP), SI
	MOVQ    n+24(FP), CX
	VMOVUPD (AX), Y8
	VMOVUPD 32(AX), Y9
	XORQ    DX, DX

squares:
	VCVTPS2PD (R8)(DX*4), Y0
	VCVTPS2PD 16(R8)(DX*4), Y1
	VCVTPS2PD (SI)(DX*4), Y2
	VCVTPS2PD 16(SI)(DX*4), Y3
	VSUBPD    Y2, Y0, Y0
	VSUBPD    Y3, Y1, Y1
	VMULPD    Y0, Y0, Y0
	VMULPD    Y1, Y1, Y1
	VADDPD    Y0, Y8, Y8
	VADDPD    Y1, Y9, Y9
	ADDQ      $8, DX
	CMPQ      DX, CX
	JLT       squares
	VMOVUPD   Y8, (AX)
	VMOVUPD   Y9, 32(AX)
	VZEROUPPER
	RET

// HALF is what four updates do to four values, whose lanes are L0 to L3.
#define HALF(OFF4, OFF8, L0, L1, L2, L3) \
	VCVTPS2PD OFF4(SI)(DX*4), Y12;  \
	VMOVUPD   OFF8(DI)(DX*8), Y13;  \
	VCVTPS2PD OFF4(R8)(DX*4), Y14;  \
	VMULPD    Y14, Y8, Y15;         \
	VSUBPD    Y12, Y14, Y14;        \
	VADDPD    Y15, Y13, Y13;        \
	VMULPD    Y14, Y14, Y14;        \
	VADDPD    Y14, L0, L0;          \
	VCVTPS2PD OFF4(R9)(DX*4), Y14;  \
	VMULPD    Y14, Y9, Y15;         \
	VSUBPD    Y12, Y14, Y14;        \
	VADDPD    Y15, Y13, Y13;        \
	VMULPD    Y14, Y14, Y14;        \
	VADDPD    Y14, L1, L1;          \
	VCVTPS2PD OFF4(R10)(DX*4), Y14; \
	VMULPD    Y14, Y10, Y15;        \
	VSUBPD    Y12, Y14, Y14;        \
	VADDPD    Y15, Y13, Y13;        \
	VMULPD    Y14, Y14, Y14;        \
	VADDPD    Y14, L2, L2;          \
	VCVTPS2PD OFF4(R11)(DX*4), Y14; \
	VMULPD    Y14, Y11, Y15;        \
	VSUBPD    Y12, Y14, Y14;        \
	VADDPD    Y15, Y13, Y13;        \
	VMULPD    Y14, Y14, Y14;        \
	VADDPD    Y14, L3, L3;          \
	VMOVUPD   Y13, OFF8(DI)(DX*8)

// func check4AVX2(sum *float64, base *float32, x *[4]*float32, w *[4]float64, squares *[4][lanes]float64, n int)
TEXT ·check4AVX2(SB), NOSPLIT, $0-48
	MOVQ         sum+0(FP), DI
	MOVQ         base+8(FP), SI
	MOVQ         x+16(FP), AX
	MOVQ         w+24(FP), BX
	MOVQ         n+40(FP), CX
	MOVQ         (AX), R8
	MOVQ         8(AX), R9
	MOVQ         16(AX), R10
	MOVQ         24(AX), R11
	MOVQ         squares+32(FP), AX
	VBROADCASTSD (BX), Y8
	VBROADCASTSD 8(BX), Y9
	VBROADCASTSD 16(BX), Y10
	VBROADCASTSD 24(BX), Y11
	VMOVUPD      (AX), Y0
	VMOVUPD      32(AX), Y1
	VMOVUPD      64(AX), Y2
	VMOVUPD      96(AX), Y3
	VMOVUPD      128(AX), Y4
	VMOVUPD      160(AX), Y5
	VMOVUPD      192(AX), Y6
	VMOVUPD      224(AX), Y7
	XORQ         DX, DX

check4:
	HALF(0, 0, Y0, Y2, Y4, Y6)
	HALF(16, 32, Y1, Y3, Y5, Y7)
	// The next piece of each update comes while this one is worked on: no address faults.
	PREFETCHT0 (const_piece*4)(R8)(DX*4)
	PREFETCHT0 (const_piece*4)(R9)(DX*4)
	PREFETCHT0 (const_piece*4)(R10)(DX*4)
	PREFETCHT0 (const_piece*4)(R11)(DX*4)
	ADDQ    $8, DX
	CMPQ    DX, CX
	JLT     check4
	VMOVUPD Y0, (AX)
	VMOVUPD Y1, 32(AX)
	VMOVUPD Y2, 64(AX)
	VMOVUPD Y3, 96(AX)
	VMOVUPD Y4, 128(AX)
	VMOVUPD Y5, 160(AX)
	VMOVUPD Y6, 192(AX)
	VMOVUPD Y7, 224(AX)
	VZEROUPPER
	RET
