// SPDX-License-Identifier: Apache-2.0 OR MIT
// Process 1 of a sandbox: brings `lo` up, mounts terminals, reaps, and ends all with it.
#define _GNU_SOURCE
#include <net/if.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	struct ifreq lo;
	memset(&lo, 0, sizeof(lo));
	strcpy(lo.ifr_name, "lo");
	lo.ifr_flags = IFF_UP | IFF_RUNNING;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ioctl(s, SIOCSIFFLAGS, &lo);
	close(s);
	// Terminal numbers of our own as well.
	if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"))
		return 2;
	sigset_t chld;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, 0);
	if (write(1, "up\n", 3) != 3)
		return 1;
	for (;;) {
		while (waitpid(-1, 0, WNOHANG) > 0)
			;
		sigwaitinfo(&chld, 0);
	}
}
