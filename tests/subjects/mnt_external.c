// SPDX-License-Identifier: Apache-2.0 OR MIT
// mnt_external DIR [slave]: a directory (/mnt) and a file (/etc/hostname) that are mounts of the
// namespace outside, bound into ours.
#include "subject.h"
#include "content.h"
#include <sys/mount.h>

static int slave(void)
{
	static char info[65536];
	slurp("/proc/self/mountinfo", info, sizeof(info));
	char *line = strstr(info, " / /mnt ");
	return line && strstr(line, "master:") && strstr(line, "master:") < strchr(line, '\n');
}

static void subject(int argc, char **argv)
{
	char text[16];
	CHECK(has("/mnt/file", "in dir"));
	CHECK(has("/etc/hostname", "in file"));
	int want = slave();
	int fd = open("/mnt/file", O_RDWR), on_file = open("/etc/hostname", O_RDONLY);
	CHECK(fd >= 0 && on_file >= 0);
	EQ(mount("/mnt/sub", "/media", NULL, MS_BIND, NULL), 0);
	EQ(mount(NULL, "/media", NULL, MS_PRIVATE, NULL), 0);
	ready();
	CHECK(has("/mnt/file", "in dir"));
	CHECK(has("/etc/hostname", "in file"));
	CHECK(has("/media/part", "a part"));
	EQ(pread(fd, text, 16, 0), 6);
	EQ(pread(on_file, text, 16, 0), 7);
	EQ(slave(), want);
	ok();
}
