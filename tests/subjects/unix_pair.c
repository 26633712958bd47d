// SPDX-License-Identifier: Apache-2.0 OR MIT
// Unix socket pairs: queues of streams, datagrams and packets, shut down ends, options, a dead peer.
#include "subject.h"

static int over_fork[2];

static void other(void)
{
	char buf[32] = "";
	close(over_fork[0]);
	here_until_go();
	EQ(read(over_fork[1], buf, sizeof(buf)), 5);
	STREQ(buf, "hello");
	EQ(write(over_fork[1], "back", 4), 4);
}

static void subject(int argc, char **argv)
{
	int st[2], dg[2], sq[2], half[2], dead[2], big[2], cred[2], val;
	socklen_t len = sizeof(val);
	char buf[256] = "";
	static char bulk[100000], bulk2[100000];
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, over_fork));
	pid_t pid = child(other);
	close(over_fork[1]);
	CHECK(write(over_fork[0], "hello", 5) == 5);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, st));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dg));
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sq));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, half));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, dead));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, big));
	for (int i = 0; i < (int)sizeof(bulk); i++)
		bulk[i] = i * 11;
	EQ(write(big[0], bulk, sizeof(bulk)), sizeof(bulk));
	CHECK(write(st[0], "to one", 6) == 6 && write(st[1], "to zero", 7) == 7);
	CHECK(write(dg[0], "first", 5) == 5 && write(dg[0], "second one", 10) == 10);
	CHECK(write(sq[1], "packet", 6) == 6 && write(sq[1], "p2", 2) == 2);
	CHECK(write(half[0], "tail", 4) == 4 && !shutdown(half[0], SHUT_WR));
	CHECK(write(dead[0], "late", 4) == 4);
	close(dead[0]);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, cred));
	val = 1;
	CHECK(!setsockopt(cred[0], SOL_SOCKET, SO_PASSCRED, &val, len));
	val = 30000;
	CHECK(!setsockopt(st[1], SOL_SOCKET, SO_SNDBUF, &val, len));
	struct timeval tv = { 3, 500000 };
	CHECK(!setsockopt(st[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	int dupd = dup(st[0]);

	ready();

	EQ(fcntl(st[0], F_GETFD), FD_CLOEXEC);
	CHECK(fcntl(st[0], F_GETFL) & O_NONBLOCK);
	CHECK(!(fcntl(over_fork[0], F_GETFL) & O_NONBLOCK));
	CHECK(!getsockopt(cred[0], SOL_SOCKET, SO_PASSCRED, &val, &len));
	EQ(val, 1);
	CHECK(!getsockopt(st[1], SOL_SOCKET, SO_SNDBUF, &val, &len));
	EQ(val, 60000);
	len = sizeof(tv);
	CHECK(!getsockopt(st[1], SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
	EQ(tv.tv_sec, 3);
	EQ(tv.tv_usec, 500000);
	EQ(read(dupd, buf, 256), 7);
	STREQ(buf, "to zero");
	memset(buf, 0, sizeof(buf));
	EQ(read(st[1], buf, 256), 6);
	STREQ(buf, "to one");
	EQ(read(dg[1], buf, 256), 5);
	EQ(read(dg[1], buf, 256), 10);
	CHECK(!memcmp(buf, "second one", 10));
	CHECK(read(dg[1], buf, 256) == -1 && errno == EAGAIN);
	EQ(read(sq[0], buf, 256), 6);
	EQ(read(sq[0], buf, 256), 2);
	EQ(write(sq[0], "answer", 6), 6);
	EQ(read(sq[1], buf, 3), 3); // the rest of a packet is gone
	CHECK(read(sq[1], buf, 3) == -1);
	EQ(read(half[1], buf, 256), 4);
	EQ(read(half[1], buf, 256), 0);
	EQ(write(half[1], "other way", 9), 9);
	EQ(read(half[0], buf, 256), 9);
	signal(SIGPIPE, SIG_IGN);
	CHECK(write(half[0], "x", 1) == -1 && errno == EPIPE);
	EQ(read(dead[1], buf, 256), 4);
	EQ(read(dead[1], buf, 256), 0);
	CHECK(write(dead[1], "x", 1) == -1 && errno == EPIPE);
	int n = 0, r;
	while ((r = read(big[1], bulk2 + n, sizeof(bulk2) - n)) > 0)
		n += r;
	EQ(n, sizeof(bulk));
	CHECK(!memcmp(bulk, bulk2, n));
	memset(buf, 0, sizeof(buf));
	EQ(read(over_fork[0], buf, 256), 4);
	STREQ(buf, "back");
	reap(pid);
	ok();
}
