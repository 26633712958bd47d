// SPDX-License-Identifier: Apache-2.0 OR MIT
// A job of a shell: terminal and session belong to others, who are not in the images.
#include "subject.h"
#include <sys/ioctl.h>
#include <termios.h>

static void member(void)
{
	here_until_go();
	CHECK(isatty(0) && isatty(1));
	EQ(tcgetsid(0), getsid(0));
}

static void subject(int argc, char **argv)
{
	struct termios t, now;
	CHECK(isatty(0) && isatty(1) && isatty(2));
	CHECK(!tcgetattr(0, &t));
	pid_t session = getsid(0), group = tcgetpgrp(0);
	CHECK(session != getpid());
	pid_t pid = child(member);
	compare_parent = 0;
	ready();
	EQ(getsid(0), session);
	EQ(tcgetpgrp(0), group);
	CHECK(!tcgetattr(0, &now));
	EQ(now.c_lflag, t.c_lflag);
	int tty = open("/dev/tty", O_RDWR);
	CHECK(tty >= 0);
	CHECK(write(tty, "written\n", 8) == 8);
	close(tty);
	reap(pid);
	ok();
}
