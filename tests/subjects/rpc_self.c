// SPDX-License-Identifier: Apache-2.0 OR MIT
// Asks a criu service to dump itself, and hears there that it has been restored.
#include "subject.h"
#include <sys/un.h>

static void subject(int argc, char **argv)
{
	int sk = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	snprintf(to.sun_path, sizeof(to.sun_path), "%s", in_dir("service"));
	CHECK(!connect(sk, (void *)&to, sizeof(to)));
	int dir = open(in_dir("images"), O_RDONLY | O_DIRECTORY);
	CHECK(dir >= 0 && dir < 128);
	say("ready %d", getpid());
	// criu_req { type: DUMP, opts { images_dir_fd: dir, log_level: 4, log_file: "dump.log" } }
	const unsigned char request[] = { 0x08, 1,    0x12, 14,	 0x08, dir, 0x48, 4,   0x52, 8,
					  'd',	'u',  'm',  'p', '.',  'l', 'o',  'g' };
	EQ(send(sk, request, sizeof(request), 0), sizeof(request));
	unsigned char answer[4096];
	ssize_t n = recv(sk, answer, sizeof(answer), 0);
	CHECK(n > 6);
	// type: DUMP, success: true, dump { restored: true }
	const unsigned char want[] = { 0x08, 1, 0x10, 1, 0x1a, 2, 0x08, 1 };
	CHECK(n >= (ssize_t)sizeof(want) && !memcmp(answer, want, sizeof(want)));
	EQ(recv(sk, answer, sizeof(answer), 0), 0);
	ok();
}
