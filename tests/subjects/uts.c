// SPDX-License-Identifier: Apache-2.0 OR MIT
// Host and domain name of a UTS namespace; an argument is what the host is called afterwards.
#include "subject.h"
#include <sys/utsname.h>

static void subject(int argc, char **argv)
{
	struct utsname u;
	ready();
	uname(&u);
	STREQ(u.nodename, argc > 2 ? argv[2] : "amber-uts");
	if (argc <= 2)
		STREQ(u.domainname, "amber.domain");
	ok();
}
