// SPDX-License-Identifier: Apache-2.0 OR MIT
// Restartable sequences: glibc's registration stays, cpu numbers are kept up to date.
#include "subject.h"
#include <sched.h>
#include <sys/rseq.h>

static atomic_int up, go;

static struct rseq *area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void verify(void)
{
	cpu_set_t one;
	for (int cpu = 0; cpu < 2; cpu++) {
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one))
			continue;
		EQ(*(volatile uint32_t *)&area()->cpu_id, (uint32_t)cpu);
	}
}

static void *thread(void *arg)
{
	atomic_store(&up, 1);
	while (!atomic_load(&go))
		msleep(3);
	verify();
	return 0;
}

static void subject(int argc, char **argv)
{
	pthread_t t;
	if (!__rseq_size)
		SKIP("libc does not register rseq");
	CHECK(!pthread_create(&t, 0, thread, 0));
	while (!atomic_load(&up))
		msleep(1);
	ready();
	verify();
	atomic_store(&go, 1);
	CHECK(!pthread_join(t, 0));
	// Still registered: a second registration elsewhere is refused.
	static struct rseq other __attribute__((aligned(32)));
	CHECK(syscall(SYS_rseq, &other, 32, 0, RSEQ_SIG) == -1);
	EQ(errno, EINVAL);
	ok();
}
