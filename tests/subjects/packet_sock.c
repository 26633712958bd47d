// SPDX-License-Identifier: Apache-2.0 OR MIT
// Packet sockets of all types, with options, memberships, fanout and rings, which are mapped; new packets come
// in. `more`: what images of CRIU have no room for.
#include "subject.h"
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/ioctl.h>

static int get(int sk, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);
	CHECK(!getsockopt(sk, SOL_PACKET, name, &value, &len));
	return value;
}

static void set(int sk, int name, int value)
{
	CHECK(!setsockopt(sk, SOL_PACKET, name, &value, sizeof(value)));
}

static int member(int sk, int name, int type, int alen)
{
	struct packet_mreq m = { .mr_ifindex = 1, .mr_type = type, .mr_alen = alen };
	return setsockopt(sk, SOL_PACKET, name, &m, sizeof(m));
}

static void name_of(int sk, struct sockaddr_ll *to)
{
	socklen_t len = sizeof(*to);
	memset(to, 0, sizeof(*to));
	CHECK(!getsockname(sk, (void *)to, &len));
}

static void bind_lo(int sk, int protocol)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_ifindex = 1, .sll_protocol = protocol };
	CHECK(!bind(sk, (void *)&at, sizeof(at)));
}

static void subject(int argc, char **argv)
{
	compare_maps = 0;  // the name has the number of the inode
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(!ioctl(udp, SIOCSIFFLAGS, &lo));
	int raw = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	SETUP_OR_SKIP(raw >= 0);
	int dgram = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));
	int old = socket(AF_PACKET, SOCK_PACKET, htons(ETH_P_ALL));
	int all = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
	CHECK(dgram >= 0 && old >= 0 && all >= 0);

	struct tpacket_req ring = { .tp_block_size = 4096, .tp_block_nr = 2, .tp_frame_size = 1024, .tp_frame_nr = 8 };
	set(raw, PACKET_VERSION, TPACKET_V2);
	set(raw, PACKET_AUXDATA, 1);
	set(raw, PACKET_RESERVE, 16);
	CHECK(!setsockopt(raw, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
	ring.tp_block_nr = 1, ring.tp_frame_nr = 4;
	CHECK(!setsockopt(raw, SOL_PACKET, PACKET_TX_RING, &ring, sizeof(ring)));
	char *map = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, raw, 0);
	CHECK(map != MAP_FAILED);
	CHECK(!member(raw, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, 0));

	bind_lo(dgram, 0);
	set(dgram, PACKET_ORIGDEV, 1);
	set(dgram, PACKET_TIMESTAMP, 1 << 6);
	set(dgram, PACKET_FANOUT, 13 | PACKET_FANOUT_LB << 16);
	CHECK(!member(dgram, PACKET_ADD_MEMBERSHIP, PACKET_MR_UNICAST, 6));

	struct sockaddr name = { .sa_family = AF_PACKET, .sa_data = "lo" };
	CHECK(!bind(old, &name, sizeof(name)));
	bind_lo(all, htons(ETH_P_ALL));
	if (argc > 2) {
		set(all, PACKET_QDISC_BYPASS, 1);
		CHECK(!member(raw, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, 0));
	}
	struct sockaddr_ll before[4], after;
	int sks[] = { raw, dgram, old, all };
	for (int i = 0; i < 4; i++)
		name_of(sks[i], &before[i]);
	struct stat st;
	char text[4096], *line, *save, wanted[64];

	ready();

	for (int i = 0; i < 4; i++) {
		name_of(sks[i], &after);
		if (i != 2)
			CHECK(!memcmp(&before[i], &after, sizeof(after)));
	}
	EQ(fcntl(raw, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(all, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	EQ(get(raw, PACKET_VERSION), TPACKET_V2);
	EQ(get(raw, PACKET_AUXDATA), 1);
	EQ(get(raw, PACKET_RESERVE), 16);
	EQ(get(dgram, PACKET_ORIGDEV), 1);
	EQ(get(dgram, PACKET_TIMESTAMP), 1 << 6);
	EQ(get(dgram, PACKET_FANOUT), 13 | PACKET_FANOUT_LB << 16);
	CHECK(!member(raw, PACKET_DROP_MEMBERSHIP, PACKET_MR_PROMISC, 0));
	if (argc > 2) {
		EQ(get(all, PACKET_QDISC_BYPASS), 1);
		CHECK(!member(raw, PACKET_DROP_MEMBERSHIP, PACKET_MR_PROMISC, 0));
	}
	// Leaving a group that one is not in is no error: the device tells.
	CHECK(!member(dgram, PACKET_DROP_MEMBERSHIP, PACKET_MR_UNICAST, 6));

	// A packet, in the ring and in the queues.
	bind_lo(raw, htons(ETH_P_ALL));
	while (read(all, text, sizeof(text)) > 0)
		;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = { htonl(0x7f000001) } };
	EQ(sendto(udp, "packet", 6, 0, (void *)&to, sizeof(to)), 6);
	struct pollfd fds[] = { { raw, POLLIN }, { dgram, POLLIN }, { old, POLLIN }, { all, POLLIN } };
	for (int i = 0; i < 4; i++) {
		if (poll(&fds[i], 1, 2000) != 1)
			BAD("no packet in socket %d", i);
	}
	CHECK(memmem(map, 2 * 4096, "packet", 6));
	CHECK(read(all, text, sizeof(text)) == 14 + 28 + 6 && !memcmp(text + 42, "packet", 6));
	CHECK(read(dgram, text, sizeof(text)) == 28 + 6);

	// The mapping is the socket's.
	CHECK(!fstat(raw, &st));
	snprintf(wanted, sizeof(wanted), "socket:[%lu]", (unsigned long)st.st_ino);
	static char maps[256 * 1024];
	slurp("/proc/self/maps", maps, sizeof(maps));
	for (line = strtok_r(maps, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (strstr(line, wanted))
			ok();
	BAD("%s is not mapped", wanted);
}
