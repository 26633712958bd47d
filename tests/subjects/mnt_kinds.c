// SPDX-License-Identifier: Apache-2.0 OR MIT
// mnt_kinds DIR KIND: a file system of one kind, mounted at /mnt/at, seen again through a read-only
// bind, worked in and open. What is in most of them is the kernel's, before and after.
#include "content.h"
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#define AT "/mnt/at"
#define AGAIN "/mnt/again"

static const char *what;
#define IS(name) (!strcmp(what, name))

static char *in_at(const char *name)
{
	static char path[PATH_MAX];
	snprintf(path, sizeof(path), AT "/%s", name);
	return path;
}

// The mount at `path` without numbers.
static void describe(const char *path, char *out, size_t size)
{
	char line[1024], at[256], root[256], options[256];
	FILE *f = fopen("/proc/self/mountinfo", "re");
	CHECK(f);
	*out = 0;
	while (fgets(line, sizeof(line), f)) {
		char *tail = strstr(line, " - ");
		if (sscanf(line, "%*d %*d %*s %255s %255s %255s", root, at, options) == 3 &&
		    !strcmp(at, path))
			snprintf(out, size, "%s %s %s%s", root, at, options, tail);
	}
	fclose(f);
}

static int mounted(void)
{
	if (IS("devtmpfs"))
		return !mount("dev", AT, what, MS_NOSUID | MS_NOEXEC, "mode=755");
	if (IS("overlay")) {
		const char *dirs[] = { "/mnt/l1", "/mnt/l2", "/mnt/u", "/mnt/w" };
		for (int i = 0; i < 4; i++)
			CHECK(!mkdir(dirs[i], 0755));
		put("/mnt/l1/changed", "lower");
		put("/mnt/l1/removed", "lower");
		put("/mnt/l2/plain", "lowest");
		return !mount("over", AT, what, MS_NODEV,
			      "lowerdir=/mnt/l1:/mnt/l2,upperdir=/mnt/u,workdir=/mnt/w");
	}
	return !mount("none", AT, what, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

// A file of each kind that is always there.
static const char *known(void)
{
	return IS("devtmpfs") ? "null" : IS("sysfs") ? "kernel/mm" : IS("cgroup2") ? "cgroup.procs" : ".";
}

static void subject(int argc, char **argv)
{
	char before[2][1024], after[2][1024], buf[64] = "x", cwd[PATH_MAX];
	struct stat node, st;
	struct statfs fs, now;
	what = argc > 2 ? argv[2] : "";
	CHECK(!mount("work", "/mnt", "tmpfs", 0, "size=1m,mode=755"));
	CHECK(!mkdir(AT, 0755) && !mkdir(AGAIN, 0755));
	SETUP_OR_SKIP(mounted());
	if (IS("overlay")) {
		put(AT "/changed", "upper");
		put(AT "/new", "new");
		CHECK(!unlink(AT "/removed"));
	}
	CHECK(!mount(AT, AGAIN, NULL, MS_BIND, NULL));
	CHECK(!mount(NULL, AGAIN, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		     NULL));
	int bound = -1, zero = -1, open_file = -1;
	if (IS("devtmpfs")) {
		int fd = open("/mnt/null", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		close(fd);
		CHECK(!mount(AT "/null", "/mnt/null", NULL, MS_BIND, NULL));
		bound = open("/mnt/null", O_RDWR);
		zero = open(AT "/zero", O_RDONLY);
		CHECK(bound >= 0 && zero >= 0);
	}
	if (IS("overlay")) {
		open_file = open(AT "/plain", O_RDONLY);
		CHECK(open_file >= 0);
	}
	CHECK(!chdir(AT) && !statfs(AT, &fs) && !stat(in_at(known()), &node));
	int dir = open(AT, O_RDONLY | O_DIRECTORY);
	CHECK(dir >= 0);
	describe(AT, before[0], sizeof(before[0]));
	describe(AGAIN, before[1], sizeof(before[1]));

	ready();

	describe(AT, after[0], sizeof(after[0]));
	describe(AGAIN, after[1], sizeof(after[1]));
	STREQ(after[0], before[0]);
	STREQ(after[1], before[1]);
	CHECK(!statfs(AT, &now));
	EQ(now.f_type, fs.f_type);
	CHECK(getcwd(cwd, sizeof(cwd)));
	STREQ(cwd, AT);
	CHECK(!stat(in_at(known()), &st));
	EQ(st.st_mode, node.st_mode);
	EQ(st.st_rdev, node.st_rdev);
	CHECK(!fstatat(dir, known(), &st, 0));
	EQ(st.st_mode, node.st_mode);
	CHECK(open(AGAIN "/some", O_CREAT | O_WRONLY, 0600) < 0);
	CHECK(errno == EROFS || errno == EACCES || errno == EPERM);
	if (IS("devtmpfs")) {
		// One for the whole machine: the very same nodes.
		EQ(st.st_ino, node.st_ino);
		EQ(st.st_rdev, makedev(1, 3));
		CHECK(!stat("/mnt/null", &st));
		EQ(st.st_ino, node.st_ino);
		CHECK(!stat("null", &st));
		EQ(st.st_dev, node.st_dev);
		EQ(write(bound, "x", 1), 1);
		EQ(read(zero, buf, 1), 1);
		EQ(buf[0], 0);
	}
	if (IS("overlay")) {
		holds(AT "/changed", "upper");
		holds("plain", "lowest");
		holds(AGAIN "/new", "new");
		holds("/mnt/u/new", "new");
		holds("/mnt/l1/changed", "lower");
		CHECK(access(AT "/removed", F_OK) < 0);
		EQ(pread(open_file, buf, sizeof(buf), 0), 6);
		put("plain", "copied");
		holds("/mnt/u/plain", "copied");
		holds("/mnt/l2/plain", "lowest");
	}
	ok();
}
