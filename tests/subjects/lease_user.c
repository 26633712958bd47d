// SPDX-License-Identifier: Apache-2.0 OR MIT
// A lease on a file of a user who is not root in the user namespace.
#include "subject.h"

static void subject(int argc, char **argv)
{
	char file[PATH_MAX];
	struct stat st;
	strcpy(file, in_dir("leased"));
	EQ(setgid(1000), 0);
	EQ(setuid(1000), 0);
	int fd = open(file, O_RDWR | O_CREAT, 0666);
	CHECK(fd >= 0);
	EQ(fstat(fd, &st), 0);
	EQ(st.st_uid, 1000);
	EQ(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
	ready();
	EQ(fcntl(fd, F_GETLEASE), F_WRLCK);
	EQ(geteuid(), 1000);
	EQ(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
	ok();
}
