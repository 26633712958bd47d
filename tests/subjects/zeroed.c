// SPDX-License-Identifier: Apache-2.0 OR MIT
// 48 MiB of pages that were written to and are zeroes again, but for two: an image has no need of room for them.
// With "shared" also 90 MiB of shared memory that an image has to have room for.
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
	size_t more = argc > 2 && !strcmp(argv[2], "shared") ? 90 << 20 : 0;
	long *q = NULL;
	if (more) {
		q = mmap(0, more, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		CHECK(q != MAP_FAILED);
	}
	for (size_t i = 0; i < more / sizeof(*q); i++)
		q[i] = i * 0x9e3779b97f4a7c15;
	ready();
	for (size_t i = 0; i < more / sizeof(*q); i++)
		CHECK(q[i] == (long)(i * 0x9e3779b97f4a7c15));
	for (size_t i = 1; i < len - 1; i++)
		CHECK(!p[i]);
	CHECK(p[0] == 7 && p[len - 1] == 7);
	ok();
}
