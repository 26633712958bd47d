// SPDX-License-Identifier: Apache-2.0 OR MIT
// Signals: actions, masks, alternate stack, queues of the process and of a thread with payloads in order.
#include "subject.h"

static int order[64], values[64], n;
static pid_t worker_tid;
static atomic_int up, done;
static char altstack[65536], thread_altstack[32768];
static int on_alt;

static void handler(int sig, siginfo_t *si, void *ctx)
{
	char here;
	order[n] = sig, values[n] = si->si_value.sival_int;
	n++;
	if (&here > altstack && &here < altstack + sizeof(altstack))
		on_alt++;
	(void)ctx;
}

static int thread_values[16], thread_n;
static void thread_handler(int sig, siginfo_t *si, void *ctx)
{
	thread_values[thread_n++] = si->si_value.sival_int;
}

static void queue_to_thread(int sig, int value)
{
	siginfo_t si = { 0 };
	si.si_signo = sig, si.si_code = SI_QUEUE, si.si_pid = getpid(), si.si_uid = getuid();
	si.si_value.sival_int = value;
	CHECK(!syscall(SYS_rt_tgsigqueueinfo, getpid(), worker_tid, sig, &si));
}

static void *worker(void *arg)
{
	sigset_t all;
	stack_t ss = { .ss_sp = thread_altstack, .ss_size = sizeof(thread_altstack) }, got;
	CHECK(!sigaltstack(&ss, 0));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, 0);
	worker_tid = syscall(SYS_gettid);
	atomic_store(&up, 1);
	while (!atomic_load(&done))
		msleep(2);
	CHECK(!sigaltstack(0, &got));
	CHECK(got.ss_sp == thread_altstack && got.ss_size == sizeof(thread_altstack));
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN + 5);
	pthread_sigmask(SIG_UNBLOCK, &one, 0);
	EQ(thread_n, 3);
	EQ(thread_values[0], 501);
	EQ(thread_values[1], 502);
	EQ(thread_values[2], 503);
	return 0;
}

static void subject(int argc, char **argv)
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK }, got;
	stack_t ss = { .ss_sp = altstack, .ss_size = sizeof(altstack) };
	sigset_t block, pending, old;
	pthread_t t;
	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, SIGWINCH);
	CHECK(!sigaltstack(&ss, 0));
	for (int s = SIGRTMIN; s <= SIGRTMIN + 4; s++)
		CHECK(!sigaction(s, &sa, 0));
	CHECK(!sigaction(SIGUSR1, &sa, 0) && !sigaction(SIGUSR2, &sa, 0));
	sa.sa_sigaction = thread_handler, sa.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESETHAND;
	CHECK(!sigaction(SIGRTMIN + 6, &sa, 0));
	sa.sa_flags = SA_SIGINFO | SA_RESTART;
	CHECK(!sigaction(SIGRTMIN + 5, &sa, 0));
	CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
	sigfillset(&block);
	sigdelset(&block, SIGTERM);
	CHECK(!pthread_sigmask(SIG_SETMASK, &block, 0));
	CHECK(!pthread_create(&t, 0, worker, 0));
	while (!atomic_load(&up))
		msleep(1);
	for (int i = 0; i < 3; i++)
		queue_to_thread(SIGRTMIN + 5, 501 + i);
	union sigval v;
	for (int i = 0; i < 5; i++) {
		v.sival_int = 100 + i;
		CHECK(!sigqueue(getpid(), SIGRTMIN + 2, v));
	}
	v.sival_int = 200;
	CHECK(!sigqueue(getpid(), SIGRTMIN + 1, v));
	v.sival_int = 7;
	CHECK(!sigqueue(getpid(), SIGUSR1, v));
	CHECK(!kill(getpid(), SIGUSR2));

	ready();

	CHECK(!pthread_sigmask(0, 0, &old));
	for (int s = 1; s <= SIGRTMAX; s++)
		if (s != SIGKILL && s != SIGSTOP && (s < 32 || s >= SIGRTMIN))
			EQ(sigismember(&old, s), sigismember(&block, s));
	CHECK(!sigpending(&pending));
	EQ(sigismember(&pending, SIGUSR1), 1);
	EQ(sigismember(&pending, SIGUSR2), 1);
	EQ(sigismember(&pending, SIGRTMIN + 1), 1);
	EQ(sigismember(&pending, SIGRTMIN + 2), 1);
	EQ(sigismember(&pending, SIGRTMIN + 5), 0);
	CHECK(!sigaction(SIGPIPE, 0, &got) && got.sa_handler == SIG_IGN);
	CHECK(!sigaction(SIGRTMIN + 5, 0, &got) && got.sa_sigaction == thread_handler);
	EQ(got.sa_flags & ~0x04000000, SA_SIGINFO | SA_RESTART);
	CHECK(!sigaction(SIGRTMIN + 6, 0, &got));
	EQ(got.sa_flags & ~0x04000000u, (unsigned)(SA_SIGINFO | SA_NODEFER | SA_RESETHAND));
	CHECK(!sigaction(SIGUSR1, 0, &got) && got.sa_sigaction == handler);
	EQ(got.sa_flags & ~0x04000000, SA_SIGINFO | SA_ONSTACK);
	EQ(sigismember(&got.sa_mask, SIGWINCH), 1);
	EQ(sigismember(&got.sa_mask, SIGCHLD), 0);
	CHECK(!sigaction(SIGHUP, 0, &got) && got.sa_handler == SIG_DFL);
	atomic_store(&done, 1);
	CHECK(!pthread_join(t, 0));
	sigemptyset(&block);
	for (int s = SIGRTMIN; s <= SIGRTMIN + 4; s++)
		sigaddset(&block, s);
	sigaddset(&block, SIGUSR1), sigaddset(&block, SIGUSR2);
	// One at a time, in the kernel's order, each payload in the order it was queued.
	CHECK(!pthread_sigmask(SIG_UNBLOCK, &block, 0));
	EQ(n, 8);
	EQ(on_alt, 8);
	int next = 100, seen[4] = { 0 };
	for (int i = 0; i < n; i++) {
		if (order[i] == SIGRTMIN + 2)
			EQ(values[i], next++);
		if (order[i] == SIGRTMIN + 1)
			EQ(values[i], 200);
		if (order[i] == SIGUSR1) {
			seen[0]++;
			EQ(values[i], 7);
		}
		if (order[i] == SIGUSR2)
			seen[1]++;
	}
	EQ(next, 105);
	EQ(seen[0] + seen[1], 2);
	ok();
}
