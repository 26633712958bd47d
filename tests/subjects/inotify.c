// SPDX-License-Identifier: Apache-2.0 OR MIT
// inotify: watch numbers with gaps, masks, files and directories; new events arrive under the old numbers.
#include "subject.h"
#include <sys/inotify.h>

static int next(int fd, int *wd, uint32_t *mask, char *name)
{
	static char buf[8192] __attribute__((aligned(8)));
	static int len, at;
	if (at >= len) {
		len = read(fd, buf, sizeof(buf));
		at = 0;
		if (len <= 0) {
			len = 0;
			return 0;
		}
	}
	struct inotify_event *e = (void *)(buf + at);
	at += sizeof(*e) + e->len;
	*wd = e->wd, *mask = e->mask;
	strcpy(name, e->len ? e->name : "");
	return 1;
}

static void subject(int argc, char **argv)
{
	char dir[PATH_MAX], file[PATH_MAX], in[PATH_MAX + 16], name[NAME_MAX];
	int wd;
	uint32_t mask;
	strcpy(dir, in_dir("watched")), strcpy(file, in_dir("file"));
	CHECK(!mkdir(dir, 0755));
	close(open(file, O_CREAT | O_WRONLY, 0600));
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), empty = inotify_init1(IN_NONBLOCK);
	CHECK(inotify_add_watch(fd, "/etc", IN_DELETE_SELF) == 1);
	CHECK(inotify_add_watch(fd, dir, IN_CREATE | IN_DELETE) == 2);
	CHECK(inotify_add_watch(fd, "/usr", IN_DELETE_SELF) == 3);
	CHECK(inotify_add_watch(fd, file, IN_MODIFY) == 4);
	CHECK(!inotify_rm_watch(fd, 1) && !inotify_rm_watch(fd, 3));
	while (next(fd, &wd, &mask, name))
		EQ(mask, IN_IGNORED);
	ready();
	EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	while (next(fd, &wd, &mask, name))
		BAD("event %x for watch %d `%s` came by itself", mask, wd, name);
	CHECK(read(empty, name, 1) == -1);
	snprintf(in, sizeof(in), "%s/new", dir);
	close(open(in, O_CREAT | O_WRONLY, 0600));
	int w = open(file, O_WRONLY);
	CHECK(write(w, "x", 1) == 1);
	close(w);
	CHECK(next(fd, &wd, &mask, name));
	EQ(wd, 2);
	EQ(mask, IN_CREATE);
	STREQ(name, "new");
	CHECK(next(fd, &wd, &mask, name));
	EQ(wd, 4);
	EQ(mask, IN_MODIFY);
	CHECK(!inotify_rm_watch(fd, 2) && !inotify_rm_watch(fd, 4));
	ok();
}
