// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Lives on a terminal whose master is somebody else's, as the first process of a container.
#include "subject.h"
#include <sys/ioctl.h>
#include <termios.h>

static void on_interrupt(int signo)
{
	write(1, "interrupted\n", 12);
	_exit(0);
}

static void subject(int argc, char **argv)
{
	char line[64];
	signal(SIGINT, on_interrupt);
	CHECK(isatty(0) && isatty(1) && isatty(2));
	EQ(getsid(0), getpid());
	say("ready %d", getpid());
	ssize_t n = read(0, line, sizeof(line));
	CHECK(n == 6 && !memcmp(line, "hello\n", 6));
	EQ(tcgetsid(0), getpid());
	EQ(tcgetpgrp(0), getpid());
	printf("got %.6s", line);
	fflush(stdout);
	for (;;)
		pause();
}
