// SPDX-License-Identifier: Apache-2.0 OR MIT
// Unix sockets with names: listening (with a pending connection), connected, bound datagrams, abstract and deleted names.
#include "subject.h"
#include <stddef.h>
#include <sys/un.h>

static socklen_t name(struct sockaddr_un *a, const char *path)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	strcpy(a->sun_path, path);
	socklen_t len = offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
	if (path[0] == '@')
		a->sun_path[0] = 0, len--;
	return len;
}

static int bound(int type, const char *path)
{
	struct sockaddr_un a;
	int s = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
	socklen_t len = name(&a, path);
	CHECK(s >= 0 && !bind(s, (void *)&a, len));
	return s;
}

static int connected(int type, const char *path)
{
	struct sockaddr_un a;
	int s = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
	socklen_t len = name(&a, path);
	CHECK(s >= 0 && !connect(s, (void *)&a, len));
	return s;
}

static void subject(int argc, char **argv)
{
	char listening[100], datagram[100], deleted[100], buf[64] = "";
	struct sockaddr_un a;
	struct stat st;
	snprintf(listening, sizeof(listening), "%s/listen", subject_dir);
	snprintf(datagram, sizeof(datagram), "%s/dgram", subject_dir);
	snprintf(deleted, sizeof(deleted), "%s/gone", subject_dir);
	int l = bound(SOCK_STREAM, listening), abs_ = bound(SOCK_STREAM, "@abstract name");
	CHECK(!chmod(listening, 0640));
	CHECK(!listen(l, 17) && !listen(abs_, 3));
	int c1 = connected(SOCK_STREAM, listening), s1 = accept4(l, 0, 0, SOCK_NONBLOCK);
	CHECK(s1 >= 0 && write(c1, "to server", 9) == 9);
	int ca = connected(SOCK_STREAM, "@abstract name"), sa = accept4(abs_, 0, 0, SOCK_NONBLOCK);
	CHECK(sa >= 0 && write(sa, "to client", 9) == 9);
	int d = bound(SOCK_DGRAM, datagram), dc = connected(SOCK_DGRAM, datagram);
	CHECK(write(dc, "queued", 6) == 6);
	int loose = socket(AF_UNIX, SOCK_STREAM, 0);
	int gone = -1;
	if (argc > 2 && !strcmp(argv[2], "deleted")) {
		gone = bound(SOCK_DGRAM, deleted);
		CHECK(!unlink(deleted));
	}
	int pending = -1, early = 0;
	if (argc > 2 && !strncmp(argv[2], "pending", 7)) {
		pending = connected(SOCK_STREAM, listening);
		early = !strcmp(argv[2], "pending-data");
		CHECK(!early || write(pending, "early", 5) == 5);
	}

	ready();

	memset(&a, 0, sizeof(a));
	socklen_t len = sizeof(a);
	CHECK(!getsockname(l, (void *)&a, &len));
	STREQ(a.sun_path, listening);
	CHECK(!stat(listening, &st) && S_ISSOCK(st.st_mode));
	EQ(st.st_mode & 07777, 0640);
	EQ(read(s1, buf, sizeof(buf)), 9);
	STREQ(buf, "to server");
	EQ(read(ca, buf, sizeof(buf)), 9);
	STREQ(buf, "to client");
	len = sizeof(a);
	CHECK(!getpeername(c1, (void *)&a, &len));
	STREQ(a.sun_path, listening);
	int val;
	socklen_t vl = sizeof(val);
	CHECK(!getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &val, &vl));
	EQ(val, 1);
	memset(buf, 0, sizeof(buf));
	if (pending >= 0) {
		int s = accept(l, 0, 0);
		CHECK(s >= 0);
		CHECK(early || write(pending, "early", 5) == 5);
		EQ(read(s, buf, sizeof(buf)), 5);
		STREQ(buf, "early");
		close(s);
	}
	int c2 = connected(SOCK_STREAM, listening), s2 = accept(l, 0, 0);
	CHECK(s2 >= 0 && write(c2, "new", 3) == 3);
	EQ(read(s2, buf, sizeof(buf)), 3);
	close(connected(SOCK_STREAM, "@abstract name"));
	memset(buf, 0, sizeof(buf));
	EQ(read(d, buf, sizeof(buf)), 6);
	STREQ(buf, "queued");
	EQ(write(dc, "more", 4), 4);
	EQ(read(d, buf, sizeof(buf)), 4);
	CHECK(read(loose, buf, 1) == -1);
	if (gone >= 0) {
		CHECK(access(deleted, F_OK) == -1);
		len = sizeof(a);
		memset(&a, 0, sizeof(a));
		CHECK(!getsockname(gone, (void *)&a, &len));
		STREQ(a.sun_path, deleted);
	}
	ok();
}
