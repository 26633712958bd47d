// SPDX-License-Identifier: Apache-2.0 OR MIT
// Options of sockets whose value is an int.
#ifndef SOCKOPT_H
#define SOCKOPT_H
#include "subject.h"

static UNUSED int opt(int s, int level, int name)
{
	int v = -1;
	socklen_t l = sizeof(v);
	CHECK(!getsockopt(s, level, name, &v, &l));
	return v;
}

static UNUSED void set(int s, int level, int name, int v)
{
	CHECK(!setsockopt(s, level, name, &v, sizeof(v)));
}

#endif
