// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Both ends of a tested connection: pattern bytes, so that none may be lost,
// added or moved, and a count at the end, told through a file.
#ifndef TCP_STREAM_H
#define TCP_STREAM_H
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define PORT 7100

union address {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

// 4: IPv4, 6: IPv6, m: IPv4 mapped into IPv6.
static socklen_t address_of(union address *a, char family)
{
	memset(a, 0, sizeof(*a));
	if (family == '4') {
		a->v4.sin_family = AF_INET;
		a->v4.sin_port = htons(PORT);
		a->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(a->v4);
	}
	a->v6.sin6_family = AF_INET6;
	a->v6.sin6_port = htons(PORT);
	inet_pton(AF_INET6, family == '6' ? "::1" : "::ffff:127.0.0.1", &a->v6.sin6_addr);
	return sizeof(a->v6);
}

struct end {
	int fd;
	unsigned long sent, received;
	int eof;
};

static unsigned char pattern(unsigned long at)
{
	return at * 31 + (at >> 8) * 7 + (at >> 16) * 13;
}

static unsigned char chunk[65536];

// Writes up to `max` bytes; how many were taken, or -1 for an error.
static long put(struct end *e, unsigned long max)
{
	unsigned long n = max < sizeof(chunk) ? max : sizeof(chunk);
	for (unsigned long i = 0; i < n; i++)
		chunk[i] = pattern(e->sent + i);
	ssize_t w = send(e->fd, chunk, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (w < 0)
		return errno == EAGAIN ? 0 : -1;
	e->sent += w;
	return w;
}

// Reads and checks what is there; -1 for an error, -2 for a wrong byte.
static long get(struct end *e)
{
	ssize_t r = recv(e->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	if (r < 0)
		return errno == EAGAIN ? 0 : -1;
	if (r == 0)
		e->eof = 1;
	for (ssize_t i = 0; i < r; i++)
		if (chunk[i] != pattern(e->received + i))
			return -2;
	e->received += r;
	return r;
}

// Writes until both sides' buffers are full for a while.
static void stuff(struct end *e)
{
	for (int idle = 0; idle < 60;) {
		if (put(e, sizeof(chunk)) > 0)
			idle = 0;
		else
			idle++, usleep(5000);
	}
}
#endif
