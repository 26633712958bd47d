// SPDX-License-Identifier: Apache-2.0 OR MIT
// Registers kept in a spinning loop: general, x87, xmm, ymm, zmm and mask registers, flags, MXCSR.
#include "subject.h"
#include <cpuid.h>

static uint8_t xsave_before[16384] __attribute__((aligned(64)));
static uint8_t xsave_after[16384] __attribute__((aligned(64)));
static atomic_int go, spinning;
static uint64_t general[8];

static void xsave(void *to)
{
	__asm__ volatile("xsave64 (%0)" : : "r"(to), "a"(-1), "d"(-1) : "memory");
}

static void *spinner(void *arg)
{
	static uint8_t pattern[8192] __attribute__((aligned(64)));
	int avx512 = __builtin_cpu_supports("avx512f"), avx = __builtin_cpu_supports("avx");
	for (unsigned i = 0; i < sizeof(pattern); i++)
		pattern[i] = i * 31 + 7;
	if (avx512) {
#define Z(n) "vmovdqu64 " #n "*64(%0), %%zmm" #n "\n"
		__asm__ volatile(Z(0) Z(1) Z(2) Z(3) Z(4) Z(5) Z(6) Z(7) Z(8) Z(9) Z(10) Z(11) Z(12) Z(13)
				 Z(14) Z(15) Z(16) Z(17) Z(18) Z(19) Z(20) Z(21) Z(22) Z(23) Z(24) Z(25)
				 Z(26) Z(27) Z(28) Z(29) Z(30) Z(31) "kmovw %1, %%k1\nkmovw %1, %%k5\n"
				 : : "r"(pattern), "r"(0xa5c3));
	} else if (avx) {
#define Y(n) "vmovdqu " #n "*32(%0), %%ymm" #n "\n"
		__asm__ volatile(Y(0) Y(1) Y(2) Y(3) Y(4) Y(5) Y(6) Y(7) Y(8) Y(9) Y(10) Y(11) Y(12) Y(13)
				 Y(14) Y(15) : : "r"(pattern));
	} else {
#define X(n) "movdqu " #n "*16(%0), %%xmm" #n "\n"
		__asm__ volatile(X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)
				 X(14) X(15) : : "r"(pattern));
	}
	// x87: a half full stack, rounding and precision changed; MXCSR: round to zero.
	unsigned short cw = 0x0e7f;
	unsigned mxcsr = 0x7fa0;
	__asm__ volatile("fldcw %0\nfldpi\nfldl2t\nfld1\nldmxcsr %1" : : "m"(cw), "m"(mxcsr));
	xsave(xsave_before);
	atomic_store(&spinning, 1);
	uint64_t out[6];
	__asm__ volatile("movq $0x1111111122222222, %%r8\n"
			 "movq $0x3333333344444444, %%r9\n"
			 "movq $0x5555555566666666, %%r10\n"
			 "movq $0x7777777788888888, %%r11\n"
			 "movq $0x99999999aaaaaaaa, %%r14\n"
			 "stc\nstd\n"
			 "1: pause\n"
			 "movl (%1), %%eax\n"
			 "notl %%eax\n" // touches no flag
			 "movl %%eax, %%ecx\n"
			 "incl %%ecx\n" // leaves carry alone
			 "jz 1b\n"
			 "pushfq\npopq 40(%0)\ncld\n"
			 "movq %%r8, (%0)\nmovq %%r9, 8(%0)\nmovq %%r10, 16(%0)\n"
			 "movq %%r11, 24(%0)\nmovq %%r14, 32(%0)\n"
			 : : "r"(out), "r"(&go)
			 : "r8", "r9", "r10", "r11", "r14", "rax", "rcx", "memory", "cc");
	xsave(xsave_after);
	memcpy(general, out, sizeof(out));
	return 0;
}

static void subject(int argc, char **argv)
{
	unsigned a, b, c, d;
	pthread_t t;
	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE))
		SKIP("no xsave");
	__cpuid_count(13, 0, a, b, c, d);
	CHECK(b <= sizeof(xsave_before));
	CHECK(!pthread_create(&t, 0, spinner, 0));
	while (!atomic_load(&spinning))
		msleep(1);

	ready();

	atomic_store(&go, 1);
	CHECK(!pthread_join(t, 0));
	EQ(general[0], 0x1111111122222222);
	EQ(general[1], 0x3333333344444444);
	EQ(general[2], 0x5555555566666666);
	EQ(general[3], 0x7777777788888888);
	EQ(general[4], 0x99999999aaaaaaaa);
	EQ(general[5] & 0x401, 0x401); // direction and carry
	for (unsigned i = 0; i < b; i++) {
		// PKRU and the header's own bookkeeping may differ in what is "in use".
		if (i >= 512 && i < 576)
			continue;
		if (xsave_before[i] != xsave_after[i])
			BAD("xsave area differs at %u: %02x, was %02x", i, xsave_after[i], xsave_before[i]);
	}
	ok();
}
