// SPDX-License-Identifier: Apache-2.0 OR MIT
// A task without any descriptor.
#include "subject.h"

static void subject(int argc, char **argv)
{
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	ready();
	for (int fd = 0; fd < 3; fd++)
		CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
	ok();
}
