// SPDX-License-Identifier: Apache-2.0 OR MIT
// mnt_links DIR [linked]: a file with names in two directories of a tmpfs, open through a bind mount of
// each, then unlinked there; `linked`: it keeps a third name.
#include "subject.h"
#include <sys/mount.h>

static void mnt(const char *source, const char *at, const char *type, unsigned long flags)
{
	if (mount(source, at, type, flags, NULL))
		BAD("mount %s at %s: %s", source, at, strerror(errno));
}

static int mount_of(int fd)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return atoi(proc_value(path, "mnt_id"));
}

static void subject(int argc, char **argv)
{
	int linked = argc > 2;
	const char *dirs[] = { "/mnt/fs", "/mnt/1", "/mnt/2", "/mnt/fs/1", "/mnt/fs/2" };
	mnt("base", "/mnt", "tmpfs", 0);
	for (int i = 0; i < 5; i++) {
		EQ(mkdir(dirs[i], 0755), 0);
		if (i == 0)
			mnt("fs", dirs[0], "tmpfs", 0);
	}
	mnt("/mnt/fs/1", "/mnt/1", NULL, MS_BIND);
	mnt("/mnt/fs/2", "/mnt/2", NULL, MS_BIND);
	int one = open("/mnt/1/file", O_RDWR | O_CREAT, 0640);
	CHECK(one >= 0);
	EQ(write(one, "content", 7), 7);
	EQ(link("/mnt/fs/1/file", "/mnt/fs/2/file"), 0);
	if (linked)
		EQ(link("/mnt/fs/1/file", "/mnt/fs/other"), 0);
	int two = open("/mnt/2/file", O_RDONLY);
	CHECK(two >= 0);
	EQ(unlink("/mnt/fs/1/file"), 0);
	EQ(unlink("/mnt/fs/2/file"), 0);
	ready();
	struct stat a, b;
	char text[16];
	EQ(fstat(one, &a), 0);
	EQ(fstat(two, &b), 0);
	EQ(a.st_ino, b.st_ino);
	EQ(a.st_dev, b.st_dev);
	EQ(a.st_nlink, linked);
	EQ(a.st_mode, S_IFREG | 0640);
	EQ(a.st_size, 7);
	CHECK(mount_of(one) != mount_of(two));
	EQ(pread(two, text, 16, 0), 7);
	CHECK(!memcmp(text, "content", 7));
	STREQ(fd_link(one), "/mnt/1/file (deleted)");
	STREQ(fd_link(two), "/mnt/2/file (deleted)");
	for (int i = 3; i < 5; i++) {
		DIR *d = opendir(dirs[i]);
		struct dirent *e;
		while ((e = readdir(d)))
			if (e->d_name[0] != '.')
				BAD("%s/%s", dirs[i], e->d_name);
		closedir(d);
	}
	if (linked) {
		EQ(stat("/mnt/fs/other", &b), 0);
		EQ(a.st_ino, b.st_ino);
	}
	ok();
}
