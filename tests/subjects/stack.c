// SPDX-License-Identifier: Apache-2.0 OR MIT
// A deep stack, a thread's stack with guard, and growth of both after the restore.
#include "subject.h"

static atomic_int go, up;

static int __attribute__((noinline)) deep(int n)
{
	volatile char frame[4096];
	memset((char *)frame, n, sizeof(frame));
	int r = n ? deep(n - 1) : 0;
	return r + (frame[100] == (char)n);
}

static int __attribute__((noinline)) ready_at(int n)
{
	volatile char frame[2048];
	memset((char *)frame, n, sizeof(frame));
	int r = 0;
	if (n)
		r = ready_at(n - 1);
	else
		ready();
	return r + (frame[1000] == (char)n);
}

static void *thread(void *arg)
{
	EQ(deep(100), 101);
	atomic_store(&up, 1);
	while (!atomic_load(&go))
		msleep(3);
	EQ(deep(1000), 1001);
	return 0;
}

static void subject(int argc, char **argv)
{
	pthread_t t;
	CHECK(!pthread_create(&t, 0, thread, 0));
	while (!atomic_load(&up))
		msleep(1);
	EQ(ready_at(200), 201);
	EQ(deep(1500), 1501);
	atomic_store(&go, 1);
	CHECK(!pthread_join(t, 0));
	ok();
}
