// SPDX-License-Identifier: Apache-2.0 OR MIT
// Named pipes: opened for reading, writing and both; content; unlinked with content.
#include "subject.h"

static void subject(int argc, char **argv)
{
	char path[PATH_MAX], gone[PATH_MAX], buf[64] = "";
	struct stat st;
	strcpy(path, in_dir("fifo")), strcpy(gone, in_dir("gone"));
	CHECK(!mkfifo(path, 0640) && !mkfifo(gone, 0666));
	int both = open(path, O_RDWR | O_NONBLOCK);
	int r = open(path, O_RDONLY | O_NONBLOCK), w = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	int g = argc > 2 ? open(gone, O_RDWR | O_NONBLOCK) : -1;
	CHECK(both >= 0 && r >= 0 && w >= 0);
	CHECK(write(w, "in the fifo", 11) == 11);
	if (g >= 0)
		CHECK(write(g, "in the ghost", 12) == 12 && !unlink(gone));

	ready();

	EQ(fcntl(r, F_GETFL) & O_ACCMODE, O_RDONLY);
	EQ(fcntl(w, F_GETFL) & O_ACCMODE, O_WRONLY);
	EQ(fcntl(w, F_GETFD), FD_CLOEXEC);
	EQ(read(r, buf, sizeof(buf)), 11);
	STREQ(buf, "in the fifo");
	CHECK(read(both, buf, 1) == -1 && errno == EAGAIN);
	EQ(write(both, "y", 1), 1);
	EQ(read(r, buf, 4), 1);
	CHECK(!stat(path, &st) && S_ISFIFO(st.st_mode));
	EQ(st.st_mode & 07777, 0640);
	if (g >= 0) {
		memset(buf, 0, sizeof(buf));
		EQ(read(g, buf, sizeof(buf)), 12);
		STREQ(buf, "in the ghost");
		CHECK(!fstat(g, &st) && S_ISFIFO(st.st_mode));
		EQ(st.st_nlink, 0);
		CHECK(access(gone, F_OK) == -1 && errno == ENOENT);
	}
	ok();
}
