// SPDX-License-Identifier: Apache-2.0 OR MIT
// A network namespace: what tools print about it is the same afterwards.
// Arguments: a shell line that fills it, and one that prints it.
#include "subject.h"

static char *print(const char *line)
{
	static char *text[2];
	static int n;
	FILE *from = popen(line, "re");
	CHECK(from);
	char *all = text[n++] = malloc(1 << 20);
	size_t len = fread(all, 1, (1 << 20) - 1, from);
	all[len] = 0;
	pclose(from);
	return all;
}

static void subject(int argc, char **argv)
{
	if (system(argv[2]))
		SKIP("cannot set up: %s", argv[2]);
	char *before = print(argv[3]);
	ready();
	char *after = print(argv[3]);
	if (strcmp(before, after)) {
		int fd = open(in_dir("before"), O_WRONLY | O_CREAT, 0666);
		CHECK(write(fd, before, strlen(before)) >= 0);
		int fd2 = open(in_dir("after"), O_WRONLY | O_CREAT, 0666);
		CHECK(write(fd2, after, strlen(after)) >= 0);
		char *a = before, *b = after;
		while (*a && *a == *b)
			a++, b++;
		BAD("from %.80s to %.80s", a, b);
	}
	ok();
}
