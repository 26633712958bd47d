// SPDX-License-Identifier: Apache-2.0 OR MIT
// Descriptors in flight in unix sockets (SCM_RIGHTS): a file, a pipe with content, a socket in itself, an epoll.
#include "subject.h"
#include <sys/epoll.h>

static void pass(int sock, const char *text, int *fds, int n)
{
	char control[CMSG_SPACE(8 * sizeof(int))] = { 0 };
	struct iovec io = { (void *)text, strlen(text) };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * 4) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(n * 4);
	memcpy(CMSG_DATA(c), fds, n * 4);
	EQ(sendmsg(sock, &m, 0), strlen(text));
}

static int take(int sock, const char *text, int *fds)
{
	char control[CMSG_SPACE(8 * sizeof(int))], buf[64] = "";
	struct iovec io = { buf, sizeof(buf) - 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	EQ(recvmsg(sock, &m, MSG_CMSG_CLOEXEC), strlen(text));
	STREQ(buf, text);
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (!c)
		return 0;
	int n = (c->cmsg_len - CMSG_LEN(0)) / 4;
	memcpy(fds, CMSG_DATA(c), n * 4);
	return n;
}

static void subject(int argc, char **argv)
{
	int dg[2], sq[2], p[2], fds[8];
	char buf[64] = "";
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dg));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sq));
	CHECK(!pipe(p) && write(p[1], "in flight", 9) == 9);
	int file = open(in_dir("passed"), O_RDWR | O_CREAT, 0600);
	CHECK(write(file, "0123456789", 10) == 10 && lseek(file, 6, SEEK_SET) == 6);
	pass(dg[0], "two", (int[]){ file, p[0] }, 2);
	close(file);
	close(p[0]);
	EQ(write(dg[0], "plain", 5), 5);
	pass(sq[0], "stream", (int[]){ p[1] }, 1);
	int epoll = argc > 2 && !strcmp(argv[2], "epoll");
	if (epoll) {
		struct epoll_event e = { .events = EPOLLIN, .data.u64 = 77 };
		int ep = epoll_create1(0);
		CHECK(!epoll_ctl(ep, EPOLL_CTL_ADD, sq[1], &e));
		pass(dg[0], "epoll", &ep, 1);
		close(ep);
	} else if (argc > 2)
		pass(dg[0], "itself", (int[]){ dg[1] }, 1);

	ready();

	EQ(take(dg[1], "two", fds), 2);
	EQ(lseek(fds[0], 0, SEEK_CUR), 6);
	EQ(read(fds[1], buf, sizeof(buf)), 9);
	STREQ(buf, "in flight");
	int more[8];
	EQ(take(dg[1], "plain", more), 0);
	EQ(take(sq[1], "stream", more), 1);
	EQ(write(p[1], "again", 5), 5);
	EQ(read(fds[1], buf, sizeof(buf)), 5);
	close(p[1]);
	EQ(write(more[0], "last", 4), 4);
	EQ(read(fds[1], buf, sizeof(buf)), 4);
	if (epoll) {
		struct epoll_event e;
		EQ(take(dg[1], "epoll", more), 1);
		EQ(epoll_wait(more[0], &e, 1, 0), 0);
		EQ(write(sq[0], "x", 1), 1);
		EQ(epoll_wait(more[0], &e, 1, 2000), 1);
		EQ(e.data.u64, 77);
	} else if (argc > 2) {
		EQ(take(dg[1], "itself", more), 1);
		EQ(write(dg[0], "loop", 4), 4);
		EQ(read(more[0], buf, sizeof(buf)), 4);
	}
	ok();
}
