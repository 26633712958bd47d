// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory shared by tasks: anonymous, memfd with seals and flags, mapped in several ways.
#include "subject.h"

static char *shared;
static int mfd;

static void other(void)
{
	char *again = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, mfd, 0);
	CHECK(again != MAP_FAILED);
	here_until_go();
	STREQ(shared + 5 * 4096, "before");
	strcpy(shared + 9 * 4096, "from the child");
	STREQ(again + 4096, "in memfd");
	strcpy(again + 2 * 4096, "child to memfd");
	mark("written");
}

static void subject(int argc, char **argv)
{
	struct stat st;
	shared = mmap(0, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	strcpy(shared + 5 * 4096, "before");
	CHECK(!munmap(shared + 20 * 4096, 4096)); // a hole in it
	CHECK(!mprotect(shared + 30 * 4096, 4096, PROT_READ));
	mfd = memfd_create("named", MFD_ALLOW_SEALING);
	CHECK(!ftruncate(mfd, 65536) && pwrite(mfd, "in memfd", 8, 4096) == 8);
	char *map = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, mfd, 0);
	char *priv = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE, mfd, 0);
	strcpy(priv + 4096, "private");
	int sealed = memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	CHECK(write(sealed, "frozen", 6) == 6 && lseek(sealed, 2, SEEK_SET) == 2);
	CHECK(!fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
	char *sealedmap = argc < 3 ? "frozen" : mmap(0, 4096, PROT_READ, MAP_SHARED, sealed, 0);
	int unsealable = memfd_create("other", 0);
	CHECK(!fchmod(mfd, 0640));
	int ro = open(strcat(strcpy((char[64]){ 0 }, "/proc/self/fd/"), (char[4]){ '0' + mfd, 0 }), O_RDONLY);
	CHECK(ro >= 0);
	pid_t pid = child(other);

	ready();

	await("written");
	STREQ(shared + 9 * 4096, "from the child");
	STREQ(map + 2 * 4096, "child to memfd");
	STREQ(priv + 4096, "private");
	CHECK(!strcmp(fd_link(mfd), "/memfd:named (deleted)"));
	CHECK(!fstat(mfd, &st));
	EQ(st.st_mode & 07777, 0640);
	EQ(st.st_size, 65536);
	EQ(fcntl(mfd, F_GET_SEALS), 0);
	EQ(fcntl(sealed, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	EQ(fcntl(sealed, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(unsealable, F_GET_SEALS), F_SEAL_SEAL);
	EQ(lseek(sealed, 0, SEEK_CUR), 2);
	EQ(fcntl(ro, F_GETFL) & O_ACCMODE, O_RDONLY);
	CHECK(!memcmp(sealedmap, "frozen", 6));
	CHECK(write(sealed, "x", 1) == -1 && errno == EPERM);
	reap(pid);
	ok();
}
