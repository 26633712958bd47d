// SPDX-License-Identifier: Apache-2.0 OR MIT
// What a small file holds.
#ifndef CONTENT_H
#define CONTENT_H
#include "subject.h"

static UNUSED int has(const char *path, const char *text)
{
	char got[256] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, got, sizeof(got) - 1);
	close(fd);
	return n >= 0 && !strcmp(got, text);
}

static UNUSED void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		BAD("create %s: %s", path, strerror(errno));
	EQ(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static UNUSED void holds(const char *path, const char *text)
{
	char got[256] = "";
	if (has(path, text))
		return;
	slurp(path, got, sizeof(got));
	BAD("%s has \"%s\" instead of \"%s\"", path, got, text);
}

#endif
