// SPDX-License-Identifier: Apache-2.0 OR MIT
// Descriptors shared between tasks in various ways: inherited, passed on, in shared and in separate tables.
#include "subject.h"

static int file, only_child;

static void other(void)
{
	only_child = open(in_dir("shared"), O_RDWR);
	CHECK(lseek(only_child, 9, SEEK_SET) == 9);
	dup2(file, 400);
	pid_t pid = fork();
	if (!pid) {
		close(file);
		here_until_go();
		await("moved");
		EQ(lseek(400, 0, SEEK_CUR), 5);
		EQ(lseek(only_child, 0, SEEK_CUR), 9);
		CHECK(lseek(only_child, 12, SEEK_SET) == 12);
		mark("moved2");
		_exit(0);
	}
	await_child(pid);
	here_until_go();
	await("moved2");
	EQ(lseek(only_child, 0, SEEK_CUR), 12);
	EQ(lseek(file, 0, SEEK_CUR), 5);
	reap(pid);
}

static void subject(int argc, char **argv)
{
	file = open(in_dir("shared"), O_RDWR | O_CREAT, 0600);
	int same_path = open(in_dir("shared"), O_RDWR);
	CHECK(!ftruncate(file, 100));
	pid_t pid = child(other);
	ready();
	EQ(lseek(file, 5, SEEK_SET), 5);
	EQ(lseek(same_path, 0, SEEK_CUR), 0);
	mark("moved");
	reap(pid);
	ok();
}
