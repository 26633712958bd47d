/* A process with one mapping of each kind, at fixed addresses: AT(n). Prints "ready" and ends with its stdin.
 * Every page that is touched begins with its own address. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#define P 4096ul
#define AT(n) ((char *)0x200000000000 + (n) * 0x10000000ul)
enum { RW = PROT_READ | PROT_WRITE, ANON = MAP_PRIVATE | MAP_ANONYMOUS };

static volatile char sink;
static void touch(char *p, int page) { *(uint64_t *)(p + page * P) = (uint64_t)(p + page * P); }
static void fill(char *p, int pages) { for (int i = 0; i < pages; i++) touch(p, i); }
static void look(char *p, int page) { sink = p[page * P]; }

static char *map(int n, size_t pages, int prot, int flags, int fd, off_t off)
{
	char *p = mmap(AT(n), pages * P, prot, flags | MAP_FIXED, fd, off);
	return p == MAP_FAILED ? NULL : p;
}

static void anonymous(int plain)
{
	char *p = map(1, 8, RW, ANON, -1, 0); touch(p, 0); touch(p, 3); look(p, 5);
	p = map(2, 4, RW, ANON, -1, 0); fill(p, 4); mprotect(p, 4 * P, PROT_READ);
	p = map(3, 4, RW, ANON, -1, 0); fill(p, 4); mprotect(p, 4 * P, PROT_NONE);
	mmap((char *)0x300000000000, 1ul << 40, RW, ANON | MAP_NORESERVE | MAP_FIXED, -1, 0); /* 1 TiB */
	map(4, 1 << 12, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
	p = map(5, 16, RW, ANON | MAP_NORESERVE, -1, 0); touch(p, 15);
	p = map(6, 16, RW, ANON | MAP_GROWSDOWN, -1, 0); touch(p, 15);
	p = map(7, 4, RW, ANON, -1, 0); mlock(p, 4 * P); fill(p, 4);
	p = map(8, 4, RW, ANON, -1, 0); mlock2(p, 4 * P, 1); touch(p, 0);
	p = map(9, 1024, RW, ANON, -1, 0); madvise(p, 1024 * P, MADV_DONTDUMP);
	madvise(p, 1024 * P, MADV_DONTFORK); madvise(p, 1024 * P, MADV_HUGEPAGE); fill(p, 512);
	p = map(10, 4, RW, ANON, -1, 0); madvise(p, 4 * P, MADV_NOHUGEPAGE); madvise(p, 4 * P, MADV_WIPEONFORK);
	madvise(p, 4 * P, MADV_MERGEABLE); touch(p, 0);
	p = map(11, 4, RW, ANON, -1, 0); fill(p, 4); mprotect(p, 4 * P, PROT_WRITE);
	p = map(12, 16, RW, ANON, -1, 0); fill(p, 16);
	madvise(p + 4 * P, 2 * P, 102); madvise(p + 8 * P, P, 102); /* MADV_GUARD_INSTALL */
	p = map(13, 1024, RW, ANON, -1, 0); madvise(p, 1024 * P, MADV_HUGEPAGE); look(p, 0); look(p, 600);
	p = map(14, 4, RW, MAP_ANONYMOUS | 8 /* MAP_DROPPABLE */, -1, 0); if (p) touch(p, 0);
	p = map(15, 4, RW, ANON, -1, 0); touch(p, 1); syscall(462 /* mseal */, p, 4 * P, 0);
	if (plain)
		return;
	p = map(16, 4, RW, ANON, -1, 0); touch(p, 1);
	int key = syscall(SYS_pkey_alloc, 0, 0);
	if (key > 0) syscall(SYS_pkey_mprotect, p, 4 * P, RW, key);
	p = map(17, 512, RW, ANON | MAP_HUGETLB, -1, 0); if (p) touch(p, 3);
	p = map(18, 1024, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0); if (p) touch(p, 515);
}

static void files(const char *dir)
{
	char name[4096], page[P];
	snprintf(name, sizeof name, "%s/mapped", dir);
	int rw = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644), ro = open(name, O_RDONLY);
	memset(page, 7, P);
	for (int i = 0; i < 20; i++) if (write(rw, page, P) != P) exit(2);
	char *p = map(20, 8, RW, MAP_PRIVATE, rw, P); look(p, 0); touch(p, 2);
	p = map(21, 8, PROT_READ, MAP_PRIVATE, ro, 0); look(p, 0);
	p = map(22, 8, RW, MAP_SHARED, rw, 0); look(p, 0);
	p = map(23, 8, PROT_READ, MAP_SHARED, ro, 2 * P); look(p, 0);
	p = map(24, 40, RW, MAP_PRIVATE, rw, 0); touch(p, 1); /* half of it is beyond the end */
	madvise(p, 2 * P, MADV_SEQUENTIAL); madvise(p + 2 * P, 2 * P, MADV_RANDOM);
	p = map(25, 8, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0); touch(p, 0); touch(p, 4);
	p = map(30, 8, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0); touch(p, 0);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, 8 * P, "shared name");
	p = map(31, 8, RW, ANON, -1, 0); touch(p, 0);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, 8 * P, "a name");
	int memfd = memfd_create("mine", 0);
	if (ftruncate(memfd, 16 * P + 100)) exit(2);
	p = map(26, 8, RW, MAP_SHARED, memfd, 4 * P); touch(p, 0); touch(p, 4);
	p = map(27, 17, RW, MAP_PRIVATE, memfd, 0); touch(p, 0); look(p, 4); look(p, 16);
	int zero = open("/dev/zero", O_RDWR);
	p = map(28, 8, RW, MAP_PRIVATE, zero, 0); touch(p, 0); look(p, 4);
	p = map(29, 8, RW, MAP_PRIVATE, rw, 0); fill(p, 8); madvise(p + P, P, 102);
	unsigned long context = 0;
	syscall(SYS_io_setup, 100, &context);
	close(rw); close(ro); close(memfd); close(zero);
}

int main(int argc, char **argv)
{
	int plain = 0; /* nothing of which the flags are not all there is to know */
	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "sysv")) {
			int id = shmget(IPC_PRIVATE, 4 * P, 0600);
			shmat(id, AT(40), 0); shmctl(id, IPC_RMID, NULL);
		} else if (!strcmp(argv[i], "secretmem")) {
			int fd = syscall(447, 0);
			if (fd < 0 || ftruncate(fd, P) || !map(41, 1, RW, MAP_SHARED, fd, 0)) return 3;
		} else if (!strcmp(argv[i], "ring")) {
			char params[120] = {0};
			int fd = syscall(425, 4, params);
			if (fd < 0 || mmap(NULL, P, RW, MAP_SHARED, fd, 0) == MAP_FAILED) return 3;
		} else if (!strncmp(argv[i], "mem=", 4)) {
			long pages = atol(argv[i] + 4);
			char *p = mmap(AT(50), pages * P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
			for (long at = 0; at < pages; at++) touch(p, at);
		} else if (!strncmp(argv[i], "scattered=", 10)) { /* every second page */
			long pages = atol(argv[i] + 10);
			char *p = mmap(AT(51), pages * P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
			madvise(p, pages * P, MADV_NOHUGEPAGE);
			for (long at = 0; at < pages; at += 2) touch(p, at);
		} else if (!strncmp(argv[i], "vmas=", 5)) { /* of one page each, not to be merged */
			for (long at = 0, n = atol(argv[i] + 5); at < n; at++) {
				char *p = mmap(AT(52) + at * P, P, at & 1 ? PROT_READ : RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
				if (!(at & 1)) touch(p, 0);
			}
		} else if (!strcmp(argv[i], "plain")) {
			plain = 1;
		} else if (!strcmp(argv[i], "kinds")) {
			anonymous(plain);
			files(argv[1]);
		}
	}
	puts("ready"); fflush(stdout);
	char c;
	return read(0, &c, 1) != 0;
}
