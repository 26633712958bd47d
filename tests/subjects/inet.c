// SPDX-License-Identifier: Apache-2.0 OR MIT
// TCP listeners (v4, v6, options) and UDP sockets: bound, connected, free.
#include "subject.h"
#include "sockopt.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static struct sockaddr_in v4(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static struct sockaddr_in6 v6(int port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	return a;
}

static void subject(int argc, char **argv)
{
	struct sockaddr_in a = v4(4001), b = v4(5001), c = v4(5002);
	struct sockaddr_in6 a6 = v6(4006), any6 = v6(4007);
	any6.sin6_addr = (struct in6_addr)IN6ADDR_ANY_INIT;
	char buf[64] = "";
	int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	set(l, SOL_SOCKET, SO_REUSEADDR, 1);
	set(l, IPPROTO_TCP, TCP_NODELAY, 1);
	set(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	set(l, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(l, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set(l, IPPROTO_TCP, TCP_KEEPINTVL, 11);
	set(l, IPPROTO_TCP, TCP_KEEPCNT, 4);
	set(l, SOL_SOCKET, SO_RCVBUF, 20000);
	set(l, SOL_SOCKET, SO_PRIORITY, 3);
	CHECK(!bind(l, (void *)&a, sizeof(a)) && !listen(l, 21));
	int l6 = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	set(l6, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	SETUP_OR_SKIP(!bind(l6, (void *)&a6, sizeof(a6)) && !listen(l6, 5));
	int both = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(!bind(both, (void *)&any6, sizeof(any6)) && !listen(both, 5));
	int unbound = socket(AF_INET, SOCK_STREAM, 0), udp_free = socket(AF_INET, SOCK_DGRAM, 0);
	int u1 = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), u2 = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	set(u1, SOL_SOCKET, SO_BROADCAST, 1);
	set(u1, IPPROTO_IP, IP_TTL, 33);
	CHECK(!bind(u1, (void *)&b, sizeof(b)) && !bind(u2, (void *)&c, sizeof(c)));
	CHECK(!connect(u1, (void *)&c, sizeof(c)));
	int u6 = socket(AF_INET6, SOCK_DGRAM, 0);
	struct sockaddr_in6 b6 = v6(5006);
	CHECK(!bind(u6, (void *)&b6, sizeof(b6)));

	ready();

	EQ(fcntl(l, F_GETFD), FD_CLOEXEC);
	CHECK(fcntl(l, F_GETFL) & O_NONBLOCK);
	EQ(opt(l, SOL_SOCKET, SO_ACCEPTCONN), 1);
	EQ(opt(l, SOL_SOCKET, SO_REUSEADDR), 1);
	EQ(opt(l, SOL_SOCKET, SO_KEEPALIVE), 1);
	EQ(opt(l, IPPROTO_TCP, TCP_KEEPIDLE), 77);
	EQ(opt(l, IPPROTO_TCP, TCP_KEEPINTVL), 11);
	EQ(opt(l, IPPROTO_TCP, TCP_KEEPCNT), 4);
	EQ(opt(l, IPPROTO_TCP, TCP_NODELAY), 1);
	EQ(opt(l, SOL_SOCKET, SO_RCVBUF), 40000);
	EQ(opt(l, SOL_SOCKET, SO_PRIORITY), 3);
	EQ(opt(l6, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	EQ(opt(both, IPPROTO_IPV6, IPV6_V6ONLY), 0);
	EQ(opt(u1, SOL_SOCKET, SO_BROADCAST), 1);
	struct tcp_info ti;
	socklen_t tl = sizeof(ti);
	CHECK(!getsockopt(l, IPPROTO_TCP, TCP_INFO, &ti, &tl));
	EQ(ti.tcpi_sacked, 21); // the backlog
	int fds[] = { l, l6, both };
	for (int i = 0; i < 3; i++) {
		struct sockaddr_in6 port6 = v6(i == 1 ? 4006 : 4007);
		int s = socket(i ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
		CHECK(!connect(s, i ? (void *)&port6 : (void *)&a, i ? sizeof(port6) : sizeof(a)));
		int t = accept4(fds[i], 0, 0, 0);
		CHECK(t >= 0 && write(s, "via tcp", 7) == 7);
		EQ(read(t, buf, sizeof(buf)), 7);
		close(s);
		close(t);
	}
	struct sockaddr_in peer;
	socklen_t pl = sizeof(peer);
	CHECK(!getpeername(u1, (void *)&peer, &pl));
	EQ(ntohs(peer.sin_port), 5002);
	EQ(write(u1, "datagram", 8), 8);
	EQ(read(u2, buf, sizeof(buf)), 8);
	pl = sizeof(b6);
	CHECK(!getsockname(u6, (void *)&b6, &pl));
	EQ(ntohs(b6.sin6_port), 5006);
	CHECK(!connect(unbound, (void *)&a, sizeof(a)));
	EQ(sendto(udp_free, "x", 1, 0, (void *)&c, sizeof(c)), 1);
	EQ(read(u2, buf, sizeof(buf)), 1);
	if (argc > 2)
		EQ(opt(u1, IPPROTO_IP, IP_TTL), 33);
	ok();
}
