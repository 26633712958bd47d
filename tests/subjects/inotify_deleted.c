// SPDX-License-Identifier: Apache-2.0 OR MIT
// inotify: a watch on a file that was deleted, is still open, and goes away with its last descriptor.
#include "subject.h"
#include <sys/inotify.h>

static void subject(int argc, char **argv)
{
	char file[PATH_MAX], buf[4096] __attribute__((aligned(8)));
	strcpy(file, in_dir("file"));
	int held = open(file, O_CREAT | O_RDWR, 0600);
	CHECK(write(held, "content", 7) == 7);
	int fd = inotify_init1(IN_NONBLOCK);
	CHECK(inotify_add_watch(fd, file, IN_MODIFY | IN_CLOSE_WRITE) == 1);
	CHECK(!unlink(file));
	ready();
	CHECK(read(fd, buf, sizeof(buf)) == -1);
	EQ(errno, EAGAIN);
	CHECK(pwrite(held, "C", 1, 0) == 1);
	CHECK(!close(held));
	int len = read(fd, buf, sizeof(buf)), at = 0;
	uint32_t seen = 0;
	while (at < len) {
		struct inotify_event *e = (void *)(buf + at);
		EQ(e->wd, 1);
		seen |= e->mask;
		at += sizeof(*e) + e->len;
	}
	EQ(seen & (IN_MODIFY | IN_CLOSE_WRITE), IN_MODIFY | IN_CLOSE_WRITE);
	ok();
}
