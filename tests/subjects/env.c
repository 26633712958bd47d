// SPDX-License-Identifier: Apache-2.0 OR MIT
// The simplest program: memory, stack, heap, environment, command line, auxv.
#include "subject.h"
#include <sys/auxv.h>

static char filled[64 * 1024];

static void subject(int argc, char **argv)
{
	static char cmdline[4096], environ_[16384], auxv[4096], now[16384];
	CHECK(setenv("SUBJECT", "set at run time", 1) == 0);
	char *heap = malloc(300000);
	char stack[20000];
	for (int i = 0; i < 300000; i++)
		heap[i] = i * 7;
	for (int i = 0; i < (int)sizeof(stack); i++)
		stack[i] = i * 3;
	for (int i = 0; i < (int)sizeof(filled); i++)
		filled[i] = i * 5;
	size_t c = slurp("/proc/self/cmdline", cmdline, sizeof(cmdline));
	size_t e = slurp("/proc/self/environ", environ_, sizeof(environ_));
	size_t a = slurp("/proc/self/auxv", auxv, sizeof(auxv));
	unsigned long random = *(unsigned long *)getauxval(AT_RANDOM);

	ready();

	STREQ(getenv("SUBJECT"), "set at run time");
	for (int i = 0; i < 300000; i++)
		CHECK(heap[i] == (char)(i * 7));
	for (int i = 0; i < (int)sizeof(stack); i++)
		CHECK(stack[i] == (char)(i * 3));
	for (int i = 0; i < (int)sizeof(filled); i++)
		CHECK(filled[i] == (char)(i * 5));
	EQ(slurp("/proc/self/cmdline", now, sizeof(now)), c);
	CHECK(!memcmp(now, cmdline, c));
	EQ(slurp("/proc/self/environ", now, sizeof(now)), e);
	CHECK(!memcmp(now, environ_, e));
	EQ(slurp("/proc/self/auxv", now, sizeof(now)), a);
	CHECK(!memcmp(now, auxv, a));
	EQ(*(unsigned long *)getauxval(AT_RANDOM), random);
	free(heap);
	ok();
}
