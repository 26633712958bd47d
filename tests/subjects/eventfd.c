// SPDX-License-Identifier: Apache-2.0 OR MIT
// eventfd counters: value, flags, duplicates; with "semaphore": read by ones,
// with "big": a counter of 64 bits.
#include "subject.h"
#include <sys/eventfd.h>

static void semaphore(void)
{
	uint64_t v;
	int sem = eventfd(3, EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(sem >= 0);
	ready();
	EQ(fcntl(sem, F_GETFD), FD_CLOEXEC);
	for (int i = 0; i < 3; i++) {
		CHECK(read(sem, &v, 8) == 8);
		EQ(v, 1);
	}
	CHECK(read(sem, &v, 8) == -1 && errno == EAGAIN);
	ok();
}

static void big(void)
{
	uint64_t v = 0xfffffffffffffffeull;
	int fd = eventfd(0, EFD_NONBLOCK);
	CHECK(write(fd, &v, 8) == 8);
	ready();
	CHECK(write(fd, &(uint64_t){ 1 }, 8) == -1 && errno == EAGAIN);
	CHECK(read(fd, &v, 8) == 8);
	EQ(v, 0xfffffffffffffffeull);
	ok();
}

static void subject(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[2], "semaphore"))
		semaphore();
	if (argc > 2 && !strcmp(argv[2], "big"))
		big();
	int plain = eventfd(7, EFD_NONBLOCK);
	int zero = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	int dupd = dup(plain);
	uint64_t v;
	CHECK(plain >= 0 && zero >= 0 && dupd >= 0);

	ready();

	EQ(fcntl(plain, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	EQ(fcntl(zero, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(plain, F_GETFD), 0);
	CHECK(read(dupd, &v, 8) == 8);
	EQ(v, 7);
	CHECK(read(plain, &v, 8) == -1 && errno == EAGAIN);
	CHECK(read(zero, &v, 8) == -1 && errno == EAGAIN);
	ok();
}
