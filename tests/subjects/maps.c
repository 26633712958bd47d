// SPDX-License-Identifier: Apache-2.0 OR MIT
// Private memory: protections, holes, files mapped private and shared, changed pages, flags of areas.
// "big": and so much that a dump finds out about all this without smaps.
#include "subject.h"

#define P 4096

// The VmFlags of the area that holds `p`.
static int has_flag(void *p, const char *flag)
{
	static char raw[1 << 20];
	slurp("/proc/self/smaps", raw, sizeof(raw));
	unsigned long s = 0, e = 0;
	for (char *line = raw; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : 0) {
		unsigned long a, b;
		char dash;
		if (sscanf(line, "%lx%c%lx ", &a, &dash, &b) == 3 && dash == '-')
			s = a, e = b;
		if ((unsigned long)p >= s && (unsigned long)p < e && !strncmp(line, "VmFlags:", 8)) {
			char buf[512], want[8];
			snprintf(buf, sizeof(buf), "%.*s ", (int)strcspn(line, "\n"), line);
			snprintf(want, sizeof(want), " %s ", flag);
			return !!strstr(buf, want);
		}
	}
	BAD("no area at %p", p);
	return 0;
}

static char *anon(size_t pages, int prot, int flags)
{
	char *p = mmap(0, pages * P, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

static void subject(int argc, char **argv)
{
	char path[PATH_MAX];
	int rw = PROT_READ | PROT_WRITE;
	char *parts = anon(8, rw, 0);
	for (int i = 0; i < 8; i++)
		memset(parts + i * P, 'a' + i, P);
	CHECK(!mprotect(parts + P, P, PROT_READ) && !mprotect(parts + 2 * P, P, PROT_NONE));
	CHECK(!mprotect(parts + 3 * P, P, PROT_READ | PROT_EXEC) && !mprotect(parts + 4 * P, P, rw | PROT_EXEC));
	CHECK(!munmap(parts + 5 * P, P));
	char *sparse = anon(4096, rw, 0);
	for (int i = 0; i < 4096; i += 3)
		*(int *)(sparse + (size_t)i * P + 8) = i;
	char *guarded = anon(3, PROT_NONE, 0);
	CHECK(!mprotect(guarded + P, P, rw));
	strcpy(guarded + P, "between guards");

	strcpy(path, in_dir("mapped"));
	int fd = open(path, O_RDWR | O_CREAT, 0644);
	CHECK(!ftruncate(fd, 16 * P) && pwrite(fd, "in the file", 11, 5 * P) == 11);
	char *fpriv = mmap(0, 8 * P, rw, MAP_PRIVATE, fd, 4 * P);
	char *fshared = mmap(0, 8 * P, rw, MAP_SHARED, fd, 0);
	char *fro = mmap(0, 4 * P, PROT_READ, MAP_SHARED, fd, 8 * P);
	strcpy(fpriv + 2 * P, "private change");
	strcpy(fshared + 3 * P, "shared change");
	close(fd);
	int rofd = open(path, O_RDONLY);
	char *beyond = mmap(0, 64 * P, rw, MAP_PRIVATE, rofd, 0); // past the end of the file
	beyond[0] = 'B';
	close(rofd);

	char *dontfork = anon(2, rw, 0), *nodump = anon(2, rw, 0), *merge = anon(2, rw, 0), *wipe = anon(2, rw, 0);
	char *seq = anon(2, rw, 0), *rnd = anon(2, rw, 0), *norsv = anon(2, rw, MAP_NORESERVE), *huge = anon(1024, rw, 0);
	CHECK(!madvise(dontfork, 2 * P, MADV_DONTFORK) && !madvise(nodump, 2 * P, MADV_DONTDUMP));
	int ksm = !madvise(merge, 2 * P, MADV_MERGEABLE);
	CHECK(!madvise(wipe, 2 * P, MADV_WIPEONFORK));
	CHECK(!madvise(seq, 2 * P, MADV_SEQUENTIAL) && !madvise(rnd, 2 * P, MADV_RANDOM));
	int thp = !madvise(huge, 1024 * P, MADV_HUGEPAGE);
	strcpy(dontfork, "dontfork"), strcpy(nodump, "nodump"), strcpy(wipe, "wipe");
	char *locked = anon(3, rw, 0);
	int mlocked = !mlock(locked, 3 * P);
	char *onfault = anon(3, rw, 0);

	char *down = mmap(0, 4 * P, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
	CHECK(down != MAP_FAILED);
	strcpy(down + 2 * P, "grows down");
	char *big = mmap(0, 1ull << 40, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(big != MAP_FAILED);
	strcpy(big + (7ull << 30), "far inside"), strcpy(big + (1ull << 40) - P, "at the end");
	closedir(opendir("/")); // what ready() will need of the heap
	char *brk0 = sbrk(0);
	strcpy(sbrk(300 * P), "on the heap");
	char *brk1 = sbrk(0);
	(void)onfault;
	if (argc > 2 && !strcmp(argv[2], "big"))
		memset(anon(96 << 8, rw, 0), 7, 96 << 20);

	ready();

	for (int i = 0; i < 8; i++) {
		if (i == 2 || i == 5)
			continue;
		CHECK(parts[i * P] == 'a' + i && parts[i * P + P - 1] == 'a' + i);
	}
	CHECK(!mprotect(parts + 2 * P, P, PROT_READ) && parts[2 * P + 5] == 'c');
	CHECK(mprotect(parts + 5 * P, P, PROT_READ) == -1 && errno == ENOMEM);
	for (int i = 0; i < 4096; i++)
		EQ(*(int *)(sparse + (size_t)i * P + 8), i % 3 ? 0 : i);
	STREQ(guarded + P, "between guards");
	STREQ(fpriv + 2 * P, "private change");
	STREQ(fpriv + P, "in the file");
	STREQ(fshared + 5 * P, "in the file");
	STREQ(fshared + 3 * P, "shared change");
	fd = open(path, O_RDWR);
	CHECK(pwrite(fd, "seen", 4, 9 * P) == 4);
	CHECK(!memcmp(fro + P, "seen", 4));
	CHECK(fpriv[5 * P] == 's'); // an untouched private page still shows the file
	strcpy(fshared + 6 * P, "through");
	char buf[16];
	CHECK(pread(fd, buf, 8, 6 * P) == 8 && !strcmp(buf, "through"));
	CHECK(pread(fd, buf, 1, 0) == 1 && buf[0] == 0); // beyond[0] was private
	EQ(beyond[0], 'B');
	STREQ(dontfork, "dontfork");
	STREQ(nodump, "nodump");
	STREQ(wipe, "wipe");
	CHECK(has_flag(dontfork, "dc") && has_flag(nodump, "dd"));
	CHECK(has_flag(wipe, "wf"));
	if (ksm)
		CHECK(has_flag(merge, "mg"));
	if (thp)
		CHECK(has_flag(huge, "hg"));
	CHECK(has_flag(seq, "sr") && has_flag(rnd, "rr") && has_flag(norsv, "nr"));
	if (mlocked)
		CHECK(has_flag(locked, "lo"));
	CHECK(has_flag(down, "gd"));
	STREQ(down + 2 * P, "grows down");
	STREQ(big + (7ull << 30), "far inside");
	STREQ(big + (1ull << 40) - P, "at the end");
	CHECK(has_flag(big, "nr"));
	CHECK(sbrk(0) == brk1);
	STREQ(brk0, "on the heap");
	CHECK(sbrk(10 * P) == brk1);
	brk1[10 * P - 1] = 1;
	CHECK(brk(brk1) == 0);
	ok();
}
