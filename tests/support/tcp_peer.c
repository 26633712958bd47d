// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// The other end of tests/subjects/tcp_stream.c: it is not dumped, and must not notice.
//
//   tcp_peer DIR FAMILY ROLE STATE       ROLE is the subject's
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "../subjects/tcp_stream.h"

static const char *dir, *state;
static struct end conn;

static const char *in_dir(const char *name)
{
	static char path[4096];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void say(const char *name, const char *text)
{
	char part[64];
	snprintf(part, sizeof(part), "%s.part", name);
	int fd = open(in_dir(part), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	write(fd, text, strlen(text));
	close(fd);
	char from[4096];
	strcpy(from, in_dir(part));
	rename(from, in_dir(name));
}

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			char text[400];                                                            \
			snprintf(text, sizeof(text), "bad: tcp_peer.c:%d: %s (%s; sent %lu, received %lu)", \
				 __LINE__, #cond, strerror(errno), conn.sent, conn.received);      \
			say("peer", text);                                                         \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static int there(const char *name)
{
	return access(in_dir(name), F_OK) == 0;
}

static void await(const char *name)
{
	while (!there(name))
		usleep(3000);
}

static int is(const char *name)
{
	return !strcmp(state, name);
}

static void tell_sent(void)
{
	char text[64];
	snprintf(text, sizeof(text), "%lu", conn.sent);
	say("peer.sent", text);
}

static void open_connection(char family, const char *role)
{
	union address a;
	// A mapped subject talks to a plain peer.
	socklen_t len = address_of(&a, family == 'm' ? '4' : family);
	int s = socket(a.sa.sa_family, SOCK_STREAM, 0), one = 1;
	if (!strcmp(role, "server")) {
		await("listening");
		CHECK(!connect(s, &a.sa, len));
		conn.fd = s;
		return;
	}
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	CHECK(!bind(s, &a.sa, len) && !listen(s, is("syn_sent") ? 0 : 5));
	if (is("syn_sent")) {
		int filler = socket(a.sa.sa_family, SOCK_STREAM, 0);
		CHECK(!connect(filler, &a.sa, len));
		say("peer.listening", "");
		say("peer.set", "");
		await("go2");
		CHECK(accept(s, 0, 0) >= 0);
	}
	say("peer.listening", "");
	conn.fd = accept(s, 0, 0);
	CHECK(conn.fd >= 0);
}

static void read_all(void)
{
	while (!conn.eof) {
		CHECK(get(&conn) >= 0);
		usleep(200);
	}
	await("subject.sent");
	FILE *f = fopen(in_dir("subject.sent"), "r");
	unsigned long sent = 0;
	CHECK(f && fscanf(f, "%lu", &sent) == 1);
	CHECK(conn.received == sent);
}

int main(int argc, char **argv)
{
	dir = argv[1], state = argv[4];
	open_connection(argv[2][0], argv[3]);
	if (is("stream")) {
		say("peer.set", "");
		while (!there("go2")) {
			CHECK(put(&conn, 8192) >= 0);
			CHECK(get(&conn) >= 0);
			usleep(300);
		}
		for (unsigned long goal = conn.sent + 2000000; conn.sent < goal; usleep(500)) {
			CHECK(put(&conn, goal - conn.sent) >= 0);
			CHECK(get(&conn) >= 0);
		}
	} else if (is("reset")) {
		await("subject.set");
		CHECK(put(&conn, 1000) == 1000);
		usleep(50000);
		struct linger l = { 1, 0 };
		setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
		close(conn.fd);
		say("peer.set", "");
		await("go2");
		say("peer", "ok");
		return 0;
	} else if (!is("syn_sent")) {
		await("subject.set");
		int fin = is("close_wait") || is("last_ack") || is("closing") || is("close");
		if (is("established"))
			stuff(&conn);
		else
			CHECK(put(&conn, 1000) == 1000);
		if (fin) {
			tell_sent();
			CHECK(!shutdown(conn.fd, SHUT_WR));
		}
		say("peer.set", "");
		await("go2");
		if (!fin)
			for (unsigned long goal = conn.sent + 5000; conn.sent < goal; usleep(500)) {
				CHECK(put(&conn, goal - conn.sent) >= 0);
				CHECK(get(&conn) >= 0);
			}
	}
	if (!there("peer.sent")) {
		tell_sent();
		CHECK(!shutdown(conn.fd, SHUT_WR));
	}
	read_all();
	say("peer", "ok");
	return 0;
}
