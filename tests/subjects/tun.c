// SPDX-License-Identifier: Apache-2.0 OR MIT
// Descriptors of tun and tap links: not attached, of a link that ends with it, shared with a child, of two
// queues, one of which is not in use, of a persistent link. `sndbuf`: with its send buffer.
#include "subject.h"
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

static int opened(void)
{
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	SETUP_OR_SKIP(fd >= 0);
	return fd;
}

static int attach(int fd, const char *name, int flags)
{
	struct ifreq ifr = { .ifr_flags = flags };
	strcpy(ifr.ifr_name, name);
	return ioctl(fd, TUNSETIFF, &ifr);
}

static int queue(int fd, int flags)
{
	struct ifreq ifr = { .ifr_flags = flags };
	return ioctl(fd, TUNSETQUEUE, &ifr);
}

static int flags_of(int fd, const char *name)
{
	struct ifreq ifr = { 0 };
	if (ioctl(fd, TUNGETIFF, &ifr))
		return -errno;
	STREQ(ifr.ifr_name, name);
	return (unsigned short)ifr.ifr_flags;
}

static int tap;

static void other(void)
{
	here_until_go();
	CHECK(flags_of(tap, "tap0") > 0);
	await("checked");
}

static int exists(const char *name)
{
	char path[64];
	static char text[8192];
	slurp("/proc/net/dev", text, sizeof(text));
	snprintf(path, sizeof(path), "%s:", name);
	return !!strstr(text, path);
}

static void subject(int argc, char **argv)
{
	int sndbuf = 0, got = 0, on = 1, carry = 12;
	int plain = opened(), q1 = opened(), q2 = opened(), keep = opened();
	tap = opened();
	CHECK(!attach(tap, "tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR));
	CHECK(!ioctl(tap, TUNSETVNETHDRSZ, &carry));
	sndbuf = 100000;
	CHECK(!ioctl(tap, TUNSETSNDBUF, &sndbuf));
	CHECK(!attach(q1, "tunq", IFF_TUN | IFF_MULTI_QUEUE));
	CHECK(!attach(q2, "tunq", IFF_TUN | IFF_MULTI_QUEUE));
	CHECK(!queue(q2, IFF_DETACH_QUEUE));
	CHECK(!attach(keep, "tunp", IFF_TUN | IFF_NO_PI));
	CHECK(!ioctl(keep, TUNSETPERSIST, on));
	int before[] = { flags_of(tap, "tap0"), flags_of(q1, "tunq"), flags_of(q2, "tunq"), flags_of(keep, "tunp") };
	struct ifreq address = { .ifr_name = "tap0" }, again = { .ifr_name = "tap0" };
	CHECK(!ioctl(tap, SIOCGIFHWADDR, &address));
	pid_t pid = child(other);

	ready();

	EQ(flags_of(plain, ""), -EBADFD);
	int fds[] = { tap, q1, q2, keep };
	const char *names[] = { "tap0", "tunq", "tunq", "tunp" };
	for (int i = 0; i < 4; i++)
		EQ(flags_of(fds[i], names[i]), before[i]);
	CHECK(!ioctl(tap, SIOCGIFHWADDR, &again));
	CHECK(!memcmp(&address.ifr_hwaddr, &again.ifr_hwaddr, sizeof(again.ifr_hwaddr)));
	CHECK(!ioctl(tap, TUNGETVNETHDRSZ, &got));
	EQ(got, 12);
	if (argc > 2) {
		CHECK(!ioctl(tap, TUNGETSNDBUF, &got));
		EQ(got, 100000);
	}
	EQ(fcntl(tap, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	CHECK(!queue(q1, IFF_DETACH_QUEUE));
	CHECK(!queue(q2, IFF_ATTACH_QUEUE));
	mark("checked");
	reap(pid);
	close(tap);
	close(q1);
	close(q2);
	close(keep);
	CHECK(!exists("tap0") && !exists("tunq") && exists("tunp"));
	CHECK(!attach(plain, "tunnew", IFF_TUN));
	ok();
}
