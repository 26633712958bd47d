// SPDX-License-Identifier: Apache-2.0 OR MIT
// signalfd: mask and flags, and the signals still pending behind it.
#include "subject.h"
#include <sys/signalfd.h>

static void subject(int argc, char **argv)
{
	sigset_t set;
	struct signalfd_siginfo si;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1), sigaddset(&set, SIGRTMIN + 3);
	CHECK(!sigprocmask(SIG_BLOCK, &set, 0));
	int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	sigdelset(&set, SIGUSR1);
	int other = signalfd(-1, &set, SFD_NONBLOCK);
	CHECK(!sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 31337 }));
	ready();
	EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	EQ(read(other, &si, sizeof(si)), sizeof(si));
	EQ(si.ssi_signo, SIGRTMIN + 3);
	EQ(si.ssi_int, 31337);
	kill(getpid(), SIGUSR1);
	CHECK(read(other, &si, sizeof(si)) == -1 && errno == EAGAIN);
	EQ(read(fd, &si, sizeof(si)), sizeof(si));
	EQ(si.ssi_signo, SIGUSR1);
	CHECK(read(fd, &si, sizeof(si)) == -1 && errno == EAGAIN);
	ok();
}
