// SPDX-License-Identifier: Apache-2.0 OR MIT
// Terminals of the same number in two instances of devpts.
#include "subject.h"
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <termios.h>

static int open_in(const char *dir, const char *name)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", in_dir(dir), name);
	int fd = open(path, O_RDWR | O_NOCTTY);
	CHECK(fd >= 0);
	return fd;
}

static void pair(const char *dir, int *master, int *slave)
{
	unsigned int number = 77;
	int unlock = 0;
	CHECK(!mkdir(in_dir(dir), 0755));
	SETUP_OR_SKIP(!mount("devpts", in_dir(dir), "devpts", 0, "ptmxmode=666"));
	*master = open_in(dir, "ptmx");
	CHECK(!ioctl(*master, TIOCGPTN, &number) && number == 0);
	CHECK(!ioctl(*master, TIOCSPTLCK, &unlock));
	*slave = open_in(dir, "0");
	struct termios raw;
	CHECK(!tcgetattr(*slave, &raw));
	cfmakeraw(&raw);
	CHECK(!tcsetattr(*slave, TCSANOW, &raw));
}

static void subject(int argc, char **argv)
{
	int master[2], slave[2];
	char c = 0;
	pair("one", &master[0], &slave[0]);
	pair("two", &master[1], &slave[1]);
	ready();
	for (int i = 0; i < 2; i++) {
		CHECK(write(master[i], i ? "b" : "a", 1) == 1);
		CHECK(read(slave[i], &c, 1) == 1 && c == (i ? 'b' : 'a'));
	}
	ok();
}
