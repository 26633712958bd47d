// SPDX-License-Identifier: Apache-2.0 OR MIT
// mnt_nested DIR: a child in a mount namespace of its own, with mounts of its own, shared ones and
// slaves of the parent's; files open in the one and the other.
#include "subject.h"
#include "content.h"
#include <sched.h>
#include <sys/mount.h>

static void mnt(const char *source, const char *at, const char *type, unsigned long flags,
		const char *data)
{
	if (mount(source, at, type, flags, data))
		BAD("mount %s at %s: %s", source, at, strerror(errno));
}

static void inner(void)
{
	char text[16];
	EQ(unshare(CLONE_NEWNS), 0);
	mnt(NULL, "/mnt/slave", NULL, MS_SLAVE, NULL);
	mnt(NULL, "/mnt/alone", NULL, MS_PRIVATE, NULL);
	mnt("own", "/mnt/alone", "tmpfs", 0, "size=1m");
	put("/mnt/alone/own", "mine");
	mkdir("/mnt/alone/root", 0755);
	EQ(chdir("/mnt/alone"), 0);
	int own = open("own", O_RDWR), ghost = open("ghost", O_RDWR | O_CREAT, 0600);
	int shared = open("/mnt/shared/file", O_RDWR);
	CHECK(own >= 0 && ghost >= 0 && shared >= 0);
	EQ(write(ghost, "ghost", 5), 5);
	EQ(unlink("ghost"), 0);
	here_until_go();
	CHECK(has("own", "mine"));
	CHECK(has("/mnt/alone/own", "mine"));
	EQ(pread(own, text, 16, 0), 4);
	EQ(pread(ghost, text, 16, 0), 5);
	CHECK(!memcmp(text, "ghost", 5));
	EQ(pwrite(shared, "from below", 10, 0), 10);
	// What the parent mounts comes to the shared ones and the slaves.
	await("mounted");
	CHECK(has("/mnt/shared/new/file", "new"));
	CHECK(has("/mnt/slave/new/file", "new"));
	CHECK(!has("/mnt/alone/new/file", "new"));
	mkdir("/mnt/slave/below", 0755);
	mnt("below", "/mnt/slave/below", "tmpfs", 0, NULL);
	put("/mnt/slave/below/file", "below");
	mkdir("/mnt/shared/up", 0755);
	mnt("up", "/mnt/shared/up", "tmpfs", 0, NULL);
	put("/mnt/shared/up/file", "up");
}

static void subject(int argc, char **argv)
{
	char path[128], mine[64], its[64];
	struct stat st;
	const char *dirs[] = { "/mnt/shared", "/mnt/slave", "/mnt/alone" };
	mnt("base", "/mnt", "tmpfs", 0, NULL);
	for (int i = 0; i < 3; i++) {
		EQ(mkdir(dirs[i], 0755), 0);
		mnt(dirs[i], dirs[i], "tmpfs", 0, NULL);
		mnt(NULL, dirs[i], NULL, MS_SHARED, NULL);
	}
	put("/mnt/shared/file", "shared");
	put("/mnt/alone/file", "under it");
	pid_t pid = child(inner);
	// A file of the child's namespace, open in ours.
	snprintf(path, sizeof(path), "/proc/%d/root/mnt/alone/own", pid);
	int across = open(path, O_RDONLY);
	CHECK(across >= 0);
	ready();
	EQ(readlink("/proc/self/ns/mnt", mine, sizeof(mine)), 16);
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	EQ(readlink(path, its, sizeof(its)), 16);
	CHECK(memcmp(mine, its, 16));
	char text[16];
	EQ(pread(across, text, 16, 0), 4);
	EQ(fstat(across, &st), 0);
	CHECK(has("/mnt/alone/file", "under it"));
	CHECK(access("/mnt/alone/own", F_OK) < 0);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/new", dirs[i]);
		EQ(mkdir(path, 0755), 0);
		mnt("new", path, "tmpfs", 0, NULL);
		snprintf(path, sizeof(path), "%s/new/file", dirs[i]);
		put(path, "new");
	}
	mark("mounted");
	reap(pid);
	CHECK(has("/mnt/shared/file", "from below"));
	CHECK(has("/mnt/shared/up/file", "up"));
	CHECK(!has("/mnt/slave/below/file", "below"));
	ok();
}
