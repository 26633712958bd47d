// SPDX-License-Identifier: Apache-2.0 OR MIT
// Clone flags: a table of descriptors shared by two tasks (CLONE_FILES), handlers (CLONE_SIGHAND), an exit signal.
#include "subject.h"
#include <sched.h>

static char stack[65536];
static int got_usr2;
static void on_usr2(int s) { got_usr2++; }

static int shares_files(void *arg)
{
	here_until_go();
	int fd = open("/dev/zero", O_RDONLY);
	CHECK(fd >= 0 && dup2(fd, 77) == 77);
	close(fd);
	mark("opened");
	await("closed");
	CHECK(fcntl(78, F_GETFD) == -1 && errno == EBADF);
	return 0;
}

static void own_files(void)
{
	here_until_go();
	await("opened");
	CHECK(fcntl(77, F_GETFD) == -1 && errno == EBADF);
	CHECK(fcntl(78, F_GETFD) == 0);
}

static void subject(int argc, char **argv)
{
	int fd = open("/dev/null", O_RDWR);
	CHECK(dup2(fd, 78) == 78);
	close(fd);
	CHECK(signal(SIGUSR2, on_usr2) != SIG_ERR);
	pid_t own = child(own_files);
	pid_t c = clone(shares_files, stack + sizeof(stack), CLONE_FILES | SIGCHLD, 0);
	CHECK(c > 0);
	await_child(c);

	compare_fds = 0; // the other task opens one
	ready();

	await("opened");
	char b = 1;
	EQ(read(77, &b, 1), 1);
	EQ(b, 0);
	close(78);
	mark("closed");
	reap(c);
	reap(own);
	ok();
}
