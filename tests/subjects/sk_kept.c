// SPDX-License-Identifier: Apache-2.0 OR MIT
// State of sockets that is easily lost without a word. One kind per call, named by the argument.
#include "subject.h"
#include "sockopt.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static const char *what;
#define IS(name) (!strcmp(what, name))

static struct sockaddr_in local(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int bound(int type, int port)
{
	struct sockaddr_in a = local(port);
	int s = socket(AF_INET, type, 0);
	set(s, SOL_SOCKET, SO_REUSEADDR, 1);
	CHECK(!bind(s, (void *)&a, sizeof(a)));
	return s;
}

// What is sent by way of lo may still be in the hands of ksoftirqd.
static int comes(int s)
{
	struct pollfd p = { .fd = s, .events = POLLIN };
	return poll(&p, 1, 1000) == 1;
}

// Sends to a group by way of lo, and says whether it came.
static int arrives(int s, const char *group, const char *from)
{
	struct sockaddr_in me, to = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(group) };
	struct in_addr lo = { htonl(INADDR_LOOPBACK) };
	struct sockaddr_in source = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(from) };
	socklen_t l = sizeof(me);
	char buf[16];
	int out = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(!getsockname(s, (void *)&me, &l) && !bind(out, (void *)&source, sizeof(source)));
	to.sin_port = me.sin_port;
	CHECK(!setsockopt(out, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof(lo)));
	CHECK(sendto(out, "x", 1, 0, (void *)&to, sizeof(to)) == 1);
	close(out);
	return comes(s) && recv(s, buf, sizeof(buf), MSG_DONTWAIT) == 1;
}

static int multicast(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(5353) };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(!bind(s, (void *)&any, sizeof(any)));
	set(s, IPPROTO_IP, IP_MULTICAST_ALL, 0);
	if (IS("group4")) {
		struct ip_mreqn m = { .imr_multiaddr.s_addr = inet_addr("224.0.0.251"), .imr_ifindex = 1 };
		SETUP_OR_SKIP(!setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)));
		CHECK(arrives(s, "224.0.0.251", "127.0.0.1"));
		ready();
		CHECK(arrives(s, "224.0.0.251", "127.0.0.1"));
		CHECK(!setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &m, sizeof(m)));
	} else if (IS("group4_source")) {
		struct ip_mreq_source m = { .imr_multiaddr.s_addr = inet_addr("232.1.2.3"),
			.imr_interface.s_addr = htonl(INADDR_LOOPBACK), .imr_sourceaddr.s_addr = htonl(INADDR_LOOPBACK) };
		struct ip_mreqn all = { .imr_multiaddr.s_addr = inet_addr("224.7.7.7"), .imr_ifindex = 1 };
		struct ip_mreq_source block = { .imr_multiaddr.s_addr = inet_addr("224.7.7.7"),
			.imr_interface.s_addr = htonl(INADDR_LOOPBACK), .imr_sourceaddr.s_addr = inet_addr("127.0.0.5") };
		SETUP_OR_SKIP(!setsockopt(s, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &m, sizeof(m)));
		CHECK(!setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &all, sizeof(all)));
		CHECK(!setsockopt(s, IPPROTO_IP, IP_BLOCK_SOURCE, &block, sizeof(block)));
		ready();
		CHECK(arrives(s, "232.1.2.3", "127.0.0.1") && !arrives(s, "232.1.2.3", "127.0.0.2"));
		CHECK(arrives(s, "224.7.7.7", "127.0.0.1") && !arrives(s, "224.7.7.7", "127.0.0.5"));
	} else if (IS("group6")) {
		int s6 = socket(AF_INET6, SOCK_DGRAM, 0);
		struct ipv6_mreq m = { .ipv6mr_interface = 1 };
		inet_pton(AF_INET6, "ff02::fb", &m.ipv6mr_multiaddr);
		SETUP_OR_SKIP(!setsockopt(s6, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &m, sizeof(m)));
		ready();
		CHECK(setsockopt(s6, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &m, sizeof(m)) && errno == EADDRINUSE);
		CHECK(!setsockopt(s6, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &m, sizeof(m)));
	} else {
		close(s);
		return 0;
	}
	return 1;
}

static int pair(int *server, int *client, int listener)
{
	struct sockaddr_in a;
	socklen_t l = sizeof(a);
	CHECK(!getsockname(listener, (void *)&a, &l));
	*client = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(!connect(*client, (void *)&a, sizeof(a)));
	*server = accept(listener, NULL, NULL);
	return *server >= 0;
}

static int tcp(void)
{
	int s, a, b;
	char buf[32] = "";
	socklen_t l = sizeof(buf);
	if (IS("md5")) {
		struct tcp_md5sig sig = { .tcpm_keylen = 3, .tcpm_key = "abc" };
		struct sockaddr_in peer = local(0);
		memcpy(&sig.tcpm_addr, &peer, sizeof(peer));
		s = bound(SOCK_STREAM, 7001);
		SETUP_OR_SKIP(!setsockopt(s, IPPROTO_TCP, TCP_MD5SIG, &sig, sizeof(sig)));
		CHECK(!listen(s, 5));
		// Only who signs alike is heard.
		int c = socket(AF_INET, SOCK_STREAM, 0), unsigned_one;
		struct sockaddr_in to = local(7001);
		CHECK(!setsockopt(c, IPPROTO_TCP, TCP_MD5SIG, &sig, sizeof(sig)));
		CHECK(!connect(c, (void *)&to, sizeof(to)));
		a = accept(s, NULL, NULL);
		ready();
		CHECK(write(c, "signed", 6) == 6 && read(a, buf, sizeof(buf)) == 6);
		unsigned_one = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		CHECK(connect(unsigned_one, (void *)&to, sizeof(to)) && errno == EINPROGRESS);
		struct pollfd p = { .fd = unsigned_one, .events = POLLOUT };
		EQ(poll(&p, 1, 300), 0);
		b = socket(AF_INET, SOCK_STREAM, 0);
		CHECK(!setsockopt(b, IPPROTO_TCP, TCP_MD5SIG, &sig, sizeof(sig)));
		CHECK(!connect(b, (void *)&to, sizeof(to)));
	} else if (IS("ulp")) {
		s = bound(SOCK_STREAM, 7002);
		CHECK(!listen(s, 5) && pair(&a, &b, s));
		SETUP_OR_SKIP(!setsockopt(a, IPPROTO_TCP, TCP_ULP, "tls", 3));
		ready();
		CHECK(!getsockopt(a, IPPROTO_TCP, TCP_ULP, buf, &l));
		STREQ(buf, "tls");
	} else if (IS("mptcp") || IS("mptcp_connected")) {
		struct sockaddr_in at = local(7009), bound_at = local(7010);
		int only_bound = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), plain, multi, early, late;
		s = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
		SETUP_OR_SKIP(s >= 0);
		set(s, IPPROTO_TCP, TCP_NODELAY, 1);
		set(s, SOL_SOCKET, SO_REUSEADDR, 1);
		CHECK(!bind(s, (void *)&at, sizeof(at)) && !listen(s, 5));
		CHECK(!bind(only_bound, (void *)&bound_at, sizeof(bound_at)));
		multi = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
		early = socket(AF_INET, SOCK_STREAM, 0);
		CHECK(!connect(early, (void *)&at, sizeof(at)));
		late = accept(s, NULL, NULL);
		if (IS("mptcp_connected")) {
			CHECK(!connect(multi, (void *)&at, sizeof(at)));
			a = accept(s, NULL, NULL);
		}
		ready();
		if (IS("mptcp_connected")) {
			EQ(write(multi, "x", 1), 1);
			EQ(read(a, buf, 1), 1);
			return 1;
		}
		EQ(opt(s, SOL_SOCKET, SO_PROTOCOL), IPPROTO_MPTCP);
		EQ(opt(s, SOL_SOCKET, SO_ACCEPTCONN), 1);
		EQ(opt(s, IPPROTO_TCP, TCP_NODELAY), 1);
		EQ(opt(s, SOL_SOCKET, SO_REUSEADDR), 1);
		EQ(write(early, "y", 1), 1);
		EQ(read(late, buf, 1), 1);
		// Those who know nothing of it, and those who do.
		plain = socket(AF_INET, SOCK_STREAM, 0);
		CHECK(!connect(plain, (void *)&at, sizeof(at)));
		a = accept(s, NULL, NULL);
		EQ(opt(a, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
		CHECK(!connect(multi, (void *)&at, sizeof(at)));
		b = accept(s, NULL, NULL);
		EQ(opt(b, SOL_SOCKET, SO_PROTOCOL), IPPROTO_MPTCP);
		EQ(write(multi, "x", 1), 1);
		EQ(read(b, buf, 1), 1);
		l = sizeof(bound_at);
		CHECK(!getsockname(only_bound, (void *)&bound_at, &l));
		EQ(ntohs(bound_at.sin_port), 7010);
		CHECK(!listen(only_bound, 5));
	} else if (IS("fastopen")) {
		s = bound(SOCK_STREAM, 7003);
		CHECK(!listen(s, 5));
		set(s, IPPROTO_TCP, TCP_FASTOPEN, 9);
		ready();
		EQ(opt(s, IPPROTO_TCP, TCP_FASTOPEN), 9);
	} else if (IS("maxseg")) {
		s = bound(SOCK_STREAM, 7004);
		set(s, IPPROTO_TCP, TCP_MAXSEG, 777);
		CHECK(!listen(s, 5));
		EQ(opt(s, IPPROTO_TCP, TCP_MAXSEG), 777);
		ready();
		EQ(opt(s, IPPROTO_TCP, TCP_MAXSEG), 777);
	} else if (IS("window_clamp")) {
		s = bound(SOCK_STREAM, 7005);
		set(s, IPPROTO_TCP, TCP_WINDOW_CLAMP, 30000);
		CHECK(!listen(s, 5));
		int before = opt(s, IPPROTO_TCP, TCP_WINDOW_CLAMP);
		ready();
		EQ(opt(s, IPPROTO_TCP, TCP_WINDOW_CLAMP), before);
	} else {
		return 0;
	}
	return 1;
}

static int others(void)
{
	int s, t;
	if (IS("reuseport")) {
		s = socket(AF_INET, SOCK_STREAM, 0), t = socket(AF_INET, SOCK_STREAM, 0);
		struct sockaddr_in a = local(7010);
		set(s, SOL_SOCKET, SO_REUSEPORT, 1), set(t, SOL_SOCKET, SO_REUSEPORT, 1);
		CHECK(!bind(s, (void *)&a, sizeof(a)) && !bind(t, (void *)&a, sizeof(a)) && !listen(s, 5) && !listen(t, 5));
		ready();
		EQ(opt(s, SOL_SOCKET, SO_REUSEPORT), 1);
		EQ(opt(t, SOL_SOCKET, SO_REUSEPORT), 1);
		int u = socket(AF_INET, SOCK_STREAM, 0);
		set(u, SOL_SOCKET, SO_REUSEPORT, 1);
		CHECK(!bind(u, (void *)&a, sizeof(a)) && !listen(u, 5));
	} else if (IS("reuseport_cbpf")) {
		struct sock_filter code[] = { { BPF_RET | BPF_K, 0, 0, 0 } };
		struct sock_fprog prog = { 1, code };
		struct sockaddr_in a = local(7011);
		int n = 0;
		s = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET, SOCK_DGRAM, 0);
		set(s, SOL_SOCKET, SO_REUSEPORT, 1), set(t, SOL_SOCKET, SO_REUSEPORT, 1);
		CHECK(!bind(s, (void *)&a, sizeof(a)) && !setsockopt(s, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &prog, sizeof(prog)));
		CHECK(!bind(t, (void *)&a, sizeof(a)));
		ready();
		for (int i = 0; i < 32; i++) {
			char c;
			int out = socket(AF_INET, SOCK_DGRAM, 0);
			CHECK(sendto(out, "x", 1, 0, (void *)&a, sizeof(a)) == 1);
			close(out);
			n += recv(t, &c, 1, MSG_DONTWAIT) == 1;
		}
		EQ(n, 0);
	} else if (IS("transparent")) {
		struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(7012), .sin_addr.s_addr = inet_addr("9.8.7.6") };
		s = socket(AF_INET, SOCK_STREAM, 0);
		set(s, IPPROTO_IP, IP_TRANSPARENT, 1);
		CHECK(!bind(s, (void *)&a, sizeof(a)) && !listen(s, 5));
		ready();
		EQ(opt(s, IPPROTO_IP, IP_TRANSPARENT), 1);
	} else if (IS("device")) {
		char name[16] = "";
		socklen_t l = sizeof(name);
		s = bound(SOCK_DGRAM, 7013);
		CHECK(!setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
		ready();
		CHECK(!getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, name, &l));
		STREQ(name, "lo");
	} else if (IS("udp_gro")) {
		s = bound(SOCK_DGRAM, 7014);
		set(s, IPPROTO_UDP, 104, 1);
		set(s, IPPROTO_UDP, 103, 500);
		ready();
		EQ(opt(s, IPPROTO_UDP, 104), 1);
		EQ(opt(s, IPPROTO_UDP, 103), 500);
	} else if (IS("txtime")) {
		struct { int clock; unsigned flags; } v = { CLOCK_MONOTONIC, 2 }, got = { 0, 0 };
		socklen_t l = sizeof(got);
		s = bound(SOCK_DGRAM, 7015);
		SETUP_OR_SKIP(!setsockopt(s, SOL_SOCKET, SO_TXTIME, &v, sizeof(v)));
		ready();
		CHECK(!getsockopt(s, SOL_SOCKET, SO_TXTIME, &got, &l));
		EQ(got.clock, v.clock);
		EQ(got.flags, v.flags);
	} else if (IS("incoming_cpu")) {
		s = bound(SOCK_STREAM, 7016);
		set(s, SOL_SOCKET, SO_INCOMING_CPU, 1);
		CHECK(!listen(s, 4));
		ready();
		EQ(opt(s, SOL_SOCKET, SO_INCOMING_CPU), 1);
	} else if (IS("other_ns")) {
		CHECK(!unshare(CLONE_NEWNET));
		s = socket(AF_INET, SOCK_STREAM, 0);
		int back = open("/proc/1/ns/net", O_RDONLY);
		CHECK(back >= 0 && !setns(back, CLONE_NEWNET));
		close(back);
		ready();
	} else {
		return 0;
	}
	return 1;
}

static int udp_to(int port)
{
	struct sockaddr_in a = local(port);
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(!connect(s, (void *)&a, sizeof(a)));
	return s;
}

// Whether what `c` sends comes to `s`, and the answer back.
static int talk(int c, int s)
{
	char x;
	struct sockaddr_in a;
	socklen_t l = sizeof(a);
	return send(c, "x", 1, 0) == 1 && comes(s) && recvfrom(s, &x, 1, 0, (void *)&a, &l) == 1 &&
	       sendto(s, "y", 1, 0, (void *)&a, sizeof(a)) == 1 && comes(c) && recv(c, &x, 1, 0) == 1 && x == 'y';
}

// A connection that is translated: only its tracking knows how, when the rules are gone. (One rule
// is left, without which nothing is tracked.)
static void nat(void)
{
	// Tracked for longer than a slow machine needs.
	SETUP_OR_SKIP(!system("nft add table ip n && nft add chain ip n o '{ type nat hook output priority -100; }' && \
		nft add chain ip n p '{ type nat hook postrouting priority 100; }' && \
		nft add chain ip n i '{ type nat hook input priority 100; }' && \
		nft add chain ip n r '{ type nat hook prerouting priority -100; }' && \
		nft add rule ip n i ct state established accept && \
		nft add rule ip n o udp dport 7021 dnat to 127.0.0.1:7020 && \
		nft add rule ip n p udp dport 7020 snat to 127.0.0.9:7022 && \
		echo 3600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout"));
	int s = bound(SOCK_DGRAM, 7020), c = udp_to(7021);
	CHECK(talk(c, s));
	CHECK(!system("nft flush chain ip n o; nft flush chain ip n p"));
	CHECK(talk(c, s));
	ready();
	CHECK(talk(c, s));
}

static void subject(int argc, char **argv)
{
	what = argc > 2 ? argv[2] : "";
	if (system("ip link set lo up"))
		BAD("lo does not come up");
	if (IS("nat"))
		nat();
	else if (!multicast() && !tcp() && !others())
		BAD("no such kind: %s", what);
	ok();
}
