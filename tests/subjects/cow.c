// SPDX-License-Identifier: Apache-2.0 OR MIT
// Private pages shared by parent and child since fork are one page each still, and part when written.
#include "subject.h"
#define N 256

static char *area;

static uint64_t pfn(char *p)
{
	uint64_t e = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pread(fd, &e, 8, (uintptr_t)p / 4096 * 8) != 8)
		e = 0;
	close(fd);
	return e & ((1ull << 55) - 1);
}

static void report(const char *name)
{
	uint64_t all[N];
	for (int i = 0; i < N; i++)
		all[i] = pfn(area + i * 4096);
	int fd = open(in_dir(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(write(fd, all, sizeof(all)) == sizeof(all));
	close(fd);
}

static void other(void)
{
	strcpy(area + 3 * 4096, "child's own");
	here_until_go();
	STREQ(area + 3 * 4096, "child's own");
	for (int i = 4; i < N; i++)
		EQ(*(int *)(area + i * 4096 + 64), i);
	report("pfn.child");
	mark("told");
	await("seen");
	strcpy(area + 10 * 4096, "changed by child");
	mark("changed");
}

static void subject(int argc, char **argv)
{
	area = mmap(0, N * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(!madvise(area, N * 4096, MADV_NOHUGEPAGE) || errno == EINVAL);
	for (int i = 0; i < N; i++)
		*(int *)(area + i * 4096 + 64) = i;
	pid_t pid = child(other);
	strcpy(area + 2 * 4096, "parent's own");

	ready();

	await("told");
	report("pfn.parent");
	uint64_t mine[N], theirs[N];
	int fd = open(in_dir("pfn.parent"), O_RDONLY);
	CHECK(read(fd, mine, sizeof(mine)) == sizeof(mine));
	close(fd);
	fd = open(in_dir("pfn.child"), O_RDONLY);
	CHECK(read(fd, theirs, sizeof(theirs)) == sizeof(theirs));
	close(fd);
	STREQ(area + 2 * 4096, "parent's own");
	if (mine[5])
		for (int i = 4; i < N; i++)
			CHECK(mine[i] && mine[i] == theirs[i]);
	mark("seen");
	await("changed");
	EQ(area[10 * 4096], 0);
	reap(pid);
	ok();
}
