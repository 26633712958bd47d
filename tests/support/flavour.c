// SPDX-License-Identifier: Apache-2.0 OR MIT
// flavour DIR KINDS PROGRAM ARGS...
//
// Runs a program in namespaces of its own: KINDS is a list of pid, uts, ipc, net, mnt, user, time,
// cgroup. With pid, an init is process 1 and the program its child; the init ends when its last
// child has. With mnt, DIR/root (a bind mount of /, made by the harness) becomes the root, with
// DIR/dev as its /dev, and proc, devpts and a tmpfs of its own. DIR/root.pid is the root of the tree, in the pid namespace we come from.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static const char *dir;

static void die(const char *what)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/state", dir);
	FILE *f = fopen(path, "a");
	fprintf(f, "bad: flavour: %s: %s\n", what, strerror(errno));
	fclose(f);
	_exit(1);
}
#define DO(call)                                                                                   \
	do {                                                                                       \
		if ((call) < 0)                                                                    \
			die(#call);                                                                \
	} while (0)

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die(path);
	close(fd);
}

static void up(void)
{
	struct ifreq lo;
	memset(&lo, 0, sizeof(lo));
	strcpy(lo.ifr_name, "lo");
	lo.ifr_flags = IFF_UP | IFF_RUNNING;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	DO(ioctl(s, SIOCSIFFLAGS, &lo));
	close(s);
}

static int flags;

static void mount_in_root(const char *from, const char *at, const char *type, int how,
			  const char *options)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/root/%s", dir, at);
	if (mount(from, path, type, how, options) < 0)
		die(path);
}

// DIR/binds: lines of what is to be bound from outside, and where.
static void bind_all(void)
{
	char path[4096], from[1024], to[1024];
	snprintf(path, sizeof(path), "%s/binds", dir);
	FILE *f = fopen(path, "re");
	while (f && fscanf(f, "%1023s %1023s", from, to) == 2)
		mount_in_root(from, to, NULL, MS_BIND, NULL);
	if (f)
		fclose(f);
}

static void new_root(void)
{
	char path[4096];
	// What was made shared goes on to come in.
	DO(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
	// Once more: in a user namespace what comes from outside is locked.
	snprintf(path, sizeof(path), "%s/root", dir);
	DO(mount(path, path, NULL, MS_BIND, NULL));
	snprintf(path, sizeof(path), "%s/dev", dir);
	mount_in_root(path, "dev", NULL, MS_BIND, NULL);
	mount_in_root("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_in_root("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		      "newinstance,ptmxmode=0666,mode=620");
	mount_in_root("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, NULL);
	bind_all();
	snprintf(path, sizeof(path), "%s/root", dir);
	DO(chdir(path));
	DO(syscall(SYS_pivot_root, ".", "."));
	DO(umount2(".", MNT_DETACH));
	DO(chdir(dir));
	for (int fd = 0; fd < 3; fd++) {
		close(fd);
		DO(open("/dev/null", O_RDWR));
	}
}

// What has to be done by a process that is in all of the namespaces.
static void fill(void)
{
	if (flags & CLONE_NEWUSER) {
		DO(setgid(0));
		DO(setuid(0));
	}
	if (flags & CLONE_NEWUTS) {
		DO(sethostname("amber-uts", 9));
		DO(setdomainname("amber.domain", 12));
	}
	if (flags & CLONE_NEWNET)
		up();
	if (flags & CLONE_NEWNS)
		new_root();
}

// Process 1: the program's parent once its launcher is gone.
static void init(char **argv)
{
	DO(setsid());
	pid_t launcher = fork();
	DO(launcher);
	if (launcher == 0) {
		pid_t program = fork();
		DO(program);
		if (program)
			_exit(0);
		DO(setsid());
		execv(argv[0], argv);
		die(argv[0]);
	}
	for (;;) {
		if (wait(NULL) < 0 && errno == ECHILD)
			_exit(0);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int flag;
	} kinds[] = { { "pid", CLONE_NEWPID },   { "uts", CLONE_NEWUTS },	{ "ipc", CLONE_NEWIPC },
		      { "net", CLONE_NEWNET },   { "mnt", CLONE_NEWNS },	{ "user", CLONE_NEWUSER },
		      { "time", CLONE_NEWTIME }, { "cgroup", CLONE_NEWCGROUP } };
	if (argc > 2 && !strcmp(argv[1], "--init")) {
		dir = argv[2];
		init(argv + 3);
	}
	if (argc < 4)
		return 2;
	dir = argv[1];
	int alone = 0;
	for (char *name = strtok(argv[2], ","); name; name = strtok(NULL, ","))
		for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
			if (!strcmp(name, "init"))
				alone = 1;
			else if (!strcmp(name, kinds[i].name))
				flags |= kinds[i].flag;
	int maps[2], done[2];
	DO(pipe2(maps, O_CLOEXEC));
	DO(pipe2(done, O_CLOEXEC));
	pid_t mapper = flags & CLONE_NEWUSER ? fork() : -1;
	if (mapper == 0) {
		// Stays outside, with the rights to map.
		char c, path[64];
		if (read(maps[0], &c, 1) != 1)
			_exit(1);
		snprintf(path, sizeof(path), "/proc/%d/uid_map", getppid());
		put(path, "0 100000 10000000\n");
		snprintf(path, sizeof(path), "/proc/%d/gid_map", getppid());
		put(path, "0 100000 10000000\n");
		_exit(write(done[1], "x", 1) != 1);
	}
	if (flags & CLONE_NEWUSER) {
		char c;
		DO(unshare(CLONE_NEWUSER));
		DO(write(maps[1], "x", 1));
		if (read(done[0], &c, 1) != 1)
			die("maps");
		waitpid(mapper, NULL, 0);
	}
	DO(unshare(flags & ~CLONE_NEWUSER));
	if (flags & CLONE_NEWTIME) {
		put("/proc/self/timens_offsets", "monotonic 86400 0\nboottime 172800 0\n");
		int fd = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
		DO(setns(fd, CLONE_NEWTIME));
		close(fd);
	}
	for (int i = 0; i < 2; i++)
		close(maps[i]), close(done[i]);
	char text[16], path[4096];
	snprintf(path, sizeof(path), "%s/root.pid", dir);
	if (!(flags & CLONE_NEWPID)) {
		snprintf(text, sizeof(text), "%d", getpid());
		put(path, text);
		fill();
		execv(argv[3], argv + 3);
		die(argv[3]);
	}
	pid_t one = fork();
	DO(one);
	if (one == 0) {
		fill();
		if (alone) {
			DO(setsid());
			execv(argv[3], argv + 3);
			die(argv[3]);
		}
		// Anew, so that nothing is mapped or open of the mounts that are gone.
		argv[2] = argv[1], argv[1] = "--init";
		execv(argv[0], argv);
		die(argv[0]);
	}
	snprintf(text, sizeof(text), "%d", one);
	put(path, text);
	return 0;
}
