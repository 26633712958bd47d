// SPDX-License-Identifier: Apache-2.0 OR MIT
// A parent waiting in vfork for a child: whole trees in this moment are refused by stock; here the child has execed.
#include "subject.h"

static void subject(int argc, char **argv)
{
	// The child execs, so the parent runs on while the child is of another program.
	pid_t pid = vfork();
	if (!pid) {
		execl("/bin/sh", "sh", "-c", "while [ ! -e \"$1/go\" ]; do sleep 0.02; done; exit 41", "x", subject_dir, NULL);
		_exit(1);
	}
	msleep(50);
	ready();
	int status;
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, 41 << 8);
	ok();
}
