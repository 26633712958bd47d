// SPDX-License-Identifier: Apache-2.0 OR MIT
// sk_force PID SIZE: forces both buffers of all sockets of PID's first child, which may live in a
// user namespace where that is forbidden.
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void no(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	char path[64];
	int pid, size = argc == 3 ? atoi(argv[2]) : 0;
	snprintf(path, sizeof(path), "/proc/%s/task/%s/children", argv[1], argv[1]);
	FILE *f = fopen(path, "r");
	if (!f || fscanf(f, "%d", &pid) != 1)
		no(path);
	int task = syscall(SYS_pidfd_open, pid, 0);
	if (task < 0)
		no("pidfd_open");
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *d = opendir(path);
	if (!d)
		no(path);
	for (struct dirent *e; (e = readdir(d));) {
		int type, fd = e->d_name[0] == '.' ? -1 : atoi(e->d_name);
		socklen_t len = sizeof(type);
		if (fd < 0)
			continue;
		int sk = syscall(SYS_pidfd_getfd, task, fd, 0);
		if (sk < 0)
			no("pidfd_getfd");
		if (!getsockopt(sk, SOL_SOCKET, SO_TYPE, &type, &len)) {
			if (setsockopt(sk, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
				no("SO_SNDBUFFORCE");
			if (setsockopt(sk, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
				no("SO_RCVBUFFORCE");
			setsockopt(sk, SOL_SOCKET, 69 /* SO_PREFER_BUSY_POLL */, &(int){ 1 }, sizeof(int));
		}
		close(sk);
	}
	return 0;
}
