// SPDX-License-Identifier: Apache-2.0 OR MIT
// Subject of scripts/bench: so many MiB of a kind of contents, or so many of something else.
// Says "ready PID" when all is there; on SIGUSR1 checks its memory and says "ok" or "bad".
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static unsigned long seed;

static unsigned long next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

// One page: what heaps look like (zeroes, small numbers, pointers, names), noise, or nothing.
static void fill(unsigned long *page, unsigned long n, const char *kind)
{
	static const char names[4][9] = {"com/acme", "handler\0", "user\0\0\0\0", "timeout\0"};
	seed = n * 0x9e3779b97f4a7c15ul + 1;
	for (int i = 0; i < 512; i++) {
		unsigned long r = next();
		if (*kind == 'r')
			page[i] = r;
		else if (*kind == 'z')
			page[i] = 0;
		else if (r % 16 < 5)
			page[i] = 0;
		else if (r % 16 < 8)
			page[i] = r >> 8 & 1023;
		else if (r % 16 < 12)
			page[i] = 0x7f3a00000000ul | (r >> 16 & 0xfffff8);
		else
			memcpy(page + i, names[r >> 9 & 3], 8);
	}
}

static void *idle(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void nothing(int signo)
{
	(void)signo;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 3 ? argv[3] : "heap";
	unsigned long mib = 0, many = 0, page[512];
	int out = argc > 1 ? open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0644) : 1;
	int null = open("/dev/null", O_RDWR);
	char say[32];

	if (argc > 2)
		mib = many = strtoul(argv[2], 0, 10);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close(null);
	if (!strcmp(kind, "threads") || !strcmp(kind, "procs") || !strcmp(kind, "fds") || !strcmp(kind, "vmas"))
		mib = 0;
	unsigned long *mem = mib ? mmap(0, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : 0;
	for (unsigned long n = 0; n < mib << 8; n++)
		fill(mem + n * 512, n, kind);
	for (unsigned long n = 0; !mib && n < many; n++) {
		pthread_attr_t small;
		pthread_t thread;
		if (*kind == 'f') {
			n & 1 ? eventfd(n, 0) : open("/etc/passwd", O_RDONLY);
		} else if (*kind == 'v') {
			char *two = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			*two = 1;
			mprotect(two + 4096, 4096, PROT_READ);
		} else if (*kind == 'p') {
			if (!fork()) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				idle(0);
			}
		} else {
			pthread_attr_init(&small);
			pthread_attr_setstacksize(&small, 1 << 16);
			pthread_create(&thread, &small, idle, 0);
		}
	}
	struct sigaction act = {.sa_handler = nothing};
	sigset_t usr1;
	int got;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigaction(SIGUSR1, &act, 0);
	sigprocmask(SIG_BLOCK, &usr1, 0);
	if (write(out, say, snprintf(say, sizeof say, "ready %d\n", getpid())) < 0)
		return 1;
	sigwait(&usr1, &got);
	for (unsigned long n = 0; n < mib << 8; n++) {
		fill(page, n, kind);
		if (memcmp(page, mem + n * 512, 4096)) {
			(void)!write(out, "bad\n", 4);
			return 1;
		}
	}
	(void)!write(out, "ok\n", 3);
	for (;;)
		pause();
}
