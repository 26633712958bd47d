// SPDX-License-Identifier: Apache-2.0 OR MIT
// Huge pages, private and shared anonymous, if the machine has some.
#include "subject.h"

static void subject(int argc, char **argv)
{
	size_t size = 4 << 20;
	char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	SETUP_OR_SKIP(p != MAP_FAILED);
	strcpy(p + 3000000, "in a huge page");
	char *s = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	SETUP_OR_SKIP(s != MAP_FAILED);
	strcpy(s + 100, "shared huge");
	ready();
	STREQ(p + 3000000, "in a huge page");
	STREQ(s + 100, "shared huge");
	ok();
}
