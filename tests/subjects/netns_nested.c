// SPDX-License-Identifier: Apache-2.0 OR MIT
// Two network namespaces, connected by a pair of links, each with a task; one socket belongs to
// another namespace than the task that holds it.
#include "subject.h"
#include <arpa/inet.h>
#include <sched.h>

static int udp(const char *ip, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, ip, &a.sin_addr);
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(s >= 0 && !bind(s, (struct sockaddr *)&a, sizeof(a)));
	return s;
}

static void reach(int s, const char *ip, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, ip, &a.sin_addr);
	char got[8] = "";
	struct timeval patience = { 5, 0 };
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	CHECK(sendto(s, "ping", 5, 0, (struct sockaddr *)&a, sizeof(a)) == 5);
	CHECK(recv(s, got, sizeof(got), 0) == 5);
	STREQ(got, "pong");
}

static void answer(int s)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	char got[8];
	while (recvfrom(s, got, sizeof(got), 0, (struct sockaddr *)&a, &len) == 5)
		sendto(s, "pong", 5, 0, (struct sockaddr *)&a, len);
}

// A process in a namespace of its own that answers pings at two ports.
static void other(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CHECK(!unshare(CLONE_NEWNET));
	mark("unshared");
	await("linked");
	CHECK(!system("ip link set lo up; ip addr add 10.7.0.2/24 dev inner; ip link set inner up"));
	int s = udp("10.7.0.2", 7777);
	mark("up");
	answer(s);
	_exit(0);
}

static void subject(int argc, char **argv)
{
	char line[256];
	pid_t child = fork();
	if (!child)
		other();
	await("unshared");
	snprintf(line, sizeof(line),
		 "ip link add index 30 outer type veth peer name inner && ip link set inner netns %d "
		 "&& ip addr add 10.7.0.1/24 dev outer && ip link set outer up", child);
	SETUP_OR_SKIP(!system(line));
	mark("linked");
	await("up");
	int mine = udp("10.7.0.1", 7000);
	// A socket of the child's namespace, in our hands.
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/net", child);
	int home = open("/proc/self/ns/net", O_RDONLY), there = open(path, O_RDONLY);
	CHECK(home >= 0 && there >= 0 && !setns(there, CLONE_NEWNET));
	int theirs = udp("127.0.0.1", 7001);
	CHECK(!setns(home, CLONE_NEWNET));
	close(home);
	close(there);
	reach(mine, "10.7.0.2", 7777);
	reach(theirs, "10.7.0.2", 7777);
	ready();
	reach(mine, "10.7.0.2", 7777);
	reach(theirs, "10.7.0.2", 7777);
	// It is the child's port that is taken, not ours.
	close(udp("127.0.0.1", 7001));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	ok();
}
