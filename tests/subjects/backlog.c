// SPDX-License-Identifier: Apache-2.0 OR MIT
// Listeners with a connection that nobody has accepted: "tcp" of a client that has hung up, "unix"
// of one outside of the tree. After a restore that left it out (--skip-in-flight) they listen still,
// and nothing waits; after a refused dump it waits as before.
#include "subject.h"
#include <netinet/in.h>
#include <sys/un.h>

static int client(int family, const struct sockaddr *at, socklen_t len)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK(connect(fd, at, len) == 0);
	return fd;
}

// A client that no tree knows: its parent is gone, and its session another.
static void outsider(int listener, const struct sockaddr *at, socklen_t len)
{
	int up[2];
	char byte;
	CHECK(pipe2(up, O_CLOEXEC) == 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		if (setsid() < 0 || fork() != 0)
			_exit(0);
		close(listener);
		int fd = client(AF_UNIX, at, len);
		CHECK(write(up[1], "x", 1) == 1);
		// Until the listener or the connection is no more.
		_exit(read(fd, &byte, 1) > 0);
	}
	CHECK(waitpid(pid, NULL, 0) == pid);
	close(up[1]);
	CHECK(read(up[0], &byte, 1) == 1);
	close(up[0]);
}

static void subject(int argc, char **argv)
{
	CHECK(argc > 2);
	int tcp = !strcmp(argv[2], "tcp"), waits = argc > 3;
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", in_dir("sock"));
	int family = tcp ? AF_INET : AF_UNIX;
	struct sockaddr *at = tcp ? (struct sockaddr *)&in : (struct sockaddr *)&un;
	socklen_t len = tcp ? sizeof(in) : sizeof(un);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CHECK(fd >= 0 && bind(fd, at, len) == 0 && listen(fd, 5) == 0);
	CHECK(getsockname(fd, at, &len) == 0);
	if (tcp)
		close(client(family, at, len));
	else
		outsider(fd, at, len);

	ready();

	if (waits) {
		int old = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		CHECK(old >= 0);
		close(old);
	}
	CHECK(accept4(fd, NULL, NULL, SOCK_CLOEXEC) < 0 && errno == EAGAIN);
	int mine = client(family, at, len);
	int got = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	CHECK(got >= 0);
	char byte = 0;
	CHECK(write(mine, "y", 1) == 1 && read(got, &byte, 1) == 1 && byte == 'y');
	ok();
}
