// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// One end of a TCP connection in a chosen state; tests/support/tcp_peer.c is the other.
//
//   tcp_stream DIR FAMILY ROLE STATE     ROLE: client, server
#include "subject.h"
#include "tcp_stream.h"

static struct end conn;
static const char *state;

static int opt(int level, int name)
{
	int v = -1;
	socklen_t l = sizeof(v);
	CHECK(!getsockopt(conn.fd, level, name, &v, &l));
	return v;
}

static void set(int fd, int level, int name, int v)
{
	CHECK(!setsockopt(fd, level, name, &v, sizeof(v)));
}

static struct tcp_info info(void)
{
	struct tcp_info ti = { 0 };
	socklen_t l = sizeof(ti);
	CHECK(!getsockopt(conn.fd, IPPROTO_TCP, TCP_INFO, &ti, &l));
	return ti;
}

static int state_number(void)
{
	static const char *names[] = { [TCP_ESTABLISHED] = "established", [TCP_SYN_SENT] = "syn_sent",
				       [TCP_FIN_WAIT1] = "fin_wait1",	  [TCP_FIN_WAIT2] = "fin_wait2",
				       [TCP_CLOSE] = "close",		  [TCP_CLOSE_WAIT] = "close_wait",
				       [TCP_LAST_ACK] = "last_ack",	  [TCP_CLOSING] = "closing",
				       [TCP_LISTEN] = "" };
	for (int i = 1; i <= TCP_CLOSING; i++)
		if (names[i] && !strcmp(names[i], state))
			return i;
	return TCP_ESTABLISHED;
}

static int is(const char *name)
{
	return !strcmp(state, name);
}

static void spin(void)
{
	CHECK(put(&conn, 8192) >= 0);
	CHECK(get(&conn) >= 0);
	usleep(300);
}

static unsigned long peer_sent(void)
{
	char text[64] = "";
	await("peer.sent");
	while (!slurp(in_dir("peer.sent"), text, sizeof(text)))
		msleep(3);
	return strtoul(text, 0, 10);
}

static void tell_sent(void)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%lu", conn.sent);
	int fd = open(in_dir("subject.sent.new"), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	CHECK(fd >= 0 && write(fd, text, n) == n);
	close(fd);
	char from[PATH_MAX];
	strcpy(from, in_dir("subject.sent.new"));
	CHECK(!rename(from, in_dir("subject.sent")));
}

static void open_connection(char family, const char *role)
{
	union address a;
	socklen_t len = address_of(&a, family);
	int s = socket(a.sa.sa_family, SOCK_STREAM, 0);
	if (family == '6')
		SETUP_OR_SKIP(s >= 0);
	if (!strcmp(role, "server")) {
		set(s, SOL_SOCKET, SO_REUSEADDR, 1);
		if (family == 'm')
			a.v6.sin6_addr = in6addr_any;
		SETUP_OR_SKIP(!bind(s, &a.sa, len));
		CHECK(!listen(s, 8));
		mark("listening");
		conn.fd = accept(s, 0, 0);
		CHECK(conn.fd >= 0);
		return;
	}
	conn.fd = s;
	await("peer.listening");
	if (is("syn_sent")) {
		fcntl(s, F_SETFL, O_NONBLOCK);
		CHECK(connect(s, &a.sa, len) == -1 && errno == EINPROGRESS);
		msleep(100);
		return;
	}
	SETUP_OR_SKIP(!connect(s, &a.sa, len));
}

static void bring_about(void)
{
	int fin_now = is("fin_wait1") || is("fin_wait2") || is("closing") || is("close");
	if (is("stream") || is("syn_sent") || is("reset"))
		;
	else if (is("fin_wait2") || is("close"))
		CHECK(put(&conn, 1000) == 1000);
	else
		stuff(&conn);
	if (fin_now) {
		tell_sent();
		CHECK(!shutdown(conn.fd, SHUT_WR));
	}
	mark("subject.set");
	await("peer.set");
	if (is("last_ack")) {
		msleep(100);
		tell_sent();
		CHECK(!shutdown(conn.fd, SHUT_WR));
	}
	msleep(150);
}

static void finish(void)
{
	int may_write = is("established") || is("close_wait") || is("stream");
	unsigned long goal = conn.sent + (is("stream") ? 2000000 : 5000);
	while (may_write && conn.sent < goal) {
		CHECK(put(&conn, goal - conn.sent) >= 0);
		CHECK(get(&conn) >= 0);
		usleep(500);
	}
	if (may_write) {
		tell_sent();
		CHECK(!shutdown(conn.fd, SHUT_WR));
	}
	while (!conn.eof) {
		CHECK(get(&conn) >= 0);
		usleep(200);
	}
	EQ(conn.received, peer_sent());
}

static void subject(int argc, char **argv)
{
	CHECK(argc == 5);
	state = argv[4];
	open_connection(argv[2][0], argv[3]);
	set(conn.fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set(conn.fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(conn.fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set(conn.fd, SOL_SOCKET, SO_PRIORITY, 3);
	int reuse = opt(SOL_SOCKET, SO_REUSEADDR);
	bring_about();
	struct tcp_info before = info();
	if (!is("reset"))
		EQ(before.tcpi_state, state_number());
	else
		EQ(before.tcpi_state, TCP_CLOSE);
	union address own = { 0 }, peer = { 0 }, now = { 0 };
	socklen_t own_len = sizeof(own), peer_len = sizeof(peer), len = sizeof(now);
	CHECK(!getsockname(conn.fd, &own.sa, &own_len));
	int connected = !getpeername(conn.fd, &peer.sa, &peer_len);

	ready_while(is("stream") ? spin : NULL);

	struct tcp_info after = info();
	EQ(after.tcpi_state, before.tcpi_state);
	if (!is("close") && !is("reset") && !is("syn_sent")) {
		EQ(after.tcpi_options, before.tcpi_options);
		EQ(after.tcpi_snd_wscale, before.tcpi_snd_wscale);
		EQ(after.tcpi_rcv_wscale, before.tcpi_rcv_wscale);
	}
	EQ(opt(IPPROTO_TCP, TCP_NODELAY), 1);
	EQ(opt(SOL_SOCKET, SO_KEEPALIVE), 1);
	EQ(opt(IPPROTO_TCP, TCP_KEEPIDLE), 77);
	EQ(opt(SOL_SOCKET, SO_PRIORITY), 3);
	EQ(opt(SOL_SOCKET, SO_REUSEADDR), reuse);
	CHECK(!getsockname(conn.fd, &now.sa, &len));
	CHECK(!memcmp(&own, &now, own_len));
	len = sizeof(now), memset(&now, 0, sizeof(now));
	EQ(!getpeername(conn.fd, &now.sa, &len), connected);
	CHECK(!connected || !memcmp(&peer, &now, peer_len));
	mark("go2");
	if (is("reset")) {
		EQ(get(&conn), 1000);
		CHECK(get(&conn) == -1 && errno == ECONNRESET);
		EQ(get(&conn), 0);
		ok();
	}
	if (is("syn_sent")) {
		struct pollfd p = { .fd = conn.fd, .events = POLLOUT };
		EQ(poll(&p, 1, 30000), 1);
		EQ(opt(SOL_SOCKET, SO_ERROR), 0);
		CHECK(put(&conn, 1000) == 1000);
		tell_sent();
		CHECK(!shutdown(conn.fd, SHUT_WR));
	}
	finish();
	ok();
}
