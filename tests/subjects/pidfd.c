// SPDX-License-Identifier: Apache-2.0 OR MIT
// Descriptors of processes: of itself, a child, with "dead": a child that is dead and reaped.
#include "subject.h"

static void idle(void)
{
	here_until_go();
	for (;;)
		pause();
}

static int opened(pid_t pid, int flags)
{
	int fd = syscall(SYS_pidfd_open, pid, flags);
	CHECK(fd >= 0);
	return fd;
}

static void subject(int argc, char **argv)
{
	pid_t pid = child(idle), dead = fork();
	if (!dead)
		pause();
	int self = opened(getpid(), 0), of_child = opened(pid, O_NONBLOCK), of_dead = opened(dead, 0);
	kill(dead, SIGKILL);
	waitpid(dead, 0, 0);
	if (argc < 3)
		close(of_dead);

	ready();

	EQ(atoi(proc_value(strcat(strcpy((char[64]){ 0 }, "/proc/self/fdinfo/"), (char[2]){ '0' + self, 0 }), "Pid")), getpid());
	CHECK(fcntl(of_child, F_GETFL) & O_NONBLOCK);
	struct pollfd p = { of_child, POLLIN };
	EQ(poll(&p, 1, 0), 0);
	EQ(syscall(SYS_pidfd_send_signal, of_child, SIGKILL, 0, 0), 0);
	EQ(poll(&p, 1, 5000), 1);
	int status;
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, SIGKILL);
	EQ(syscall(SYS_pidfd_send_signal, self, 0, 0, 0), 0);
	if (argc > 2)
		CHECK(syscall(SYS_pidfd_send_signal, of_dead, 0, 0, 0) == -1 && errno == ESRCH);
	ok();
}
