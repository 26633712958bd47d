// SPDX-License-Identifier: Apache-2.0 OR MIT
// Host and domain name of a UTS namespace.
#include "subject.h"
#include <sys/utsname.h>

static void subject(int argc, char **argv)
{
	struct utsname u;
	ready();
	uname(&u);
	STREQ(u.nodename, "amber-uts");
	STREQ(u.domainname, "amber.domain");
	ok();
}
