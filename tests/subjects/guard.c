// SPDX-License-Identifier: Apache-2.0 OR MIT
// Guard regions inside a mapping (MADV_GUARD_INSTALL), which no line of maps shows.
#include "subject.h"
#include <setjmp.h>
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

static sigjmp_buf back;
static void on_segv(int s) { siglongjmp(back, 1); }

static int faults(char *p)
{
	if (sigsetjmp(back, 1))
		return 1;
	*(volatile char *)p;
	return 0;
}

static void subject(int argc, char **argv)
{
	char *p = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 64; i++)
		p[i * 4096] = i;
	SETUP_OR_SKIP(!madvise(p + 10 * 4096, 4 * 4096, MADV_GUARD_INSTALL));
	CHECK(!madvise(p + 63 * 4096, 4096, MADV_GUARD_INSTALL));
	CHECK(signal(SIGSEGV, on_segv) != SIG_ERR);
	CHECK(faults(p + 10 * 4096));
	ready();
	for (int i = 0; i < 64; i++) {
		int guard = (i >= 10 && i < 14) || i == 63;
		EQ(faults(p + i * 4096), guard);
		if (!guard)
			EQ(p[i * 4096], i);
	}
	CHECK(!madvise(p + 10 * 4096, 4096, MADV_GUARD_REMOVE));
	EQ(p[10 * 4096], 0);
	ok();
}
