// SPDX-License-Identifier: Apache-2.0 OR MIT
// Files with a second name, opened by one that was deleted (needs --link-remap). No name is left behind.
#include "subject.h"

static void subject(int argc, char **argv)
{
	char a[PATH_MAX], b[PATH_MAX], buf[32] = "";
	struct stat st, other;
	strcpy(a, in_dir("first-name")), strcpy(b, in_dir("second-name"));
	int fd = open(a, O_RDWR | O_CREAT, 0600);
	CHECK(write(fd, "two names", 9) == 9 && !link(a, b) && !unlink(a));
	char *map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);

	ready();

	CHECK(!fstat(fd, &st) && !stat(b, &other));
	EQ(st.st_ino, other.st_ino);
	EQ(st.st_nlink, 1);
	EQ(pread(fd, buf, 32, 0), 9);
	STREQ(buf, "two names");
	EQ(lseek(fd, 0, SEEK_CUR), 9);
	CHECK(!memcmp(map, "two names", 9));
	CHECK(access(a, F_OK) == -1);
	DIR *d = opendir(subject_dir);
	struct dirent *e;
	while ((e = readdir(d)))
		if (strstr(e->d_name, "link_remap"))
			BAD("left behind: %s", e->d_name);
	ok();
}
