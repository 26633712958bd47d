// SPDX-License-Identifier: Apache-2.0 OR MIT
// Threads: many, with TLS, names, masks, own stacks; joined afterwards; robust mutex; clear_child_tid.
#include "subject.h"
#define N 24

static __thread long tls = 42;
static pthread_t thread[N];
static pid_t tids[N];
static pthread_barrier_t set_up;
static pthread_mutex_t robust, plain = PTHREAD_MUTEX_INITIALIZER;
static atomic_int go, verified;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int signalled;

static void *body(void *arg)
{
	long i = (long)arg;
	char name[16], got[16];
	sigset_t set, now;
	tls = 1000 + i;
	tids[i] = syscall(SYS_gettid);
	snprintf(name, sizeof(name), "thr %ld \\n", i);
	prctl(PR_SET_NAME, name);
	sigemptyset(&set);
	sigaddset(&set, 1 + i);
	pthread_sigmask(SIG_SETMASK, &set, 0);
	if (i == 3)
		pthread_mutex_lock(&robust);
	pthread_barrier_wait(&set_up);
	if (i % 3 == 0) {
		while (!atomic_load(&go))
			msleep(2);
	} else if (i % 3 == 1) {
		pthread_mutex_lock(&plain);
		while (!signalled)
			pthread_cond_wait(&cond, &plain);
		pthread_mutex_unlock(&plain);
	} else {
		while (!atomic_load(&go))
			sched_yield();
	}
	EQ(tls, 1000 + i);
	EQ(syscall(SYS_gettid), tids[i]);
	prctl(PR_GET_NAME, got);
	STREQ(got, name);
	pthread_sigmask(0, 0, &now);
	for (int s = 1; s < 32; s++)
		if (s != SIGKILL && s != SIGSTOP)
			EQ(sigismember(&now, s), s == 1 + i);
	atomic_fetch_add(&verified, 1);
	return (void *)(i * i); // number 3 dies with the mutex held
}

static void subject(int argc, char **argv)
{
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	pthread_barrier_init(&set_up, 0, N + 1);
	for (long i = 0; i < N; i++)
		CHECK(!pthread_create(&thread[i], 0, body, (void *)i));
	pthread_barrier_wait(&set_up);

	ready();

	EQ(tls, 42);
	pthread_mutex_lock(&plain);
	signalled = 1;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&plain);
	atomic_store(&go, 1);
	for (long i = 0; i < N; i++) {
		void *r;
		CHECK(!pthread_join(thread[i], &r));
		EQ((long)r, i * i);
	}
	EQ(verified, N);
	EQ(pthread_mutex_lock(&robust), EOWNERDEAD);
	ok();
}
