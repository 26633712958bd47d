// SPDX-License-Identifier: Apache-2.0 OR MIT
// Files of /proc: of the task itself, of a child, of a task that has died.
#include "subject.h"

#define IS(what) (argc > 2 && !strcmp(argv[2], what))

static void idle(void)
{
	here_until_go();
}

static void subject(int argc, char **argv)
{
	char path[64], buf[256];
	pid_t pid = child(idle), dead = IS("dead") ? fork() : 0;
	if (IS("dead") && !dead) {
		here();
		pause();
	}
	int self = open("/proc/self/status", O_RDONLY), maps = open("/proc/self/maps", O_RDONLY);
	int dir = IS("directory") ? open("/proc/self", O_RDONLY | O_DIRECTORY) : -1, uptime = open("/proc/uptime", O_RDONLY);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int other = open(path, O_RDONLY);
	int of_dead = -1;
	if (dead) {
		await_child(dead);
		snprintf(path, sizeof(path), "/proc/%d/stat", dead);
		of_dead = open(path, O_RDONLY);
		kill(dead, SIGKILL);
		waitpid(dead, 0, 0);
		CHECK(read(of_dead, buf, 10) == -1 && errno == ESRCH);
	}
	CHECK(self >= 0 && maps >= 0 && other >= 0 && uptime >= 0);

	ready();

	CHECK(pread(other, buf, sizeof(buf), 0) > 0);
	EQ(atoi(buf), pid);
	CHECK(pread(self, buf, sizeof(buf), 0) > 0);
	CHECK(!strncmp(buf, "Name:\tsubject-proc", 18));
	CHECK(pread(maps, buf, sizeof(buf), 0) > 0);
	CHECK(pread(uptime, buf, sizeof(buf), 0) > 0);
	if (dir >= 0) {
		int again = openat(dir, "comm", O_RDONLY);
		CHECK(again >= 0);
		close(again);
	}
	if (dead)
		CHECK(pread(of_dead, buf, 10, 0) == -1 && errno == ESRCH);
	reap(pid);
	ok();
}
