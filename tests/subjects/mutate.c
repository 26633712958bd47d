// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory that changes all the time, by every means that tracking could miss. What it has to be is in a file that is
// mapped shared: no image has that, so old pages cannot agree with old expectations. Argument: a seed.
#include "subject.h"
#include <malloc.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define REGIONS 24
#define PAGES 64

enum kind { NONE, ANON, HUGE, FILE_COW, HEAP };

struct region {
	enum kind kind;
	char *at;
	int pages, prot;
	uint64_t uid;
	// What each page holds: 0 what it began with, else a pattern of this number.
	uint64_t gen[PAGES];
};

static struct state {
	uint64_t random, gens, uids, steps;
	struct region r[REGIONS];
} *s;

static char *places; // address space to put regions at: PAGES and a gap for each
static int cow_fd, scratch;

static uint64_t rnd(uint64_t n)
{
	s->random ^= s->random << 13, s->random ^= s->random >> 7, s->random ^= s->random << 17;
	return s->random % n;
}

static uint64_t word(uint64_t gen, int j)
{
	uint64_t x = gen * 0x9e3779b97f4a7c15ull + j;
	return (x ^ x >> 31) * 0xbf58476d1ce4e5b9ull;
}

static void pattern(uint64_t gen, uint64_t *q)
{
	for (int j = 0; j < 512; j++)
		q[j] = word(gen, j);
}

// What page `i` of `r` has to hold, pattern `gen`.
static void expected(struct region *r, int i, uint64_t gen, uint64_t *q)
{
	if (gen)
		pattern(gen, q);
	else if (r->kind == FILE_COW)
		pattern(1000000000 + i, q);
	else
		memset(q, 0, 4096);
}

static void check(struct region *r, uint64_t *gens, const char *who)
{
	uint64_t want[512];
	CHECK(!mprotect(r->at, r->pages * 4096ul, PROT_READ | PROT_WRITE));
	for (int i = 0; i < r->pages; i++) {
		uint64_t *got = (uint64_t *)(r->at + i * 4096ul);
		expected(r, i, gens[i], want);
		for (int j = 0; j < 512; j++)
			if (got[j] != want[j])
				BAD("%s: region %d kind %d at %p page %d of %d word %d: %#lx, not %#lx (pattern %lu) "
				    "step %lu",
				    who, (int)(r - s->r), r->kind, r->at, i, r->pages, j, (long)got[j],
				    (long)want[j], (long)gens[i], (long)s->steps);
	}
	CHECK(!mprotect(r->at, r->pages * 4096ul, r->prot));
}

static void writable(struct region *r)
{
	if (r->prot == (PROT_READ | PROT_WRITE))
		return;
	r->prot = PROT_READ | PROT_WRITE;
	CHECK(!mprotect(r->at, r->pages * 4096ul, r->prot));
}

static void write_page(struct region *r, int i)
{
	uint64_t q[512], gen = ++s->gens;
	char *to = r->at + i * 4096ul;
	writable(r);
	pattern(gen, q);
	struct iovec from = { q, 4096 }, into = { to, 4096 };
	switch (rnd(4)) {
	case 0: // by the kernel
		CHECK(pwrite(scratch, q, 4096, 0) == 4096 && pread(scratch, to, 4096, 0) == 4096);
		break;
	case 1: // as another process would
		CHECK(syscall(SYS_process_vm_writev, getpid(), &from, 1ul, &into, 1ul, 0ul) == 4096);
		break;
	default:
		memcpy(to, q, 4096);
	}
	r->gen[i] = gen;
}

static char *place(struct region *r)
{
	return places + (r - s->r) * (PAGES + 1) * 4096ul;
}

static void new_region(struct region *r)
{
	memset(r->gen, 0, sizeof(r->gen));
	r->prot = PROT_READ | PROT_WRITE, r->uid = ++s->uids;
	int kind = 1 + rnd(3);
	r->pages = kind == HUGE ? PAGES : 1 + rnd(PAGES);
	int flags = MAP_PRIVATE | MAP_FIXED | (kind == FILE_COW ? 0 : MAP_ANONYMOUS);
	r->at = mmap(place(r), r->pages * 4096ul, r->prot, flags, kind == FILE_COW ? cow_fd : -1, 0);
	CHECK(r->at != MAP_FAILED);
	if (kind == HUGE)
		madvise(r->at, r->pages * 4096ul, MADV_HUGEPAGE);
	r->kind = kind;
}

static void drop(struct region *r)
{
	if (r->kind == HEAP)
		return;
	r->kind = NONE;
	CHECK(mmap(r->at, r->pages * 4096ul, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
		   0) == r->at);
}

static void dont_need(struct region *r)
{
	int from = rnd(r->pages), n = 1 + rnd(r->pages - from);
	munlock(r->at, r->pages * 4096ul);
	CHECK(!madvise(r->at + from * 4096ul, n * 4096ul, MADV_DONTNEED));
	for (int i = from; i < from + n; i++)
		r->gen[i] = 0;
	if (rnd(2) && r->prot != PROT_NONE) // there again, as they began
		for (int i = from; i < from + n; i++)
			*(volatile char *)(r->at + i * 4096ul);
	if (rnd(3) == 0)
		write_page(r, from);
}

// To the place of a region that is not there, and often back.
static void move(struct region *r, int leave)
{
	struct region *to = &s->r[1 + rnd(REGIONS - 1)];
	if (to->kind != NONE || r->kind == HEAP || r == to)
		return;
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (leave ? MREMAP_DONTUNMAP : 0);
	char *old = r->at, *new = place(to);
	if (mremap(old, r->pages * 4096ul, r->pages * 4096ul, flags, new) != new) {
		CHECK(leave); // not for mappings of files on older kernels
		return;
	}
	struct region moved = *r;
	if (leave) {
		memset(r->gen, 0, sizeof(r->gen));
	} else {
		r->kind = NONE;
		CHECK(mmap(old, r->pages * 4096ul, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == old);
	}
	*to = moved;
	to->at = new;
}

// Two regions change their places, page by page alike: the worst for whoever looks at addresses only.
static void swap(struct region *a)
{
	struct region *b = &s->r[1 + rnd(REGIONS - 1)];
	if (a == b || a->kind != ANON || b->kind != ANON || a->pages != b->pages)
		return;
	static char *spare;
	size_t len = a->pages * 4096ul;
	if (!spare)
		spare = mmap(0, PAGES * 4096ul, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	CHECK(mremap(a->at, len, len, flags, spare) == spare);
	CHECK(mremap(b->at, len, len, flags, a->at) == a->at);
	CHECK(mremap(spare, len, len, flags, b->at) == b->at);
	CHECK(mmap(spare, PAGES * 4096ul, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
	      spare);
	struct region c = *a;
	char *at_a = a->at, *at_b = b->at;
	*a = *b, *b = c;
	a->at = at_a, b->at = at_b;
}

static void resize(struct region *r)
{
	int pages = 1 + rnd(PAGES);
	if (r->kind == HEAP) {
		CHECK(sbrk((pages - r->pages) * 4096l) != (void *)-1);
	} else if (r->kind == ANON && pages < r->pages) {
		CHECK(mremap(r->at, r->pages * 4096ul, pages * 4096ul, 0) == r->at);
		CHECK(mmap(r->at + pages * 4096ul, (r->pages - pages) * 4096ul, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED);
	} else if (r->kind == ANON && pages > r->pages) {
		char *end = r->at + r->pages * 4096ul;
		CHECK(!munmap(end, (pages - r->pages) * 4096ul));
		CHECK(mremap(r->at, r->pages * 4096ul, pages * 4096ul, 0) == r->at);
	} else {
		return;
	}
	for (int i = r->pages; i < PAGES; i++)
		r->gen[i] = 0;
	for (int i = pages; i < PAGES; i++)
		r->gen[i] = 0;
	r->pages = pages;
}

static void protect(struct region *r)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	r->prot = prots[rnd(3)];
	CHECK(!mprotect(r->at, r->pages * 4096ul, r->prot));
}

// A child changes its copy and looks at it for a while; meanwhile we change ours now and then.
static void fork_off(struct region *r)
{
	static uint64_t gens[PAGES];
	writable(r);
	memcpy(gens, r->gen, sizeof(gens));
	int mine = rnd(r->pages), theirs = rnd(r->pages);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		struct region copy = *r;
		for (int n = 0; n < 5; n++) {
			gens[theirs] = 5000000000ull + n;
			pattern(gens[theirs], (uint64_t *)(r->at + theirs * 4096ul));
			msleep(3);
			for (int i = 0; i < copy.pages; i++) {
				uint64_t want[512];
				expected(&copy, i, gens[i], want);
				if (memcmp(want, copy.at + i * 4096ul, 4096))
					_exit(77);
			}
		}
		_exit(0);
	}
	write_page(r, mine);
	int status;
	while (waitpid(pid, &status, 0) < 0)
		CHECK(errno == EINTR);
	EQ(status, 0);
}

static void step(void)
{
	struct region *r = &s->r[rnd(REGIONS)];
	s->steps++;
	if (r->kind == NONE) {
		if (rnd(2))
			new_region(r);
		return;
	}
	switch (rnd(24)) {
	case 0: drop(r); break;
	case 1: dont_need(r); break;
	case 2: move(r, 0); break;
	case 3: move(r, r->kind == ANON); break;
	case 4: swap(r); break;
	case 5: resize(r); break;
	case 6: protect(r); break;
	case 7: if (rnd(8) == 0) fork_off(r); break;
	case 8: if (r->prot != PROT_NONE) rnd(2) ? mlock(r->at, r->pages * 4096ul) : munlock(r->at, r->pages * 4096ul); break;
	case 9: check(r, r->gen, "on the way"); break;
	default: write_page(r, rnd(r->pages)); break;
	}
}

static void spin(void)
{
	for (int n = rnd(40); n > 0; n--)
		step();
	if (rnd(4) == 0)
		msleep(1);
}

static void subject(int argc, char **argv)
{
	uint64_t seed = argc > 2 ? strtoull(argv[2], 0, 10) : 1, q[512];
	compare_maps = 0;
	int fd = open(in_dir("model"), O_RDWR | O_CREAT | O_TRUNC, 0666);
	CHECK(fd >= 0 && !ftruncate(fd, sizeof(*s)));
	s = mmap(0, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(s != MAP_FAILED);
	s->random = seed * 0x9e3779b97f4a7c15ull | 1;
	cow_fd = open(in_dir("cow"), O_RDWR | O_CREAT | O_TRUNC, 0666);
	scratch = open(in_dir("scratch"), O_RDWR | O_CREAT | O_TRUNC, 0666);
	CHECK(cow_fd >= 0 && scratch >= 0);
	for (int i = 0; i < PAGES; i++) {
		pattern(1000000000 + i, q);
		CHECK(write(cow_fd, q, 4096) == 4096);
	}
	places = mmap(0, REGIONS * (PAGES + 1) * 4096ul, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(places != MAP_FAILED);
	// malloc has enough for itself, and does not ask for more behind what is ours of the heap.
	mallopt(M_MMAP_THRESHOLD, 16 << 20), mallopt(M_TRIM_THRESHOLD, 1 << 30);
	void *volatile some = malloc(4 << 20);
	free(some);
	struct region *heap = &s->r[0];
	heap->at = sbrk((4096 - (uintptr_t)sbrk(0) % 4096) % 4096) ? sbrk(4 * 4096) : 0;
	heap->kind = HEAP, heap->pages = 4, heap->prot = PROT_READ | PROT_WRITE;
	for (int i = 0; i < 2000; i++)
		step();
	ready_while(spin);
	for (int i = 0; i < REGIONS; i++)
		if (s->r[i].kind != NONE)
			check(&s->r[i], s->r[i].gen, "after all");
	ok();
}
