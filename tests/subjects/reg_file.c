// SPDX-License-Identifier: Apache-2.0 OR MIT
// Regular files: position, flags, append, O_PATH, a directory half read, devices, cloexec.
#include "subject.h"
#include <sys/sysmacros.h>

static void subject(int argc, char **argv)
{
	char path[PATH_MAX], dir[PATH_MAX], sub[PATH_MAX + 32], buf[256] = "";
	strcpy(path, in_dir("file")), strcpy(dir, in_dir("folder"));
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
	CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10 && lseek(fd, 4, SEEK_SET) == 4);
	int ro = open(path, O_RDONLY | O_CLOEXEC), app = open(path, O_WRONLY | O_APPEND);
	int past = open(path, O_RDWR), opath = open(path, O_PATH), dsync = open(path, O_RDWR | O_DSYNC);
	CHECK(lseek(ro, 7, SEEK_SET) == 7 && lseek(past, 1000, SEEK_SET) == 1000);
	CHECK(ro >= 0 && app >= 0 && opath >= 0 && dsync >= 0);
	int dupd = fcntl(fd, F_DUPFD, 500), dcl = fcntl(fd, F_DUPFD_CLOEXEC, 300);
	CHECK(dupd == 500 && dcl == 300);
	CHECK(!mkdir(dir, 0755));
	for (int i = 0; i < 500; i++) {
		snprintf(sub, sizeof(sub), "%s/entry%d", dir, i);
		close(open(sub, O_CREAT | O_WRONLY, 0600));
	}
	int dirfd_ = open(dir, O_RDONLY | O_DIRECTORY);
	char entries[4096];
	long got = syscall(SYS_getdents64, dirfd_, entries, sizeof(entries));
	CHECK(got > 0);
	off_t dirpos = lseek(dirfd_, 0, SEEK_CUR);
	int zero = open("/dev/zero", O_RDONLY), full = open("/dev/full", O_WRONLY), rnd = open("/dev/urandom", O_RDONLY);
	CHECK(zero >= 0 && full >= 0 && rnd >= 0);
	int noatime = open(path, O_RDONLY | O_NOATIME);
	CHECK(noatime >= 0);

	ready();

	EQ(lseek(fd, 0, SEEK_CUR), 4);
	EQ(lseek(dupd, 2, SEEK_CUR), 6);
	EQ(lseek(dcl, 0, SEEK_CUR), 6);
	EQ(lseek(ro, 0, SEEK_CUR), 7);
	EQ(lseek(past, 0, SEEK_CUR), 1000);
	EQ(fcntl(dcl, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(dupd, F_GETFD), 0);
	EQ(fcntl(ro, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(ro, F_GETFL) & O_ACCMODE, O_RDONLY);
	EQ(fcntl(app, F_GETFL) & (O_ACCMODE | O_APPEND), O_WRONLY | O_APPEND);
	EQ(fcntl(opath, F_GETFL) & O_PATH, O_PATH);
	EQ(fcntl(dsync, F_GETFL) & O_DSYNC, O_DSYNC);
	EQ(fcntl(noatime, F_GETFL) & O_NOATIME, O_NOATIME);
	CHECK(read(opath, buf, 1) == -1 && errno == EBADF);
	EQ(write(app, "ab", 2), 2);
	EQ(pread(fd, buf, sizeof(buf), 0), 12);
	STREQ(buf, "0123456789ab");
	EQ(lseek(dirfd_, 0, SEEK_CUR), dirpos);
	long rest = 0, n;
	while ((n = syscall(SYS_getdents64, dirfd_, entries, sizeof(entries))) > 0)
		rest += n;
	EQ(n, 0);
	CHECK(rest > 0);
	buf[0] = 1;
	EQ(read(zero, buf, 1), 1);
	EQ(buf[0], 0);
	CHECK(write(full, "x", 1) == -1 && errno == ENOSPC);
	EQ(read(rnd, buf, 8), 8);
	ok();
}
