// SPDX-License-Identifier: Apache-2.0 OR MIT
#include "subject.h"
#include <sys/file.h>

static int fds[16], count, signals, inherited;

static int file(const char *name, int flags)
{
	int fd = open(in_dir(name), flags | O_CREAT, 0666);
	CHECK(fd >= 0);
	return fds[count++] = fd;
}

static void lock(int fd, int cmd, int type, off_t start, off_t len)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
	CHECK(!fcntl(fd, cmd, &l));
}

// The lock: lines of all our descriptors, without their running numbers.
static void shown(char *out, size_t size)
{
	size_t n = 0;
	for (int i = 0; i < count; i++) {
		char path[64], text[4096], *save, *line;
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fds[i]);
		slurp(path, text, sizeof(text));
		for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			char kind[16], how[16], type[16], where[64], from[32], to[32];
			int pid;
			if (sscanf(line, "lock: %*s %15s %15s %15s %d %63s %31s %31s", kind, how, type, &pid, where,
				   from, to) == 7)
				n += snprintf(out + n, size - n, "%d %s %s %s %s %s %s\n", fds[i], kind, how, type,
					      where, from, to);
		}
	}
}

static char before[8192], after[8192];

static void on_signal(int signo)
{
	signals++;
}

static void other_owner(void)
{
	if (!inherited)
		fds[1] = open(in_dir("posix"), O_RDWR);
	lock(fds[1], F_SETLK, F_RDLCK, 0, 5);
	shown(before, sizeof(before));
	here_until_go();
	shown(after, sizeof(after));
	if (strcmp(before, after))
		first_difference("locks of the child", before, after);
	mark("child.checked");
	await("checked");
}

static void subject(int argc, char **argv)
{
	int leases = argc > 2 && !strcmp(argv[2], "leases");
	inherited = argc > 2 && !strcmp(argv[2], "inherited");
	signal(SIGIO, on_signal);
	int whole = file("flock", O_RDWR);
	int posix = file("posix", O_RDWR);
	int ofd = file("ofd", O_RDWR), ofd2 = file("ofd", O_RDWR);
	int copy = fds[count++] = dup(whole);
	CHECK(copy >= 0 && !flock(whole, LOCK_EX));
	CHECK(!flock(file("shared", O_RDONLY), LOCK_SH) && !flock(file("shared", O_RDONLY), LOCK_SH));
	lock(ofd, F_OFD_SETLK, F_WRLCK, 5, 10);
	lock(ofd2, F_OFD_SETLK, F_RDLCK, 100, 0);
	pid_t other = child(other_owner);
	lock(posix, F_SETLK, F_WRLCK, 10, 10);
	lock(posix, F_SETLK, F_RDLCK, 100, 0);
	int broken = -1;
	if (leases) {
		close(file("lease1", O_RDWR)), count--;
		close(file("lease2", O_RDWR)), count--;
		close(file("lease3", O_RDWR)), count--;
		SETUP_OR_SKIP(!fcntl(file("lease1", O_RDONLY), F_SETLEASE, F_RDLCK));
		CHECK(!fcntl(file("lease2", O_RDWR), F_SETLEASE, F_WRLCK));
		broken = file("lease3", O_RDONLY);
		CHECK(!fcntl(broken, F_SETLEASE, F_RDLCK));
		CHECK(open(in_dir("lease3"), O_WRONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
		msleep(20);
		EQ(signals, 1);
	}
	shown(before, sizeof(before));

	ready();

	shown(after, sizeof(after));
	if (strcmp(before, after))
		first_difference("locks", before, after);
	await("child.checked");
	// The child's pid owns its lock.
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 5 };
	CHECK(!fcntl(posix, F_GETLK, &l));
	EQ(l.l_type, F_RDLCK);
	EQ(l.l_pid, other);
	int fd = open(in_dir("flock"), O_RDWR);
	CHECK(flock(fd, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK);
	// One description, whichever descriptor is asked.
	CHECK(!flock(copy, LOCK_UN) && !flock(fd, LOCK_EX | LOCK_NB));
	if (leases) {
		EQ(signals, 1);
		EQ(fcntl(broken, F_GETLEASE), F_UNLCK);
		CHECK(!fcntl(broken, F_SETLEASE, F_UNLCK));
		CHECK(open(in_dir("lease1"), O_WRONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
		msleep(20);
		EQ(signals, 2);
	}
	mark("checked");
	reap(other);
	ok();
}
