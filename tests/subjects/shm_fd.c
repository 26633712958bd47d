// SPDX-License-Identifier: Apache-2.0 OR MIT
// Descriptors of anonymous shared memory, of a segment that is mapped and of one that is not.
#include "subject.h"

static int open_mapped(void *at, size_t size)
{
	char path[96];
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)at, (long)at + size);
	int fd = open(path, O_RDWR);
	SETUP_OR_SKIP(fd >= 0);
	return fd;
}

static void *shared(size_t size)
{
	void *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(at != MAP_FAILED);
	return at;
}

static void subject(int argc, char **argv)
{
	char text[16];
	struct stat a;
	char *map = shared(3 * 4096);
	strcpy(map + 4096, "mapped");
	int fd = open_mapped(map, 3 * 4096);
	char *gone = shared(4096);
	int alone = open_mapped(gone, 4096);
	munmap(gone, 4096);
	EQ(ftruncate(alone, 0), 0);
	EQ(fcntl(alone, F_SETFL, O_APPEND), 0);
	EQ(write(alone, "alone", 5), 5);
	EQ(lseek(alone, 3, SEEK_SET), 3);
	ready();
	EQ(pread(fd, text, 7, 4096), 7);
	STREQ(text, "mapped");
	EQ(pwrite(fd, "written", 8, 8192), 8);
	STREQ(map + 8192, "written");
	EQ(fstat(fd, &a), 0);
	EQ(a.st_size, 3 * 4096);
	EQ(lseek(alone, 0, SEEK_CUR), 3);
	EQ(fcntl(alone, F_GETFL) & O_APPEND, O_APPEND);
	EQ(read(alone, text, 16), 2);
	EQ(pread(alone, text, 16, 0), 5);
	CHECK(!memcmp(text, "alone", 5));
	CHECK(!strcmp(fd_link(fd), "/dev/zero (deleted)") || strstr(fd_link(fd), "memfd"));
	ok();
}
