// SPDX-License-Identifier: Apache-2.0 OR MIT
// apparmor DIR [NAME]: a thread under the profile amber-kinds (which forbids to read /etc/hostname)
// with no_new_privs, and another one that is not confined. NAME: what both are to be afterwards.
#include "subject.h"

static atomic_int go, done;
static const char *afterwards;

static const char *label(void)
{
	static __thread char text[256];
	memset(text, 0, sizeof(text));
	slurp("/proc/thread-self/attr/current", text, sizeof(text));
	text[strcspn(text, "\n")] = 0;
	return text;
}

static void *unconfined(void *arg)
{
	STREQ(label(), "unconfined");
	atomic_store(&done, 1);
	while (!atomic_load(&go))
		msleep(2);
	STREQ(label(), afterwards ? afterwards : "unconfined");
	int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
	EQ(fd < 0, !!afterwards && !!strcmp(afterwards, "unconfined"));
	return 0;
}

static void subject(int argc, char **argv)
{
	static const char command[] = "changeprofile amber-kinds";
	pthread_t thread;
	afterwards = argc > 2 ? argv[2] : NULL;
	CHECK(!pthread_create(&thread, 0, unconfined, 0));
	while (!atomic_load(&done))
		msleep(2);
	int open_file = open("/etc/hostname", O_RDONLY);
	CHECK(open_file >= 0);
	int fd = open("/proc/thread-self/attr/current", O_WRONLY | O_CLOEXEC);
	EQ(write(fd, command, strlen(command)), (long)strlen(command));
	close(fd);
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	STREQ(label(), "amber-kinds (enforce)");
	ready();
	STREQ(label(), afterwards ? afterwards : "amber-kinds (enforce)");
	fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
	EQ(fd < 0, !afterwards || !!strcmp(afterwards, "unconfined"));
	EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
	char c;
	EQ(read(open_file, &c, 1), 1);
	atomic_store(&go, 1);
	CHECK(!pthread_join(thread, 0));
	ok();
}
