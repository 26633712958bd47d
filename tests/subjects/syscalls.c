// SPDX-License-Identifier: Apache-2.0 OR MIT
// Tasks blocked in calls that must go on where they were: sleeps with the rest of the time, reads, polls, futexes, waits.
#include "subject.h"
#include <linux/futex.h>

static int p[2];
static int word, exact;
static atomic_int here_, done;

static void *sleeper(void *arg)
{
	struct timespec t = { 2, 0 }, a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	atomic_fetch_add(&here_, 1);
	int r = nanosleep(&t, 0);
	CHECK(!r || (errno == EINTR && !exact));
	if (r)
		goto out;
	clock_gettime(CLOCK_MONOTONIC, &b);
	long ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
	CHECK(ms >= 1999);
out:
	atomic_fetch_add(&done, 1);
	return 0;
}

static void *reader(void *arg)
{
	char c = 0;
	atomic_fetch_add(&here_, 1);
	EQ(read(p[0], &c, 1), 1);
	EQ(c, 'r');
	atomic_fetch_add(&done, 1);
	return 0;
}

static void *poller(void *arg)
{
	struct pollfd f = { p[0], POLLPRI };
	atomic_fetch_add(&here_, 1);
	int r = poll(&f, 1, 2500);
	CHECK(r == 0 || (r < 0 && errno == EINTR && !exact));
	atomic_fetch_add(&done, 1);
	return 0;
}

static void *futexer(void *arg)
{
	atomic_fetch_add(&here_, 1);
	long r = syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0);
	CHECK(r == 0 || errno == EAGAIN);
	EQ(word, 1);
	atomic_fetch_add(&done, 1);
	return 0;
}

static void *pauser(void *arg)
{
	sigset_t s;
	int sig;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR2);
	atomic_fetch_add(&here_, 1);
	CHECK(!sigwait(&s, &sig));
	EQ(sig, SIGUSR2);
	atomic_fetch_add(&done, 1);
	return 0;
}

static void subject(int argc, char **argv)
{
	pthread_t t[5];
	void *(*fn[])(void *) = { sleeper, reader, poller, futexer, pauser };
	exact = argc > 2; // calls with a time limit do not end early
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR2);
	CHECK(!sigprocmask(SIG_BLOCK, &s, 0) && !pipe(p));
	for (int i = 0; i < 5; i++)
		CHECK(!pthread_create(&t[i], 0, fn[i], 0));
	while (atomic_load(&here_) < 5)
		msleep(1);
	msleep(30);
	ready();
	CHECK(write(p[1], "r", 1) == 1);
	word = 1;
	syscall(SYS_futex, &word, FUTEX_WAKE, 1, 0, 0, 0);
	CHECK(!kill(getpid(), SIGUSR2));
	for (int i = 0; i < 5; i++)
		CHECK(!pthread_join(t[i], 0));
	EQ(done, 5);
	ok();
}
