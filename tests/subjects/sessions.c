// SPDX-License-Identifier: Apache-2.0 OR MIT
// A tree of sessions and process groups, some led by the dead; with "orphan": one under the subreaper.
#include "subject.h"

static void leaf(const char *name, int sid, int pgid)
{
	char path[64];
	snprintf(path, sizeof(path), "leaf.%s", name);
	mark(path);
	pid_t ppid = getppid();
	while (!triggered())
		msleep(3);
	EQ(getsid(0), sid);
	EQ(getpgrp(), pgid);
	EQ(getppid(), ppid);
	_exit(0);
}

// In the session of the root, a group of its own; with a member.
static void group(void)
{
	CHECK(!setpgid(0, 0));
	pid_t pid = fork();
	if (!pid)
		leaf("member", getsid(0), getppid());
	await("leaf.member");
	here_until_go();
	EQ(getpgrp(), getpid());
	reap(pid);
}

// A session with two groups, the leader of the second group has died but is a zombie.
static void session(void)
{
	CHECK(setsid() == getpid());
	pid_t leader = fork();
	if (!leader) {
		setpgid(0, 0);
		mark("zombie-led");
		_exit(9);
	}
	await("zombie-led");
	siginfo_t si;
	CHECK(!waitid(P_PID, leader, &si, WEXITED | WNOWAIT));
	pid_t pid = fork();
	if (!pid) {
		leaf("plain", getppid(), getppid());
	}
	await("leaf.plain");
	here_until_go();
	EQ(getsid(0), getpid());
	int status;
	EQ(waitpid(leader, &status, 0), leader);
	EQ(status, 9 << 8);
	reap(pid);
}

// A session whose leader is dead and reaped: the member lives on under the subreaper.
static void dead_leader(void)
{
	CHECK(setsid() == getpid());
	pid_t pid = fork();
	if (!pid) {
		pid_t sid = getsid(0);
		while (getppid() == sid)
			msleep(2);
		leaf("orphan", sid, sid);
	}
}

static void subject(int argc, char **argv)
{
	CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	pid_t a = child(group), b = child(session);
	if (argc > 2) {
		pid_t c = fork();
		if (!c) {
			dead_leader();
			_exit(0);
		}
		reap(c);
		await("leaf.orphan");
	}

	ready();

	reap(a);
	reap(b);
	int status;
	if (argc > 2) {
		CHECK(wait(&status) > 0);
		EQ(status, 0);
	}
	CHECK(wait(&status) == -1 && errno == ECHILD);
	ok();
}
