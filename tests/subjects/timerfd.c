// SPDX-License-Identifier: Apache-2.0 OR MIT
// timerfd: periodic with ticks not yet read ("unread": all of them counted), far away, absolute, disarmed, several clocks.
#include "subject.h"
#include <sys/timerfd.h>

static void subject(int argc, char **argv)
{
	struct itimerspec s, g;
	uint64_t ticks;
	int tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), far = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC);
	int off = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK), once = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	int absolute = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
	CHECK(tick >= 0 && far >= 0 && off >= 0 && once >= 0 && absolute >= 0);
	int unread = argc > 2;
	// A first tick that falls after the restore, unless unread ticks are the point.
	s = (struct itimerspec){ { 0, 5000000 }, { unread ? 0 : 3, 1000000 } };
	CHECK(!timerfd_settime(tick, 0, &s, 0));
	s = (struct itimerspec){ { 11, 12 }, { 4000, 13 } };
	CHECK(!timerfd_settime(far, 0, &s, 0));
	s = (struct itimerspec){ { 0, 0 }, { 0, 1000 } };
	CHECK(!timerfd_settime(once, 0, &s, 0));
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	s = (struct itimerspec){ { 0, 0 }, { now.tv_sec + 5000, 0 } };
	CHECK(!timerfd_settime(absolute, TFD_TIMER_ABSTIME, &s, 0));
	msleep(60);
	ready();
	struct pollfd ready_ = { tick, POLLIN };
	EQ(poll(&ready_, 1, 5000), 1);
	EQ(read(tick, &ticks, 8), 8);
	if (ticks < (unread ? 10 : 1))
		BAD("%d ticks left of 12", (int)ticks);
	msleep(30);
	EQ(read(tick, &ticks, 8), 8);
	CHECK(ticks >= 3);
	EQ(fcntl(far, F_GETFD), FD_CLOEXEC);
	CHECK(!timerfd_gettime(far, &g));
	EQ(g.it_interval.tv_sec, 11);
	EQ(g.it_interval.tv_nsec, 12);
	CHECK(g.it_value.tv_sec > 3900 && g.it_value.tv_sec <= 4000);
	CHECK(!timerfd_gettime(off, &g));
	CHECK(!g.it_value.tv_sec && !g.it_value.tv_nsec);
	EQ(read(once, &ticks, 8), 8);
	EQ(ticks, 1);
	CHECK(read(once, &ticks, 8) == -1 && errno == EAGAIN);
	CHECK(!timerfd_gettime(absolute, &g));
	CHECK(g.it_value.tv_sec > 4900 && g.it_value.tv_sec <= 5000);
	ok();
}
