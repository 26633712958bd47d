// SPDX-License-Identifier: Apache-2.0 OR MIT
// Owners of descriptors (F_SETOWN) and their signals.
#include "subject.h"

static volatile int got, band_fd;
static void on_io(int s, siginfo_t *si, void *c) { got++, band_fd = si->si_fd; }

static void subject(int argc, char **argv)
{
	int p[2], q[2];
	struct f_owner_ex own;
	CHECK(!pipe(p) && !pipe(q));
	struct sigaction sa = { .sa_sigaction = on_io, .sa_flags = SA_SIGINFO };
	CHECK(!sigaction(SIGRTMIN + 7, &sa, 0));
	CHECK(!fcntl(p[0], F_SETOWN, getpid()) && !fcntl(p[0], F_SETSIG, SIGRTMIN + 7));
	CHECK(!fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	CHECK(!fcntl(q[0], F_SETOWN, -getpgrp()));
	ready();
	EQ(fcntl(p[0], F_GETOWN), getpid());
	EQ(fcntl(p[0], F_GETSIG), SIGRTMIN + 7);
	own.type = own.pid = -1;
	CHECK(!fcntl(q[0], F_GETOWN_EX, &own));
	EQ(own.type, F_OWNER_PGRP);
	EQ(own.pid, getpgrp());
	CHECK(fcntl(p[0], F_GETFL) & O_ASYNC);
	CHECK(write(p[1], "x", 1) == 1);
	msleep(5);
	EQ(got, 1);
	EQ(band_fd, p[0]);
	ok();
}
