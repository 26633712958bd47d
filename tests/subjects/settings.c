// SPDX-License-Identifier: Apache-2.0 OR MIT
// Settings of a task that CRIU's images do not know. One per call, named by the argument.
#include "subject.h"
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>

#define IS(name) (!strcmp(argv[2], name))

static void subject(int argc, char **argv)
{
	char buf[64] = "";
	if (IS("affinity")) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(0, &set);
		if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
			SKIP("one processor only");
		CHECK(!sched_setaffinity(0, sizeof(set), &set));
		ready();
		CHECK(!sched_getaffinity(0, sizeof(set), &set));
		EQ(CPU_COUNT(&set), 1);
		EQ(CPU_ISSET(0, &set), 1);
	} else if (IS("ioprio")) {
		int prio = 2 << 13 | 6; // best effort, 6
		CHECK(!syscall(SYS_ioprio_set, 1, 0, prio));
		ready();
		EQ(syscall(SYS_ioprio_get, 1, 0), prio);
	} else if (IS("personality")) {
		CHECK(personality(ADDR_NO_RANDOMIZE | SHORT_INODE) != -1);
		ready();
		EQ(personality(0xffffffff), ADDR_NO_RANDOMIZE | SHORT_INODE);
	} else if (IS("timerslack")) {
		CHECK(!prctl(PR_SET_TIMERSLACK, 123456));
		ready();
		EQ(prctl(PR_GET_TIMERSLACK), 123456);
	} else if (IS("coredump_filter")) {
		int fd = open("/proc/self/coredump_filter", O_WRONLY);
		SETUP_OR_SKIP(fd >= 0 && write(fd, "0x3f", 4) == 4);
		close(fd);
		ready();
		slurp("/proc/self/coredump_filter", buf, sizeof(buf));
		STREQ(buf, "0000003f\n");
	} else if (IS("pkeys")) {
		int key = pkey_alloc(0, PKEY_DISABLE_WRITE);
		SETUP_OR_SKIP(key > 0);
		char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		p[0] = 5;
		CHECK(!pkey_mprotect(p, 4096, PROT_READ | PROT_WRITE, key));
		ready();
		EQ(pkey_get(key), PKEY_DISABLE_WRITE);
		CHECK(!pkey_set(key, 0));
		EQ(p[0], 5);
		p[1] = 6;
		EQ(pkey_alloc(0, 0), key + 1);
		CHECK(!pkey_free(key));
	} else {
		BAD("no such setting %s", argv[2]);
	}
	ok();
}
