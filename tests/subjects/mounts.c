// SPDX-License-Identifier: Apache-2.0 OR MIT
// mounts DIR: mounts of many kinds in a namespace of its own; they, what they share and what is in
// them stays, and files that are open on them.
#include "content.h"
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static int user_ns;

static void mnt(const char *source, const char *at, const char *type, unsigned long flags,
		const char *data)
{
	if (mount(source, at, type, flags, data))
		BAD("mount %s at %s: %s", source, at, strerror(errno));
}

static void dir(const char *path)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		BAD("mkdir %s: %s", path, strerror(errno));
}

static int cmp(const void *a, const void *b)
{
	return strcmp(*(char **)a, *(char **)b);
}

// Mounts by mountpoint, without numbers, peer groups by their order: what has to stay the same.
static char *describe(void)
{
	static char text[1 << 16], out[1 << 16];
	char *lines[256], *save, *end;
	int n = 0, groups[256], known = 0;
	int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	size_t len = 0;
	for (ssize_t got; (got = read(fd, text + len, sizeof(text) - 1 - len)) > 0;)
		len += got;
	text[len] = 0;
	close(fd);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		for (int skip = 0; skip < 3; skip++)
			line = strchr(line, ' ') + 1;
		lines[n++] = line;
	}
	qsort(lines, n, sizeof(*lines), cmp);
	end = out;
	for (int i = 0; i < n; i++) {
		for (char *p = lines[i]; *p;) {
			int at = !strncmp(p, "shared:", 7) || !strncmp(p, "master:", 7) ? 7 : 0;
			if (!at) {
				*end++ = *p++;
				continue;
			}
			int group = strtol(p + at, &p, 10), g = 0;
			while (g < known && groups[g] != group)
				g++;
			if (g == known)
				groups[known++] = group;
			end += sprintf(end, "%s:%d", at == 7 && p[-1] ? "group" : "group", g);
		}
		*end++ = '\n';
	}
	*end = 0;
	return out;
}

static void content(const char *at)
{
	char path[PATH_MAX], other[PATH_MAX];
	struct timespec times[2] = { { 1000000000, 0 }, { 1000000001, 123456789 } };
#define IN(name) (snprintf(path, sizeof(path), "%s/%s", at, name), path)
	dir(IN("deep"));
	put(IN("deep/file"), "content");
	chmod(IN("deep/file"), 04751);
	snprintf(other, sizeof(other), "%s/hard", at);
	CHECK(link(IN("deep/file"), other) == 0);
	CHECK(symlink("../x//y", IN("deep/link")) == 0);
	CHECK(mkfifo(IN("fifo"), 0600) == 0);
	if (!user_ns)
		CHECK(mknod(IN("device"), S_IFCHR | 0640, makedev(1, 5)) == 0);
	int fd = open(IN("sparse"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	CHECK(fd >= 0);
	EQ(pwrite(fd, "end", 3, 10 << 20), 3);
	EQ(pwrite(fd, "middle", 6, 5 << 20), 6);
	EQ(ftruncate(fd, 20 << 20), 0);
	close(fd);
	EQ(chown(IN("hard"), 17, 18), 0);
	chmod(IN("hard"), 04751);
	EQ(utimensat(AT_FDCWD, IN("deep/file"), times, 0), 0);
	setxattr(IN("deep/file"), "trusted.amber", "va\nue", 5, 0);
	EQ(chmod(at, 01777), 0);
}

static void check_content(const char *at, int ours)
{
	char path[PATH_MAX], text[64];
	struct stat a, b;
	holds(IN("deep/file"), "content");
	EQ(stat(IN("deep/file"), &a), 0);
	EQ(stat(IN("hard"), &b), 0);
	EQ(a.st_ino, b.st_ino);
	EQ(a.st_mode, S_IFREG | 04751);
	EQ(a.st_uid, 17);
	EQ(a.st_gid, 18);
	EQ(a.st_mtime, 1000000001);
	EQ(readlink(IN("deep/link"), text, sizeof(text)), 7);
	CHECK(!memcmp(text, "../x//y", 7));
	EQ(lstat(IN("fifo"), &a), 0);
	EQ(a.st_mode, S_IFIFO | 0600);
	if (!user_ns) {
		EQ(lstat(IN("device"), &a), 0);
		EQ(a.st_mode, S_IFCHR | 0640);
		EQ(a.st_rdev, makedev(1, 5));
	}
	EQ(stat(IN("sparse"), &a), 0);
	EQ(a.st_size, 20 << 20);
	CHECK(a.st_blocks < 200);
	int fd = open(IN("sparse"), O_RDONLY | O_CLOEXEC);
	EQ(pread(fd, text, 3, 10 << 20), 3);
	CHECK(!memcmp(text, "end", 3));
	close(fd);
	EQ(stat(at, &a), 0);
	EQ(a.st_mode, S_IFDIR | 01777);
	if (ours && !user_ns)
		CHECK(getxattr(IN("deep/file"), "trusted.amber", text, sizeof(text)) == 5 &&
		      !memcmp(text, "va\nue", 5));
}

static void subject(int argc, char **argv)
{
	// Whether extended attributes are to be expected.
	int ours = argc > 2 && !strcmp(argv[2], "xattr");
	char map[64] = "";
	int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
	CHECK(read(fd, map, sizeof(map) - 1) > 0);
	close(fd);
	user_ns = !strstr(map, "4294967295");

	mnt("work", "/mnt", "tmpfs", 0, "size=64m,mode=755");
	EQ(chdir("/mnt"), 0);
	const char *dirs[] = { "t",   "shared", "peer", "slave", "both", "priv", "unb",	 "over",
			       "sub", "deleted", "ro",	 "robind", "proc", "pts",	 "lazy" };
	for (size_t i = 0; i < sizeof(dirs) / sizeof(*dirs); i++)
		dir(dirs[i]);

	// Content, seen through a bind of a part, and of a file.
	mnt("t", "t", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOATIME, "size=32m,nr_inodes=100");
	content("/mnt/t");
	mnt("t/deep", "sub", NULL, MS_BIND, NULL);
	put("file", "");
	mnt("t/hard", "file", NULL, MS_BIND, NULL);

	// Peers, slaves, both, with mounts that went from one to the other.
	mnt("shared", "shared", "tmpfs", 0, NULL);
	mnt(NULL, "shared", NULL, MS_SHARED, NULL);
	dir("shared/in");
	mnt("shared", "peer", NULL, MS_BIND, NULL);
	mnt("shared", "slave", NULL, MS_BIND, NULL);
	mnt(NULL, "slave", NULL, MS_SLAVE, NULL);
	mnt("slave", "both", NULL, MS_BIND, NULL);
	mnt(NULL, "both", NULL, MS_SHARED, NULL);
	mnt("inner", "shared/in", "tmpfs", 0, NULL);
	put("peer/in/file", "inner");
	// Not like its peers: made after the bind, then taken away from one alone.
	mnt("shared", "priv", NULL, MS_BIND, NULL);
	mnt(NULL, "priv", NULL, MS_PRIVATE, NULL);
	mnt("unb", "unb", "tmpfs", 0, NULL);
	mnt(NULL, "unb", NULL, MS_UNBINDABLE, NULL);

	// One on the other, the lower with something in it.
	mnt("lower", "over", "tmpfs", 0, NULL);
	put("over/hidden", "lower");
	dir("over/dir");
	mnt("hidden", "over/dir", "tmpfs", 0, NULL);
	put("over/dir/file", "deep down");
	mnt("upper", "over", "tmpfs", MS_NOEXEC, "mode=700");
	put("over/shown", "upper");

	// A bind of what has been removed since.
	dir("t/gone");
	mnt("t/gone", "deleted", NULL, MS_BIND, NULL);
	EQ(rmdir("t/gone"), 0);

	// Read-only, as a whole and as a mount.
	mnt("ro", "ro", "tmpfs", 0, NULL);
	put("ro/file", "read-only");
	mnt("ro", "robind", NULL, MS_BIND, NULL);
	mnt(NULL, "ro", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	mnt("t", "lazy", NULL, MS_BIND, NULL);
	mnt(NULL, "lazy", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME, NULL);

	mnt("proc", "proc", "proc", MS_NOSUID, NULL);
	mnt("/proc/sys", "/proc/sys", NULL, MS_BIND, NULL);
	mnt(NULL, "/proc/sys", NULL,
	    MS_REMOUNT | MS_BIND | MS_RDONLY | (user_ns ? MS_NOSUID | MS_NODEV | MS_NOEXEC : 0), NULL);
	mnt("pts", "pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=600");

	// Open on them.
	int on_t = open("/mnt/sub/file", O_RDONLY), on_bind = open("/mnt/file", O_RDONLY);
	int on_ro = open("/mnt/robind/file", O_RDONLY), on_peer = open("/mnt/peer/in/file", O_RDWR);
	int ghost = open("/mnt/shared/ghost", O_RDWR | O_CREAT, 0600);
	CHECK(on_t >= 0 && on_bind >= 0 && on_ro >= 0 && on_peer >= 0 && ghost >= 0);
	EQ(write(ghost, "ghost", 5), 5);
	EQ(unlink("/mnt/shared/ghost"), 0);
	EQ(chdir("/mnt/sub"), 0);

	char *before = strdup(describe());
	ready();

	char *after = describe();
	if (strcmp(before, after)) {
		put(in_dir("before"), before);
		put(in_dir("after"), after);
		int at = 0;
		while (before[at] == after[at])
			at++;
		while (at > 0 && before[at - 1] != '\n')
			at--;
		BAD("mounts differ: had %.90s, have %.90s", before + at, after + at);
	}
	check_content("/mnt/t", ours);
	holds("file", "content");
	holds("/mnt/file", "content");
	holds("/mnt/peer/in/file", "inner");
	holds("/mnt/both/in/file", "inner");
	holds("/mnt/over/shown", "upper");
	holds("/mnt/ro/file", "read-only");
	CHECK(access("/mnt/priv/in/file", F_OK) < 0);
	CHECK(open("/mnt/lazy/new", O_CREAT | O_WRONLY, 0600) < 0);
	EQ(errno, EROFS);
	CHECK(open("/mnt/robind/new", O_CREAT | O_WRONLY, 0600) < 0);
	char text[16];
	EQ(pread(ghost, text, 16, 0), 5);
	EQ(pread(on_peer, text, 16, 0), 5);
	EQ(pwrite(on_peer, "INNER", 5, 0), 5);
	holds("/mnt/slave/in/file", "INNER");
	EQ(pread(on_t, text, 16, 0), 7);
	EQ(pread(on_bind, text, 16, 0), 7);
	EQ(pread(on_ro, text, 16, 0), 9);

	// What is mounted now goes where it went before.
	EQ(chdir("/mnt"), 0);
	EQ(umount("over"), 0);
	holds("over/hidden", "lower");
	holds("over/dir/file", "deep down");
	dir("shared/new");
	mnt("new", "shared/new", "tmpfs", 0, NULL);
	put("shared/new/file", "propagated");
	holds("peer/new/file", "propagated");
	holds("slave/new/file", "propagated");
	holds("both/new/file", "propagated");
	CHECK(access("priv/new/file", F_OK) < 0);
	dir("slave/own");
	mnt("own", "slave/own", "tmpfs", 0, NULL);
	put("slave/own/file", "x");
	CHECK(access("shared/own/file", F_OK) < 0);
	CHECK(mount("unb", "/mnt/sub", NULL, MS_BIND, NULL) < 0);
	ok();
}
