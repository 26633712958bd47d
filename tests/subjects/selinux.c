// SPDX-License-Identifier: Apache-2.0 OR MIT
// selinux DIR [NEW [MOUNT]]: contexts of a leader, of another thread, and of what they make, under
// tests/kinds/selinux.conf. NEW: what the leader's context is to be afterwards; MOUNT: that of a
// mount, which there is only with it.
#include "subject.h"
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#ifndef SO_PEERSEC
#define SO_PEERSEC 31
#endif
#define CONTEXT(type, level) "amber_u:amber_r:" type ":" level
#define OWN CONTEXT("first_t", "s0:c1")
#define OTHER CONTEXT("second_t", "s0")
#define THREAD CONTEXT("third_t", "s0:c1")
#define FILES CONTEXT("second_t", "s0:c0,c2")
#define MOUNTED CONTEXT("base_t", "s0:c1,c2")

static atomic_int go, done;
static const char *thread_now = THREAD;

static const char *attr(const char *name)
{
	static __thread char text[256];
	char path[64];
	snprintf(path, sizeof(path), "/proc/thread-self/attr/%s", name);
	memset(text, 0, sizeof(text));
	slurp(path, text, sizeof(text));
	text[strcspn(text, "\n")] = 0;
	return text;
}

static void set(const char *name, const char *text)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/thread-self/attr/%s", name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	EQ(write(fd, text, strlen(text)), (long)strlen(text));
	close(fd);
}

static const char *of_file(int fd)
{
	static char text[256];
	ssize_t n = fgetxattr(fd, "security.selinux", text, sizeof(text) - 1);
	CHECK(n > 0);
	text[n] = 0;
	return text;
}

static const char *of_peer(int fd)
{
	static char text[256];
	socklen_t len = sizeof(text) - 1;
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_PEERSEC, text, &len));
	text[len] = 0;
	return text;
}

static void *other(void *arg)
{
	(void)arg;
	set("current", THREAD);
	set("sockcreate", FILES);
	atomic_store(&done, 1);
	while (!atomic_load(&go))
		msleep(2);
	STREQ(attr("current"), thread_now);
	STREQ(attr("sockcreate"), FILES);
	STREQ(attr("fscreate"), FILES);
	return 0;
}

static int listener(int *port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(fd >= 0 && !bind(fd, (void *)&in, len) && !listen(fd, 1));
	CHECK(!getsockname(fd, (void *)&in, &len));
	*port = in.sin_port;
	return fd;
}

static void mount_one(void)
{
	CHECK(!mkdir(in_dir("mount"), 0700));
	CHECK(!mount("amber", in_dir("mount"), "tmpfs", 0, "size=64k,context=\"" MOUNTED "\""));
	int fd = open(in_dir("mount/file"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	STREQ(of_file(fd), MOUNTED);
	close(fd);
}

static void subject(int argc, char **argv)
{
	const char *now = argc > 2 ? argv[2] : OWN;
	int own[2], others[2], port, udp;
	pthread_t thread;
	if (argc == 3)
		thread_now = argv[2];
	if (argc > 3)
		mount_one();
	set("current", OWN);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, own));
	set("sockcreate", OTHER);
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, others));
	int server = listener(&port);
	set("sockcreate", "\n");
	udp = socket(AF_INET6, SOCK_DGRAM, 0);
	set("fscreate", FILES);
	// A file system that the policy knows.
	CHECK(!mkdir(in_dir("plain"), 0700));
	CHECK(!mount("plain", in_dir("plain"), "tmpfs", 0, "size=64k"));
	int ghost = open(in_dir("plain/ghost"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(ghost >= 0 && !unlink(in_dir("plain/ghost")));
	STREQ(of_file(ghost), FILES);
	set("keycreate", OTHER);
	CHECK(!pthread_create(&thread, 0, other, 0));
	while (!atomic_load(&done))
		msleep(2);
	set("exec", OTHER);
	STREQ(of_peer(own[0]), OWN);
	STREQ(of_peer(others[0]), OTHER);
	ready();
	STREQ(attr("current"), now);
	STREQ(attr("sockcreate"), "");
	STREQ(attr("fscreate"), FILES);
	STREQ(attr("keycreate"), OTHER);
	STREQ(attr("exec"), OTHER);
	STREQ(of_file(own[0]), now);
	STREQ(of_peer(own[1]), now);
	STREQ(of_file(others[1]), OTHER);
	STREQ(of_peer(others[0]), OTHER);
	STREQ(of_file(server), OTHER);
	STREQ(of_file(udp), now);
	STREQ(of_file(ghost), FILES);
	if (argc > 3) {
		int fd = open(in_dir("mount/file"), O_RDONLY | O_CLOEXEC);
		CHECK(fd >= 0);
		STREQ(of_file(fd), argv[3]);
		close(fd);
	}
	atomic_store(&go, 1);
	CHECK(!pthread_join(thread, 0));
	ok();
}
