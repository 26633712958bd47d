// SPDX-License-Identifier: Apache-2.0 OR MIT
// Descriptors of namespaces: one's own, and with "held" one of the network that nobody lives in.
#include "subject.h"
#include <net/if.h>
#include <sched.h>

static const char *const kinds[] = { "uts", "ipc", "net", "pid", "user", "mnt" };
#define KINDS (sizeof(kinds) / sizeof(*kinds))

static ino_t inode(const char *path, int fd)
{
	struct stat st;
	CHECK(!(path ? stat(path, &st) : fstat(fd, &st)));
	return st.st_ino;
}

static const char *own(const char *kind)
{
	static char path[64];
	snprintf(path, sizeof(path), "/proc/self/ns/%s", kind);
	return path;
}

static void subject(int argc, char **argv)
{
	int fds[KINDS], held = -1;
	for (size_t i = 0; i < KINDS; i++)
		CHECK((fds[i] = open(own(kinds[i]), O_RDONLY)) >= 0);
	if (argc > 2) {
		CHECK(!unshare(CLONE_NEWNET));
		CHECK((held = open(own("net"), O_RDONLY)) >= 0);
		CHECK(!setns(fds[2], CLONE_NEWNET));
	}
	ready();
	for (size_t i = 0; i < KINDS; i++)
		EQ(inode(NULL, fds[i]), inode(own(kinds[i]), -1));
	if (held >= 0) {
		CHECK(inode(NULL, held) != inode(NULL, fds[2]));
		CHECK(!setns(held, CLONE_NEWNET));
		EQ(inode(own("net"), -1), inode(NULL, held));
		EQ(if_nametoindex("lo"), 1);
		CHECK(!setns(fds[2], CLONE_NEWNET));
	}
	ok();
}
