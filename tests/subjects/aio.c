// SPDX-License-Identifier: Apache-2.0 OR MIT
// AIO rings: contexts with the same id, free and with completed requests not yet taken.
#include "subject.h"
#include <linux/aio_abi.h>

static void subject(int argc, char **argv)
{
	aio_context_t ctx = 0, second = 0;
	static char data[512] __attribute__((aligned(512)));
	SETUP_OR_SKIP(!syscall(SYS_io_setup, 16, &ctx));
	CHECK(!syscall(SYS_io_setup, 64, &second));
	int fd = open(in_dir("aio"), O_RDWR | O_CREAT, 0600);
	struct iocb cb = { .aio_data = 99, .aio_fildes = fd, .aio_lio_opcode = IOCB_CMD_PWRITE,
			   .aio_buf = (uintptr_t)data, .aio_nbytes = sizeof(data) };
	struct iocb *list[1] = { &cb };
	strcpy(data, "by aio");
	// Move the ring's head and tail away from zero.
	struct io_event ev;
	for (int i = 0; i < 3; i++) {
		EQ(syscall(SYS_io_submit, ctx, 1, list), 1);
		EQ(syscall(SYS_io_getevents, ctx, 1, 1, &ev, 0), 1);
	}
	cb.aio_data = 100;
	EQ(syscall(SYS_io_submit, ctx, 1, list), 1);
	msleep(30);

	ready();

	EQ(syscall(SYS_io_getevents, ctx, 1, 1, &ev, 0), 1);
	EQ(ev.data, 100);
	EQ(ev.res, 512);
	cb.aio_data = 7;
	for (int i = 0; i < 40; i++) {
		EQ(syscall(SYS_io_submit, second, 1, list), 1);
		EQ(syscall(SYS_io_getevents, second, 1, 1, &ev, 0), 1);
		EQ(ev.data, 7);
	}
	CHECK(!syscall(SYS_io_destroy, ctx) && !syscall(SYS_io_destroy, second));
	compare_maps = 0;
	ok();
}
