// SPDX-License-Identifier: Apache-2.0 OR MIT
// Directory, root, umask, comm, a deleted directory as cwd.
#include "subject.h"

static char base[PATH_MAX];

static void elsewhere(void)
{
	char want[PATH_MAX + 16];
	snprintf(want, sizeof(want), "%s/a/b", base);
	CHECK(!chdir(want));
	umask(0123);
	CHECK(!prctl(PR_SET_NAME, "elsewhere"));
	here_until_go();
	STREQ(link_of("/proc/self/cwd"), want);
	EQ(umask(0), 0123);
	char name[16];
	prctl(PR_GET_NAME, name);
	STREQ(name, "elsewhere");
}

static void jailed(void)
{
	char jail[PATH_MAX + 16];
	snprintf(jail, sizeof(jail), "%s/jail", base);
	here(); // while the path is still known
	CHECK(!chroot(jail) && !chdir("/inner"));
	while (access("/go", F_OK))
		msleep(3);
	CHECK(!access("/only-here", F_OK));
	char cwd[PATH_MAX];
	CHECK(getcwd(cwd, sizeof(cwd)));
	if (strcmp(cwd, "/inner") || !access("/proc", F_OK))
		_exit(5);
}

static void in_deleted(void)
{
	char gone[PATH_MAX + 16];
	struct stat st;
	snprintf(gone, sizeof(gone), "%s/gone", base);
	CHECK(!mkdir(gone, 0700) && !chdir(gone) && !rmdir(gone));
	here_until_go();
	CHECK(!stat(".", &st));
	EQ(st.st_nlink, 0);
	CHECK(access(gone, F_OK) == -1);
}

static void subject(int argc, char **argv)
{
	char path[PATH_MAX + 32];
	strcpy(base, subject_dir);
	const char *dirs[] = { "a", "a/b", "jail", "jail/inner", 0 };
	for (int i = 0; dirs[i]; i++) {
		snprintf(path, sizeof(path), "%s/%s", base, dirs[i]);
		CHECK(!mkdir(path, 0755));
	}
	snprintf(path, sizeof(path), "%s/jail/only-here", base);
	close(open(path, O_CREAT | O_WRONLY, 0644));
	pid_t a = child(elsewhere), j = child(jailed), d = child(in_deleted);
	CHECK(!chdir("/etc"));
	umask(027);
	msleep(20);

	ready();

	EQ(umask(0), 027);
	snprintf(path, sizeof(path), "%s/jail/go", base);
	close(open(path, O_CREAT | O_WRONLY, 0644));
	STREQ(link_of("/proc/self/cwd"), "/etc");
	reap(a);
	reap(d);
	reap(j);
	STREQ(link_of("/proc/self/root"), "/");
	CHECK(strstr(link_of("/proc/self/exe"), "subject-fs"));
	ok();
}
