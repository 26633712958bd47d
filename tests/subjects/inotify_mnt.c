// SPDX-License-Identifier: Apache-2.0 OR MIT
// An inotify that watches what only a child's mount namespace has.
#include "subject.h"
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mount.h>

static void inner(void)
{
	EQ(unshare(CLONE_NEWNS), 0);
	EQ(mount("own", "/mnt", "tmpfs", 0, NULL), 0);
	EQ(mkdir("/mnt/dir", 0755), 0);
	here_until_go();
	await("checked");
}

static void subject(int argc, char **argv)
{
	char path[128];
	struct inotify_event *e;
	char buf[4096] __attribute__((aligned(8)));
	CHECK(!mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL));
	pid_t pid = child(inner);
	snprintf(path, sizeof(path), "/proc/%d/root/mnt/dir", pid);
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	EQ(inotify_add_watch(fd, path, IN_CREATE), 1);
	EQ(inotify_add_watch(fd, "/mnt", IN_CREATE), 2);
	ready();
	CHECK(read(fd, buf, sizeof(buf)) == -1 && errno == EAGAIN);
	strcat(path, "/new");
	close(open(path, O_WRONLY | O_CREAT, 0600));
	CHECK(read(fd, buf, sizeof(buf)) > 0);
	e = (void *)buf;
	EQ(e->wd, 1);
	EQ(e->mask, IN_CREATE);
	STREQ(e->name, "new");
	mark("checked");
	reap(pid);
	ok();
}
