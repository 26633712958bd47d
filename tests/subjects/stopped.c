// SPDX-License-Identifier: Apache-2.0 OR MIT
// Children stopped by SIGSTOP and by SIGTSTP ("tty": and by SIGTTIN): still stopped afterwards, running again with SIGCONT.
#include "subject.h"

static void runs(void)
{
	here_until_go();
}

static char state_of(pid_t pid)
{
	char path[64], buf[1024];
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (!slurp(path, buf, sizeof(buf)))
		return '?';
	char *p = strrchr(buf, ')');
	return p ? p[2] : '?';
}

static void subject(int argc, char **argv)
{
	int sigs[] = { SIGSTOP, SIGTSTP, SIGTTIN }, status;
	int n = argc > 2 ? 3 : 2;
	pid_t pid[3];
	siginfo_t si;
	// SIGTSTP stops nobody in an orphaned group, so the children get one of their own.
	for (int i = 0; i < n; i++) {
		pid[i] = child(runs);
		CHECK(!setpgid(pid[i], pid[0]));
		CHECK(!kill(pid[i], sigs[i]));
		CHECK(!waitid(P_PID, pid[i], &si, WSTOPPED));
		EQ(si.si_status, sigs[i]);
	}
	pid_t seen = child(runs);

	ready();

	reap(seen);
	for (int i = 0; i < n; i++)
		EQ(state_of(pid[i]), 'T');
	msleep(20);
	for (int i = 0; i < n; i++)
		EQ(waitpid(pid[i], &status, WNOHANG), 0);
	for (int i = 0; i < n; i++) {
		CHECK(!kill(pid[i], SIGCONT));
		reap(pid[i]);
	}
	ok();
}
