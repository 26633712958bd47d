// SPDX-License-Identifier: Apache-2.0 OR MIT
// 48 MiB of pages that were written to and are zeroes again, but for two: an image has no need of room for them.
#include "subject.h"

static void subject(int argc, char **argv)
{
	size_t len = 48 << 20;
	char *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	for (size_t i = 0; i < len; i += 4096)
		p[i] = 1;
	memset(p, 0, len);
	p[0] = p[len - 1] = 7;
	ready();
	for (size_t i = 1; i < len - 1; i++)
		CHECK(!p[i]);
	CHECK(p[0] == 7 && p[len - 1] == 7);
	ok();
}
