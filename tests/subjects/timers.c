// SPDX-License-Identifier: Apache-2.0 OR MIT
// Interval timers, POSIX timers with odd ids, overruns and signals; all go on ticking.
#include "subject.h"

static timer_t odd, mono, off, abs_;
static int alarms, virt;
static void on_alarm(int s) { alarms++; }
static void on_virt(int s) { virt++; }

static int real_id(timer_t t)
{
	return (int)(long)t;
}

static void subject(int argc, char **argv)
{
	struct itimerval it, got;
	struct itimerspec ts, now;
	struct sigevent ev = { 0 };
	sigset_t block;
	CHECK(signal(SIGALRM, on_alarm) != SIG_ERR && signal(SIGVTALRM, on_virt) != SIG_ERR);
	it = (struct itimerval){ { 0, 20000 }, { 0, 20000 } };
	CHECK(!setitimer(ITIMER_REAL, &it, 0));
	it = (struct itimerval){ { 3600, 500 }, { 5000, 7 } };
	CHECK(!setitimer(ITIMER_VIRTUAL, &it, 0) && !setitimer(ITIMER_PROF, &it, 0));

	sigemptyset(&block);
	sigaddset(&block, SIGRTMIN + 1), sigaddset(&block, SIGRTMIN + 2), sigaddset(&block, SIGRTMIN + 3);
	CHECK(!sigprocmask(SIG_BLOCK, &block, 0));
	// Ids with gaps: 0 and 1 are deleted again.
	timer_t gone[2];
	ev.sigev_notify = SIGEV_NONE;
	CHECK(!timer_create(CLOCK_REALTIME, &ev, &gone[0]) && !timer_create(CLOCK_REALTIME, &ev, &gone[1]));
	ev.sigev_notify = SIGEV_SIGNAL, ev.sigev_signo = SIGRTMIN + 1, ev.sigev_value.sival_int = 4711;
	CHECK(!timer_create(CLOCK_MONOTONIC, &ev, &mono));
	ev.sigev_signo = SIGRTMIN + 2, ev.sigev_value.sival_int = 4712;
	CHECK(!timer_create(CLOCK_REALTIME, &ev, &odd));
	ev.sigev_notify = SIGEV_NONE;
	CHECK(!timer_create(CLOCK_BOOTTIME, &ev, &off));
	CHECK(!timer_create(CLOCK_MONOTONIC, &ev, &abs_));
	CHECK(!timer_delete(gone[0]) && !timer_delete(gone[1]));
	int ids[4] = { real_id(mono), real_id(odd), real_id(off), real_id(abs_) };
	ts = (struct itimerspec){ { 0, 10000000 }, { 0, 10000000 } };
	CHECK(!timer_settime(mono, 0, &ts, 0));
	ts = (struct itimerspec){ { 1000, 1 }, { 7000, 9 } };
	CHECK(!timer_settime(odd, 0, &ts, 0));
	ts = (struct itimerspec){ { 0, 0 }, { 9000, 0 } };
	CHECK(!timer_settime(abs_, 0, &ts, 0));

	ready();

	EQ(real_id(mono), ids[0]);
	EQ(real_id(odd), ids[1]);
	CHECK(!getitimer(ITIMER_VIRTUAL, &got));
	EQ(got.it_interval.tv_sec, 3600);
	CHECK(got.it_interval.tv_usec >= 500 && got.it_value.tv_sec >= 4990 && got.it_value.tv_sec <= 5000);
	CHECK(!getitimer(ITIMER_PROF, &got));
	CHECK(got.it_value.tv_sec >= 4990 && got.it_value.tv_sec <= 5000);
	CHECK(!getitimer(ITIMER_REAL, &got));
	EQ(got.it_interval.tv_usec, 20000);
	int before = alarms;
	msleep(200);
	CHECK(alarms > before);
	siginfo_t si;
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN + 1);
	struct timespec limit = { 5, 0 };
	for (int i = 0; i < 3; i++) {
		int s;
		while ((s = sigtimedwait(&one, &si, &limit)) < 0 && errno == EINTR)
			;
		EQ(s, SIGRTMIN + 1);
		EQ(si.si_code, SI_TIMER);
		EQ(si.si_value.sival_int, 4711);
	}
	CHECK(!timer_gettime(odd, &now));
	EQ(now.it_interval.tv_sec, 1000);
	EQ(now.it_interval.tv_nsec, 1);
	CHECK(now.it_value.tv_sec > 6900 && now.it_value.tv_sec <= 7000);
	CHECK(!timer_gettime(off, &now));
	EQ(now.it_value.tv_sec, 0);
	EQ(now.it_value.tv_nsec, 0);
	CHECK(!timer_gettime(abs_, &now));
	CHECK(now.it_value.tv_sec > 8900 && now.it_value.tv_sec <= 9000);
	CHECK(!timer_delete(odd) && !timer_delete(mono) && !timer_delete(off) && !timer_delete(abs_));
	// New timers must not meet the restored ones.
	CHECK(!timer_create(CLOCK_MONOTONIC, &ev, &odd));
	ok();
}
