// SPDX-License-Identifier: Apache-2.0 OR MIT
// Clocks go on from where they stood, whatever became of the machine.
#include "subject.h"

static double now(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void subject(int argc, char **argv)
{
	// Past the vdso, the kernel itself.
	struct timespec raw;
	double mono = now(CLOCK_MONOTONIC), boot = now(CLOCK_BOOTTIME), real = now(CLOCK_REALTIME);
	ready();
	double m = now(CLOCK_MONOTONIC) - mono, b = now(CLOCK_BOOTTIME) - boot;
	double r = now(CLOCK_REALTIME) - real;
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &raw);
	if (m < 0 || m > r + 0.01 || b < 0 || b > r + 0.01)
		BAD("monotonic went on by %f, boot time by %f, in %f", m, b, r);
	double d = raw.tv_sec + raw.tv_nsec / 1e9 - mono - m;
	if (d < 0 || d > 1)
		BAD("vdso and kernel differ by %f", d);
	ok();
}
