// SPDX-License-Identifier: Apache-2.0 OR MIT
// Sockets of all kinds in a user namespace, whose buffers somebody outside makes as large as
// nobody may from within; one has more queued than the limit allows.
//
//   sk_force DIR ["poll"]     poll: and SO_PREFER_BUSY_POLL, which only the outside may set
//   sk_force DIR empty none   nothing is queued
#include "subject.h"
#include "sockopt.h"
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/un.h>

static const int names[] = { SO_SNDBUF, SO_RCVBUF, 69 /* SO_PREFER_BUSY_POLL */ };
enum { SOCKETS = 8, PACKET = 60000 };

static int value(int s, int name)
{
	int v = -1;
	socklen_t l = sizeof(v);
	return getsockopt(s, SOL_SOCKET, name, &v, &l) ? -1 : v;
}

static void subject(int argc, char **argv)
{
	int s[SOCKETS], is[SOCKETS][3], sent = 0, count = argc == 3 ? 3 : 2;
	static char packet[PACKET];
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	(void)argv;
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, s + 2));
	s[4] = socket(AF_INET, SOCK_DGRAM, 0);
	s[5] = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(!bind(s[5], (void *)&a, sizeof(a)) && !listen(s[5], 1));
	s[6] = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	s[7] = socket(AF_PACKET, SOCK_DGRAM, 0);
	CHECK(s[4] >= 0 && s[6] >= 0 && s[7] >= 0);

	mark("made");
	await("done");
	for (int i = 0; i < SOCKETS; i++)
		for (int n = 0; n < count; n++)
			is[i][n] = value(s[i], names[n]);
	// More than twice the limit, which counts doubled.
	while (argc < 4 && send(s[2], packet, PACKET, MSG_DONTWAIT) == PACKET && sent < 12000000)
		sent += PACKET;
	CHECK(argc == 4 || sent >= 12000000);

	ready();

	for (int i = 0; i < SOCKETS; i++)
		for (int n = 0; n < count; n++)
			if (value(s[i], names[n]) != is[i][n])
				BAD("socket %d: option %d is %d, not %d", i, names[n],
				    value(s[i], names[n]), is[i][n]);
	while (sent > 0) {
		ssize_t r = recv(s[3], packet, PACKET, MSG_DONTWAIT);
		CHECK(r > 0);
		sent -= r;
	}
	EQ(sent, 0);
	ok();
}
