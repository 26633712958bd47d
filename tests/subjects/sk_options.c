// SPDX-License-Identifier: Apache-2.0 OR MIT
// Options CRIU's images have no room for ("options"), names of senders ("senders"), else
// netlink and raw sockets.
#include "subject.h"
#include "sockopt.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

static void options(void)
{
	int t = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET6, SOCK_DGRAM, 0), x = socket(AF_UNIX, SOCK_DGRAM, 0);
	set(t, SOL_SOCKET, SO_TIMESTAMP, 1);
	set(t, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
	set(t, IPPROTO_TCP, TCP_SYNCNT, 3);
	set(u, IPPROTO_IPV6, IPV6_RECVERR, 1);
	set(u, IPPROTO_IPV6, IPV6_TCLASS, 0x20);
	set(u, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
	set(x, SOL_SOCKET, SO_PEEK_OFF, 3);

	ready();

	EQ(opt(t, SOL_SOCKET, SO_TIMESTAMP), 1);
	EQ(opt(t, SOL_SOCKET, SO_TIMESTAMPNS), 0);
	EQ(opt(t, IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
	EQ(opt(t, IPPROTO_TCP, TCP_SYNCNT), 3);
	EQ(opt(u, IPPROTO_IPV6, IPV6_RECVERR), 1);
	EQ(opt(u, IPPROTO_IPV6, IPV6_TCLASS), 0x20);
	EQ(opt(u, IPPROTO_IP, IP_MTU_DISCOVER), IP_PMTUDISC_PROBE);
	EQ(opt(x, SOL_SOCKET, SO_PEEK_OFF), 3);
}

static int named(const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	strcpy(a.sun_path, name);
	if (*name)
		CHECK(!bind(s, (void *)&a, sizeof(a.sun_family) + strlen(name) + 1));
	return s;
}

static void senders(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = "to" }, from;
	const char *names[] = { "one", "", "two", "" };
	CHECK(!chdir(subject_dir));
	int s[4], r = named("to");
	for (int i = 0; i < 4; i++) {
		s[i] = named(names[i]);
		CHECK(sendto(s[i], names[i], strlen(names[i]), 0, (void *)&to, sizeof(to)) == (int)strlen(names[i]));
	}

	ready();

	for (int i = 0; i < 4; i++) {
		char buf[64] = "";
		socklen_t l = sizeof(from);
		memset(&from, 0, sizeof(from));
		EQ(recvfrom(r, buf, sizeof(buf), 0, (void *)&from, &l), (int)strlen(names[i]));
		CHECK(!strcmp(buf, names[i]) && !strcmp(from.sun_path, names[i]));
	}
	CHECK(recv(r, &from, sizeof(from), 0) < 0 && errno == EAGAIN);
}

static void others(void)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK }, got;
	socklen_t l = sizeof(got);
	int n = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE), unbound = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	CHECK(!bind(n, (void *)&a, sizeof(a)));
	CHECK(!getsockname(n, (void *)&a, &l));
	int raw = socket(AF_INET, SOCK_RAW, 200), icmp = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
	struct sockaddr_in lo = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, bound;
	set(raw, IPPROTO_IP, IP_HDRINCL, 1);
	CHECK(!bind(raw, (void *)&lo, sizeof(lo)));

	ready();

	l = sizeof(got);
	CHECK(!getsockname(n, (void *)&got, &l));
	EQ(got.nl_pid, a.nl_pid);
	EQ(got.nl_groups, a.nl_groups);
	EQ(opt(n, SOL_SOCKET, SO_PROTOCOL), NETLINK_ROUTE);
	l = sizeof(got);
	CHECK(!getsockname(unbound, (void *)&got, &l));
	EQ(got.nl_pid, 0);
	l = sizeof(bound);
	CHECK(!getsockname(raw, (void *)&bound, &l));
	EQ(bound.sin_addr.s_addr, lo.sin_addr.s_addr);
	EQ(opt(raw, SOL_SOCKET, SO_PROTOCOL), 200);
	EQ(opt(raw, IPPROTO_IP, IP_HDRINCL), 1);
	EQ(opt(icmp, SOL_SOCKET, SO_PROTOCOL), IPPROTO_ICMPV6);
}

static void subject(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[2] : "";
	if (!strcmp(what, "options"))
		options();
	else if (!strcmp(what, "senders"))
		senders();
	else
		others();
	ok();
}
