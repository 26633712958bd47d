// SPDX-License-Identifier: Apache-2.0 OR MIT
// A directory and umask shared by two tasks (CLONE_FS).
#include "subject.h"
#include <sched.h>

static int clone_fs(void *arg)
{
	here_until_go();
	CHECK(!chdir("/usr"));
	umask(0711);
	mark("moved");
	return 0;
}

static void subject(int argc, char **argv)
{
	static char stack[65536];
	CHECK(!chdir("/etc"));
	umask(027);
	pid_t c = clone(clone_fs, stack + sizeof(stack), CLONE_FS | SIGCHLD, 0);
	CHECK(c > 0);
	await_child(c);

	ready();

	await("moved");
	STREQ(link_of("/proc/self/cwd"), "/usr");
	EQ(umask(0), 0711);
	reap(c);
	ok();
}
