// SPDX-License-Identifier: Apache-2.0 OR MIT
// epoll: data, events, edge and one-shot, nested, a target that was duplicated and closed.
#include "subject.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void add(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = { events, { .u64 = data } };
	CHECK(!epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

static void subject(int argc, char **argv)
{
	int p[2], q[2];
	struct epoll_event got[8];
	CHECK(!pipe(p) && !pipe(q));
	int ep = epoll_create1(EPOLL_CLOEXEC), outer = epoll_create1(0), empty = epoll_create1(0);
	int oneshot = eventfd(5, 0), edge = eventfd(1, 0), plain = eventfd(0, 0);
	add(ep, p[0], EPOLLIN | EPOLLPRI, 0x1122334455667788ull);
	add(ep, q[1], EPOLLOUT | EPOLLET, 2);
	add(ep, plain, EPOLLIN, 3);
	add(outer, ep, EPOLLIN, 42);
	add(outer, oneshot, EPOLLIN | EPOLLONESHOT, 43);
	EQ(epoll_wait(outer, got, 8, 0), 2); // fires the one shot
	int gone = eventfd(0, 0);
	if (argc > 2) {
		// The open file stays in the set as long as a duplicate lives.
		int kept = dup(gone);
		add(ep, gone, EPOLLIN, 77);
		close(gone);
		dup2(kept, 200);
		close(kept);
	}
	(void)edge;

	ready();

	EQ(fcntl(ep, F_GETFD), FD_CLOEXEC);
	EQ(epoll_wait(empty, got, 8, 0), 0);
	CHECK(write(p[1], "x", 1) == 1);
	EQ(epoll_wait(outer, got, 8, 1000), 1); // the one shot stays quiet
	EQ(got[0].data.u64, 42);
	int n = epoll_wait(ep, got, 8, 0), in = 0;
	for (int i = 0; i < n; i++)
		if (got[i].data.u64 == 0x1122334455667788ull) {
			in++;
			EQ(got[i].events, EPOLLIN);
		} else {
			EQ(got[i].data.u64, 2);
		}
	EQ(in, 1);
	struct epoll_event again = { EPOLLIN | EPOLLONESHOT, { .u64 = 44 } };
	CHECK(!epoll_ctl(outer, EPOLL_CTL_MOD, oneshot, &again));
	CHECK(read(p[0], got, 1) == 1);
	n = epoll_wait(outer, got, 8, 0);
	for (int i = 0; i < n; i++)
		if (got[i].data.u64 == 44)
			in++;
	EQ(in, 2);
	if (argc > 2) {
		CHECK(write(200, &(uint64_t){ 1 }, 8) == 8);
		n = epoll_wait(ep, got, 8, 0);
		for (int i = 0; i < n; i++)
			if (got[i].data.u64 == 77)
				in++;
		EQ(in, 3);
	}
	CHECK(!epoll_ctl(ep, EPOLL_CTL_DEL, plain, 0));
	CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, edge, 0) == -1 && errno == ENOENT);
	ok();
}
