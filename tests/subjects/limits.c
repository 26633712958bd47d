// SPDX-License-Identifier: Apache-2.0 OR MIT
// Resource limits of all kinds, and the small settings of a task.
#include "subject.h"
#include <sched.h>
#include <sys/personality.h>
#include <sys/resource.h>

static struct rlimit before[RLIM_NLIMITS], after[RLIM_NLIMITS];

static void dying_with_parent(void)
{
	int sig = 0;
	CHECK(!prctl(PR_SET_PDEATHSIG, SIGWINCH));
	here_until_go();
	CHECK(!prctl(PR_GET_PDEATHSIG, &sig));
	EQ(sig, SIGWINCH);
}

static void subject(int argc, char **argv)
{
	struct rlimit r;
	char buf[64] = "";
	struct { int which; rlim_t cur; } lower[] = {
		{ RLIMIT_NOFILE, 512 }, { RLIMIT_CORE, 0 }, { RLIMIT_STACK, 4 << 20 }, { RLIMIT_NPROC, 700 },
		{ RLIMIT_FSIZE, 1ull << 40 }, { RLIMIT_MEMLOCK, 100000 }, { RLIMIT_SIGPENDING, 1000 },
	};
	for (unsigned i = 0; i < sizeof(lower) / sizeof(*lower); i++) {
		CHECK(!getrlimit(lower[i].which, &r));
		if (lower[i].cur < r.rlim_max)
			r.rlim_cur = lower[i].cur;
		if (lower[i].which == RLIMIT_NPROC && r.rlim_max > 800)
			r.rlim_max = 800;
		CHECK(!setrlimit(lower[i].which, &r));
	}
	for (int i = 0; i < RLIM_NLIMITS; i++)
		CHECK(!getrlimit(i, &before[i]));
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	CHECK(write(fd, "321", 3) == 3);
	close(fd);
	CHECK(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	CHECK(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	CHECK(!prctl(PR_SET_NAME, "odd (name) \\x"));
	CHECK(!prctl(PR_SET_DUMPABLE, 0));
	struct sched_param sp = { 0 };
	CHECK(!sched_setscheduler(0, SCHED_BATCH, &sp));
	CHECK(!setpriority(PRIO_PROCESS, 0, 7));
	pid_t pid = child(dying_with_parent);

	ready();

	for (int i = 0; i < RLIM_NLIMITS; i++) {
		CHECK(!getrlimit(i, &after[i]));
		if (before[i].rlim_cur != after[i].rlim_cur || before[i].rlim_max != after[i].rlim_max)
			BAD("limit %d is %llu:%llu, not %llu:%llu", i, (long long)after[i].rlim_cur,
			    (long long)after[i].rlim_max, (long long)before[i].rlim_cur, (long long)before[i].rlim_max);
	}
	slurp("/proc/self/oom_score_adj", buf, sizeof(buf));
	STREQ(buf, "321\n");
	EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
	int sub = 0;
	CHECK(!prctl(PR_GET_CHILD_SUBREAPER, &sub));
	EQ(sub, 1);
	CHECK(!prctl(PR_GET_NAME, buf));
	STREQ(buf, "odd (name) \\x");
	EQ(prctl(PR_GET_DUMPABLE), 0);
	EQ(sched_getscheduler(0), SCHED_BATCH);
	EQ(getpriority(PRIO_PROCESS, 0), 7);
	reap(pid);
	ok();
}
