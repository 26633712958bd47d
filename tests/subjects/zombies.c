// SPDX-License-Identifier: Apache-2.0 OR MIT
// Dead children not yet waited for: exit codes ("high": from 128) and signals; children of a thread and of a child.
#include "subject.h"
#include <sys/resource.h>

static void parent_of_dead(void)
{
	pid_t pid = fork();
	if (!pid)
		_exit(77);
	siginfo_t si;
	CHECK(!waitid(P_PID, pid, &si, WEXITED | WNOWAIT));
	here_until_go();
	int status;
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, 77 << 8);
}

static void subject(int argc, char **argv)
{
	int codes[] = { 0, 1, 2, 42, 100, 126, 127 }, sigs[] = { SIGKILL, SIGTERM, SIGUSR1, SIGRTMIN };
	pid_t code_pid[7], sig_pid[4];
	siginfo_t si;
	int high[] = { 128, 130, 137, 143, 200, 254, 255 };
	if (argc > 2)
		memcpy(codes, high, sizeof(codes));
	struct rlimit none = { 0, 0 };
	CHECK(!setrlimit(RLIMIT_CORE, &none));
	for (int i = 0; i < 7; i++)
		if (!(code_pid[i] = fork()))
			_exit(codes[i]);
	for (int i = 0; i < 4; i++)
		if (!(sig_pid[i] = fork())) {
			kill(getpid(), sigs[i]);
			pause();
		}
	pid_t segv = fork();
	if (!segv) {
		*(volatile int *)8 = 1;
	}
	for (int i = 0; i < 7; i++)
		CHECK(!waitid(P_PID, code_pid[i], &si, WEXITED | WNOWAIT));
	for (int i = 0; i < 4; i++)
		CHECK(!waitid(P_PID, sig_pid[i], &si, WEXITED | WNOWAIT));
	CHECK(!waitid(P_PID, segv, &si, WEXITED | WNOWAIT));
	pid_t pid = child(parent_of_dead);

	ready();

	int status;
	for (int i = 0; i < 7; i++) {
		EQ(waitpid(code_pid[i], &status, WNOHANG), code_pid[i]);
		EQ(status, codes[i] << 8);
	}
	for (int i = 0; i < 4; i++) {
		EQ(waitpid(sig_pid[i], &status, WNOHANG), sig_pid[i]);
		EQ(status, sigs[i]);
	}
	EQ(waitpid(segv, &status, WNOHANG), segv);
	EQ(status & 0x7f, SIGSEGV);
	reap(pid);
	ok();
}
