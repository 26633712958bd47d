// SPDX-License-Identifier: Apache-2.0 OR MIT
// A thread in the middle of the list that dies after all others when the process is killed: it gets
// the processor only when nobody else wants it. In the init of a pid namespace that thread waits in
// the kernel until all others are waited for.
#include "subject.h"
#include <sched.h>
#define N 9
#define IDLE 4

static atomic_int up, go;
static int policy[N];

static void *body(void *arg)
{
	long i = (long)arg;
	struct sched_param none = { 0 };
	if (i == IDLE)
		CHECK(!sched_setscheduler(0, SCHED_IDLE, &none));
	atomic_fetch_add(&up, 1);
	while (!atomic_load(&go))
		msleep(5);
	policy[i] = sched_getscheduler(0);
	return 0;
}

static void subject(int argc, char **argv)
{
	pthread_t thread[N];
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	CHECK(!sched_setaffinity(0, sizeof(one), &one));
	for (long i = 0; i < N; i++)
		CHECK(!pthread_create(&thread[i], 0, body, (void *)i));
	while (atomic_load(&up) < N)
		msleep(5);

	ready();

	atomic_store(&go, 1);
	for (long i = 0; i < N; i++) {
		CHECK(!pthread_join(thread[i], 0));
		EQ(policy[i], i == IDLE ? SCHED_IDLE : SCHED_OTHER);
	}
	ok();
}
