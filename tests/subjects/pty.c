// SPDX-License-Identifier: Apache-2.0 OR MIT
// A pseudo terminal of its own: queued data, termios, locks of it, packet and exclusive mode, window size, master without slave; as ctty with a foreground group.
#include "subject.h"
#include <sys/ioctl.h>
#include <termios.h>

static int master;
static char slave_name[64];

// What keeps others out of a terminal, and what its master is told about it.
static void modes(int slave)
{
	struct termios locked, got;
	int on = 1;
	char buf[16];
	memset(&locked, 0, sizeof(locked));
	locked.c_lflag = ECHO | ICANON;
	SETUP_OR_SKIP(!ioctl(slave, TIOCSLCKTRMIOS, &locked));
	CHECK(!ioctl(master, TIOCPKT, &on));
	CHECK(!ioctl(slave, TIOCEXCL));

	ready();

	CHECK(!ioctl(slave, TIOCGEXCL, &on));
	EQ(on, 1);
	CHECK(!ioctl(master, TIOCGPKT, &on));
	EQ(on, 1);
	memset(&got, 0, sizeof(got));
	CHECK(!ioctl(slave, TIOCGLCKTRMIOS, &got));
	EQ(got.c_lflag, locked.c_lflag);
	EQ(got.c_iflag, 0);
	CHECK(write(slave, "x", 1) == 1);
	EQ(read(master, buf, sizeof(buf)), 2);
	EQ(buf[0], TIOCPKT_DATA);
	ok();
}

static void session(void)
{
	CHECK(setsid() == getpid());
	int slave = open(slave_name, O_RDWR);
	CHECK(slave >= 0 && !ioctl(slave, TIOCSCTTY, 0));
	pid_t job = fork();
	if (!job) {
		setpgid(0, 0);
		mark("job");
		while (!triggered())
			msleep(3);
		await("checked");
		_exit(0);
	}
	setpgid(job, job);
	await("job");
	signal(SIGTTOU, SIG_IGN);
	CHECK(!tcsetpgrp(slave, job));
	here_until_go();
	EQ(tcgetpgrp(slave), job);
	EQ(tcgetsid(slave), getpid());
	int tty = open("/dev/tty", O_RDWR);
	CHECK(tty >= 0);
	close(tty);
	mark("checked");
	reap(job);
}

static void subject(int argc, char **argv)
{
	struct termios t, now;
	struct winsize w = { 33, 111, 5, 6 }, got;
	char buf[256] = "";
	master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(master >= 0 && !grantpt(master) && !unlockpt(master));
	strcpy(slave_name, ptsname(master));
	int slave = open(slave_name, O_RDWR | O_NOCTTY | O_NONBLOCK);
	CHECK(slave >= 0);
	CHECK(!tcgetattr(slave, &t));
	cfmakeraw(&t);
	t.c_cc[VMIN] = 3, t.c_iflag |= IXANY;
	CHECK(!tcsetattr(slave, TCSANOW, &t) && !ioctl(master, TIOCSWINSZ, &w));
	if (argc > 2 && !strcmp(argv[2], "modes"))
		modes(slave);
	int lonely = posix_openpt(O_RDWR | O_NOCTTY);
	CHECK(lonely >= 0);
	pid_t pid = argc > 2 && !strcmp(argv[2], "ctty") ? child(session) : 0;
	if (argc > 2 && !strcmp(argv[2], "queue")) {
		CHECK(write(master, "to the slave", 12) == 12);
		CHECK(write(slave, "to the master", 13) == 13);
	}
	compare_fds = 0; // slaves of lost masters may be held elsewhere

	ready();

	STREQ(ptsname(master), slave_name);
	CHECK(!tcgetattr(slave, &now));
	EQ(now.c_lflag, t.c_lflag);
	EQ(now.c_iflag, t.c_iflag);
	EQ(now.c_oflag, t.c_oflag);
	EQ(now.c_cflag, t.c_cflag);
	EQ(now.c_cc[VMIN], 3);
	CHECK(!ioctl(slave, TIOCGWINSZ, &got));
	EQ(got.ws_row, 33);
	EQ(got.ws_col, 111);
	EQ(fcntl(master, F_GETFD), FD_CLOEXEC);
	if (argc > 2 && !strcmp(argv[2], "queue")) {
		EQ(read(slave, buf, sizeof(buf)), 12);
		STREQ(buf, "to the slave");
		memset(buf, 0, sizeof(buf));
		EQ(read(master, buf, sizeof(buf)), 13);
		STREQ(buf, "to the master");
	}
	CHECK(write(master, "fresh", 5) == 5);
	memset(buf, 0, sizeof(buf));
	EQ(read(slave, buf, sizeof(buf)), 5);
	STREQ(buf, "fresh");
	if (pid)
		reap(pid);
	ok();
}
