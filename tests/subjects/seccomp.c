// SPDX-License-Identifier: Apache-2.0 OR MIT
// Seccomp: a chain of filters, different per thread, inherited by a child; each answers with its errno.
#include "subject.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

static void forbid(int nr, int errno_)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno_),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { sizeof(f) / sizeof(*f), f };
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p));
}

static int answer(long nr)
{
	errno = 0;
	return syscall(nr, -1, -1, -1) < 0 ? errno : 0;
}

static atomic_int up, go;

static void *more(void *arg)
{
	forbid(SYS_getpriority, 77);
	atomic_fetch_add(&up, 1);
	while (!atomic_load(&go))
		msleep(3);
	EQ(answer(SYS_getpriority), 77);
	EQ(answer(SYS_getpgid), 55);
	EQ(answer(SYS_sched_getparam), 66);
	EQ(atoi(proc_value("/proc/thread-self/status", "Seccomp")), 2);
	return 0;
}

static void *plain(void *arg)
{
	atomic_fetch_add(&up, 1);
	while (!atomic_load(&go))
		msleep(3);
	EQ(answer(SYS_getpriority), EINVAL);
	EQ(answer(SYS_getpgid), ESRCH);
	EQ(atoi(proc_value("/proc/thread-self/status", "Seccomp")), 0);
	return 0;
}

static void inherits(void)
{
	here_until_go();
	EQ(answer(SYS_getpgid), 55);
	EQ(answer(SYS_sched_getparam), 66);
	EQ(answer(SYS_getpriority), EINVAL);
}

static void subject(int argc, char **argv)
{
	pthread_t a, b;
	CHECK(!pthread_create(&b, 0, plain, 0));
	forbid(SYS_getpgid, 11);
	forbid(SYS_sched_getparam, 66);
	forbid(SYS_getpgid, 55); // the younger filter has its way: both say errno, the last one counts
	CHECK(!pthread_create(&a, 0, more, 0));
	while (atomic_load(&up) < 2)
		msleep(2);
	int pgid = answer(SYS_getpgid);
	EQ(pgid, 55);
	pid_t pid = child(inherits);

	ready();

	EQ(answer(SYS_getpgid), 55);
	EQ(answer(SYS_sched_getparam), 66);
	EQ(answer(SYS_getpriority), EINVAL);
	EQ(atoi(proc_value("/proc/self/status", "Seccomp")), 2);
	EQ(atoi(proc_value("/proc/self/status", "Seccomp_filters")), 3);
	EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
	atomic_store(&go, 1);
	CHECK(!pthread_join(a, 0) && !pthread_join(b, 0));
	reap(pid);
	ok();
}
