// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Both ends of a TCP connection, with more in both directions than the buffers take. The
// first end has granted a window that nothing has reached yet: from some moment on it lost
// what it was sent.
//
//   tcp_full DIR FAMILY ["mss" ["more"]]     mss: segments are as long as they were; more: the
//                                            buffers may have become larger
#include "subject.h"
#include "tcp_stream.h"
#include <linux/filter.h>
#include <sys/ioctl.h>

static struct end ends[2];

static int opt(int i, int level, int name)
{
	int v = -1;
	socklen_t l = sizeof(v);
	CHECK(!getsockopt(ends[i].fd, level, name, &v, &l));
	return v;
}

static void set(int fd, int level, int name, int v)
{
	CHECK(!setsockopt(fd, level, name, &v, sizeof(v)));
}

static void write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), n = strlen(text);
	CHECK(fd >= 0 && write(fd, text, n) == n);
	close(fd);
}

// In a user namespace nobody may force a buffer, but say how large they are made.
static void roomy(void)
{
	const int size = 12 << 20;
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size))) {
		EQ(errno, EPERM);
		write_to("/proc/sys/net/ipv4/tcp_rmem", "4096 12582912 12582912");
		write_to("/proc/sys/net/ipv4/tcp_wmem", "4096 12582912 12582912");
	}
	close(s);
}

static void force(int fd, int name)
{
	const int size = 4 << 20;
	CHECK(!setsockopt(fd, SOL_SOCKET, name, &size, sizeof(size)) || errno == EPERM);
}

static void connected(char family)
{
	roomy();
	union address a;
	socklen_t len = address_of(&a, family);
	int s = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	SETUP_OR_SKIP(s >= 0);
	set(s, SOL_SOCKET, SO_REUSEADDR, 1);
	SETUP_OR_SKIP(!bind(s, &a.sa, len));
	CHECK(!listen(s, 1));
	ends[1].fd = socket(a.sa.sa_family, SOCK_STREAM, 0);
	SETUP_OR_SKIP(!connect(ends[1].fd, &a.sa, len));
	ends[0].fd = accept(s, 0, 0);
	CHECK(ends[0].fd >= 0);
	close(s);
	// Whatever the limit is: 212992 by default before Linux 6.17.
	force(ends[0].fd, SO_RCVBUFFORCE);
	force(ends[0].fd, SO_SNDBUFFORCE);
}

// The end hears nothing any more, or again.
static void deaf(int i, int on)
{
	struct sock_filter none = { BPF_RET | BPF_K, 0, 0, 0 };
	struct sock_fprog prog = { 1, &none };
	int name = on ? SO_ATTACH_FILTER : SO_DETACH_FILTER;
	CHECK(!setsockopt(ends[i].fd, SOL_SOCKET, name, &prog, sizeof(prog)));
}

// All that the other end has sent arrives while that one reads nothing.
static void drain(int from)
{
	struct end *e = &ends[!from];
	for (int idle = 0; e->received < ends[from].sent && idle < 2000;) {
		long r = get(e);
		CHECK(r >= 0);
		if (r > 0)
			idle = 0;
		else
			idle++, usleep(5000);
	}
	EQ(e->received, ends[from].sent);
}

static void subject(int argc, char **argv)
{
	CHECK(argc >= 3 && argc <= 5);
	connected(argv[2][0]);
	for (int held = 0; held < 6000000;) {
		CHECK(put(&ends[1], 1000) >= 0);
		CHECK(!ioctl(ends[0].fd, FIONREAD, &held));
	}
	deaf(0, 1);
	stuff(&ends[1]);
	stuff(&ends[0]);
	int sndbuf[2], rcvbuf[2], mss[2];
	for (int i = 0; i < 2; i++) {
		sndbuf[i] = opt(i, SOL_SOCKET, SO_SNDBUF);
		rcvbuf[i] = opt(i, SOL_SOCKET, SO_RCVBUF);
		mss[i] = opt(i, IPPROTO_TCP, TCP_MAXSEG);
	}

	ready();

	deaf(0, 0);
	for (int i = 0; i < 2 && argc >= 4; i++)
		// More than TCP_MAXSEG takes cannot be asked for with IPv6.
		CHECK(opt(i, IPPROTO_TCP, TCP_MAXSEG) >= (mss[i] < 32700 ? mss[i] : 32700));
	if (argc < 5) {
		EQ(opt(0, SOL_SOCKET, SO_SNDBUF), sndbuf[0]);
		EQ(opt(0, SOL_SOCKET, SO_RCVBUF), rcvbuf[0]);
	}
	// Those of the other end may have grown already.
	for (int i = 0; i < 2; i++) {
		CHECK(opt(i, SOL_SOCKET, SO_SNDBUF) >= sndbuf[i]);
		CHECK(opt(i, SOL_SOCKET, SO_RCVBUF) >= rcvbuf[i]);
	}
	drain(0);
	drain(1);
	ok();
}
