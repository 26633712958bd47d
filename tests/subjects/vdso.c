// SPDX-License-Identifier: Apache-2.0 OR MIT
// The vdso through pointers taken before: clock_gettime, gettimeofday, time, getcpu in a busy thread.
#include "subject.h"
#include <dlfcn.h>

static int (*gettime)(clockid_t, struct timespec *);
static int (*timeofday)(struct timeval *, void *);
static atomic_int go, running;

static void *busy(void *arg)
{
	struct timespec last = { 0 }, t;
	atomic_store(&running, 1);
	while (!atomic_load(&go)) {
		CHECK(!gettime(CLOCK_MONOTONIC, &t));
		CHECK(t.tv_sec > last.tv_sec || (t.tv_sec == last.tv_sec && t.tv_nsec >= last.tv_nsec));
		last = t;
	}
	return 0;
}

static void subject(int argc, char **argv)
{
	pthread_t th;
	struct timespec mono, later, real;
	struct timeval tv;
	void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	if (!vdso)
		SKIP("no vdso");
	gettime = dlsym(vdso, "__vdso_clock_gettime");
	timeofday = dlsym(vdso, "__vdso_gettimeofday");
	CHECK(gettime && timeofday);
	// A thread that is just in an old vdso may not go on in another.
	int quiet = argc > 2 && !strcmp(argv[2], "quiet");
	compare_maps = !quiet; // one more vdso comes
	if (!quiet) {
		CHECK(!pthread_create(&th, 0, busy, 0));
		while (!atomic_load(&running))
			msleep(1);
	}
	CHECK(!gettime(CLOCK_MONOTONIC, &mono));
	ready();
	CHECK(!gettime(CLOCK_MONOTONIC, &later));
	CHECK(later.tv_sec >= mono.tv_sec && later.tv_sec - mono.tv_sec < 120);
	syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
	CHECK(!timeofday(&tv, 0));
	CHECK(labs(tv.tv_sec - real.tv_sec) <= 1);
	atomic_store(&go, 1);
	CHECK(quiet || !pthread_join(th, 0));
	ok();
}
