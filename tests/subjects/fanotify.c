// SPDX-License-Identifier: Apache-2.0 OR MIT
// fanotify: marks of inodes and of mounts, ignored events; the kernel shows the same, and new events come.
// `opens`: with many open files there. `permission`: one that is asked before a file is opened.
#include "subject.h"
#include <sys/fanotify.h>
#include <sys/mount.h>

// The lines of fdinfo, without what differs in another mount namespace.
static void shown(int fd, char *out, size_t size)
{
	char path[64], text[8192], *save, *line;
	size_t n = 0;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	slurp(path, text, sizeof(text));
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *from = strstr(line, "mflags");
		if (!strncmp(line, "fanotify flags", 14))
			from = line;
		// Handles of files in a tmpfs that was made anew are others.
		char *handle = strstr(line, " fhandle-bytes");
		if (handle)
			*handle = 0;
		if (from)
			n += snprintf(out + n, size - n, "%.12s %s\n", line, from);
	}
}

static int next(int fd, unsigned long long *mask)
{
	static struct fanotify_event_metadata buf[64];
	static int len, at;
	if (at >= len) {
		len = read(fd, buf, sizeof(buf)) / (int)sizeof(buf[0]);
		at = 0;
		if (len <= 0)
			return len = 0;
	}
	struct fanotify_event_metadata *e = &buf[at++];
	*mask = e->mask;
	if (e->fd >= 0)
		close(e->fd);
	return 1;
}

static void subject(int argc, char **argv)
{
	static char before[8192], after[8192];
	char file[PATH_MAX];
	unsigned long long mask, all = 0;
	strcpy(file, in_dir("file"));
	close(open(file, O_CREAT | O_WRONLY, 0600));
	int asked = argc > 2 && !strcmp(argv[2], "permission");
	int fd = fanotify_init(FAN_NONBLOCK | FAN_CLOEXEC | (asked ? FAN_CLASS_CONTENT : FAN_CLASS_NOTIF),
			       O_RDONLY | O_LARGEFILE);
	SETUP_OR_SKIP(fd >= 0);
	if (asked) {
		CHECK(!fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, file));
		ready();
		ok();
	}
	SETUP_OR_SKIP(!mount("none", "/mnt", "tmpfs", 0, NULL));
	EQ(mkdir("/mnt/dir", 0755), 0);
	CHECK(!fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY | FAN_CLOSE, AT_FDCWD, file));
	CHECK(!fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY,
			     FAN_ACCESS, AT_FDCWD, file));
	CHECK(!fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_ONLYDIR, FAN_OPEN | FAN_ONDIR | FAN_EVENT_ON_CHILD,
			     AT_FDCWD, "/mnt/dir"));
	CHECK(!fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN | FAN_CLOSE_WRITE | FAN_ONDIR,
			     AT_FDCWD, "/mnt"));
	// What opens these again is told to the fanotify too.
	for (int i = 0; argc > 2 && i < 500; i++)
		CHECK(open("/mnt/dir", O_RDONLY | O_DIRECTORY) >= 0);
	while (next(fd, &mask))
		;
	shown(fd, before, sizeof(before));
	ready();
	shown(fd, after, sizeof(after));
	if (strcmp(before, after))
		first_difference("marks", before, after);
	EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	while (next(fd, &mask))
		BAD("event %llx came by itself", mask);
	int w = open(file, O_WRONLY);
	EQ(write(w, "x", 1), 1);
	close(w);
	while (next(fd, &mask))
		all |= mask;
	EQ(all, FAN_MODIFY | FAN_CLOSE_WRITE);
	close(open("/mnt/new", O_WRONLY | O_CREAT, 0600));
	for (all = 0; next(fd, &mask); all |= mask)
		;
	EQ(all, FAN_OPEN | FAN_CLOSE_WRITE);
	ok();
}
