// SPDX-License-Identifier: Apache-2.0 OR MIT
// Pipes: content, size, flags, both ends in one task and over a fork, an end closed.
#include "subject.h"

static int shared[2];

static void reader(void)
{
	char buf[16] = "";
	close(shared[1]);
	here_until_go();
	EQ(read(shared[0], buf, sizeof(buf)), 6);
	STREQ(buf, "family");
	EQ(read(shared[0], buf, sizeof(buf)), 0);
}

static void subject(int argc, char **argv)
{
	static char fill[70000], back[70000];
	int big[2], empty[2], orphan[2], direct[2], full[2];
	for (int i = 0; i < (int)sizeof(fill); i++)
		fill[i] = i * 13;
	CHECK(!pipe(shared));
	CHECK(write(shared[1], "family", 6) == 6);
	pid_t pid = child(reader);
	close(shared[0]);
	CHECK(!pipe2(big, O_NONBLOCK) && !pipe2(empty, O_NONBLOCK | O_CLOEXEC));
	CHECK(fcntl(big[1], F_SETPIPE_SZ, 262144) == 262144);
	CHECK(write(big[1], fill, sizeof(fill)) == sizeof(fill));
	CHECK(!pipe2(orphan, O_NONBLOCK));
	CHECK(write(orphan[1], "left", 4) == 4);
	close(orphan[1]);
	CHECK(!pipe2(full, O_NONBLOCK));
	CHECK(fcntl(full[1], F_SETPIPE_SZ, 4096) == 4096);
	CHECK(write(full[1], fill, 4096) == 4096);
	CHECK(write(full[1], fill, 1) == -1 && errno == EAGAIN);
	CHECK(!pipe2(direct, O_NONBLOCK));
	int dupd = dup(big[0]);

	ready();

	EQ(fcntl(big[0], F_GETPIPE_SZ), 262144);
	EQ(fcntl(full[0], F_GETPIPE_SZ), 4096);
	EQ(read(dupd, back, sizeof(back)), sizeof(back));
	CHECK(!memcmp(fill, back, sizeof(fill)));
	CHECK(read(big[0], back, 1) == -1 && errno == EAGAIN);
	EQ(fcntl(empty[0], F_GETFD), FD_CLOEXEC);
	EQ(fcntl(empty[0], F_GETFL), O_RDONLY | O_NONBLOCK);
	CHECK(read(empty[0], back, 1) == -1 && errno == EAGAIN);
	EQ(read(orphan[0], back, 10), 4);
	EQ(read(orphan[0], back, 10), 0);
	CHECK(write(full[1], fill, 1) == -1 && errno == EAGAIN);
	EQ(read(full[0], back, 5000), 4096);
	EQ(write(direct[1], "x", 1), 1);
	EQ(read(direct[0], back, 2), 1);
	close(shared[1]);
	reap(pid);
	ok();
}
