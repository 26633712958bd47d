// SPDX-License-Identifier: Apache-2.0 OR MIT
// Files that never had a name (O_TMPFILE).
#include "subject.h"

static void subject(int argc, char **argv)
{
	char buf[32] = "";
	struct stat st;
	int fd = open(subject_dir, O_RDWR | O_TMPFILE, 0611);
	SETUP_OR_SKIP(fd >= 0);
	CHECK(write(fd, "nameless", 8) == 8 && lseek(fd, 3, SEEK_SET) == 3);
	ready();
	EQ(lseek(fd, 0, SEEK_CUR), 3);
	EQ(pread(fd, buf, 32, 0), 8);
	STREQ(buf, "nameless");
	CHECK(!fstat(fd, &st));
	EQ(st.st_nlink, 0);
	EQ(st.st_mode & 07777, 0611);
	EQ(write(fd, "X", 1), 1);
	ok();
}
