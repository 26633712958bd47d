// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Two pipes and half of a connection, whose other ends are somebody else's: as the standard
// descriptors of a container.
#include "subject.h"

static void subject(int argc, char **argv)
{
	char line[64];
	struct stat st[3];
	for (int i = 0; i < 3; i++)
		CHECK(!fstat(i, &st[i]));
	say("ready %d", getpid());
	for (int i = 0; i < 3; i++)
		say("fd %lu", st[i].st_ino);
	ssize_t n = read(0, line, sizeof(line));
	CHECK(n == 6 && write(1, line, n) == n);
	n = read(2, line, sizeof(line));
	CHECK(n == 6 && write(2, line, n) == n);
	ok();
}
