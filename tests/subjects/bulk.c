// SPDX-License-Identifier: Apache-2.0 OR MIT
// Much memory: 96 MiB of pages that differ, with zero pages and holes between, in a busy task.
#include "subject.h"

static void subject(int argc, char **argv)
{
	size_t pages = 96 << 8, n = 0;
	uint64_t *p = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	for (size_t i = 0; i < pages; i++) {
		if (i % 5 == 0)
			continue; // never touched
		uint64_t *q = p + i * 512;
		for (int j = 0; j < 512; j++)
			q[j] = i % 5 == 1 ? 0 : i * 0x9e3779b97f4a7c15ull + j;
	}
	ready();
	for (size_t i = 0; i < pages; i++) {
		uint64_t *q = p + i * 512;
		for (int j = 0; j < 512; j++)
			n += q[j] != (i % 5 < 2 ? 0 : i * 0x9e3779b97f4a7c15ull + j);
	}
	EQ(n, 0);
	ok();
}
