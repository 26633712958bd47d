// SPDX-License-Identifier: Apache-2.0 OR MIT
// Control groups: below groups named by the first argument, v2 and (where it is) v1 pids. A child
// in another group, a thread in another v1 group, owners and modes, a limit, an empty group.
// "ns": in a cgroup namespace. The second argument is the name that is right afterwards.
#include "subject.h"
#include <sched.h>

static char v2[PATH_MAX], v1[PATH_MAX], name[64], name_after[64];
static const char *child_group = "/b";
static int in_ns;

// Where our own group of a hierarchy is: below where it is mounted.
static int own_group(const char *fstype, const char *controller, char *out)
{
	static char text[256 * 1024], groups[64 * 1024];
	slurp("/proc/self/mountinfo", text, sizeof(text));
	slurp("/proc/self/cgroup", groups, sizeof(groups));
	char at[PATH_MAX] = "", own[PATH_MAX] = "", *save, *line;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char root[PATH_MAX], point[PATH_MAX], type[64], options[1024];
		char *sep = strstr(line, " - ");
		if (!sep || sscanf(line, "%*s %*s %*s %s %s", root, point) != 2 ||
		    sscanf(sep, " - %63s %*s %1023s", type, options) != 2)
			continue;
		char *found = strstr(options, controller);
		size_t len = strlen(controller);
		int has = !len || (found && (found[len] == ',' || !found[len]));
		if (!strcmp(type, fstype) && !strcmp(root, "/") && has && !at[0])
			strcpy(at, point);
	}
	for (line = strtok_r(groups, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *list = strchr(line, ':') + 1, *path = strchr(list, ':');
		*path++ = 0;
		if (!strcmp(list, controller))
			strcpy(own, path);
	}
	if (!at[0] || !own[0])
		return 0;
	snprintf(out, PATH_MAX, "%s%s", at, strcmp(own, "/") ? own : "");
	return 1;
}

static const char *file(const char *base, const char *group, const char *what)
{
	static __thread char path[2 * PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s%s%s%s", base, name, group, *what ? "/" : "", what);
	return path;
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	EQ(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void make(const char *base, const char *group)
{
	CHECK(!mkdir(file(base, group, ""), 0755) || errno == EEXIST);
}

// Whether the line of a hierarchy in /proc/.../cgroup ends as it should.
static void is_in(const char *who, const char *controller, const char *group)
{
	char text[64 * 1024], want[PATH_MAX], *save, *line;
	CHECK(slurp(who, text, sizeof(text)));
	snprintf(want, sizeof(want), "/%s%s", name_after, group);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *list = strchr(line, ':') + 1, *path = strchr(list, ':');
		*path++ = 0;
		if (strcmp(list, controller))
			continue;
		// In our own namespace the groups that we had then are the roots.
		if (in_ns) {
			const char *root = *controller ? "" : "/a";
			const char *rest = group + strlen(root);
			STREQ(path, *rest ? rest : "/");
			return;
		}
		size_t len = strlen(path), tail = strlen(want);
		STREQ(len > tail ? path + len - tail : path, want);
		return;
	}
	BAD("no line of %s in %s", controller, who);
}

static int has_v1;
static _Atomic int thread_up, thread_goes_on;

static void *thread(void *arg)
{
	if (has_v1)
		put(file(v1, "/thread", "tasks"), "0");
	thread_up = 1;
	while (!thread_goes_on)
		msleep(3);
	if (has_v1)
		is_in("/proc/thread-self/cgroup", "pids", "/thread");
	is_in("/proc/thread-self/cgroup", "", "/a");
	return NULL;
}

static void other(void)
{
	here_until_go();
	is_in("/proc/self/cgroup", "", child_group);
	if (has_v1)
		is_in("/proc/self/cgroup", "pids", "");
}

static void subject(int argc, char **argv)
{
	pthread_t t;
	struct stat st;
	char text[256];
	CHECK(argc > 3);
	strcpy(name, argv[2]);
	strcpy(name_after, argv[3]);
	in_ns = argc > 4 && !strcmp(argv[4], "ns");
	if (in_ns)
		child_group = "/a/b";
	SETUP_OR_SKIP(own_group("cgroup2", "", v2));
	has_v1 = own_group("cgroup", "pids", v1);
	make(v2, ""), make(v2, "/a"), make(v2, child_group), make(v2, "/a/empty"), make(v2, "/a/empty/too");
	CHECK(!chmod(file(v2, "/a/empty", ""), 0711));
	CHECK(!chown(file(v2, "/a/empty", "cgroup.subtree_control"), 77, 78));
	put(file(v2, child_group, "cgroup.max.depth"), "7");
	if (has_v1) {
		make(v1, ""), make(v1, "/thread");
		put(file(v1, "", "pids.max"), "777");
		put(file(v1, "", "cgroup.procs"), "0");
	}
	put(file(v2, "/a", "cgroup.procs"), "0");
	if (in_ns)
		CHECK(!unshare(CLONE_NEWCGROUP));
	CHECK(!pthread_create(&t, NULL, thread, NULL));
	while (!thread_up)
		msleep(1);
	pid_t pid = child(other);
	sprintf(text, "%d", pid);
	put(file(v2, child_group, "cgroup.procs"), text);

	ready();

	strcpy(name, name_after);
	is_in("/proc/self/cgroup", "", "/a");
	CHECK(!stat(file(v2, "/a/empty", ""), &st));
	EQ(st.st_mode & 07777, 0711);
	CHECK(!stat(file(v2, "/a/empty/too", ""), &st));
	CHECK(!stat(file(v2, "/a/empty", "cgroup.subtree_control"), &st));
	EQ(st.st_uid, 77);
	EQ(st.st_gid, 78);
	slurp(file(v2, child_group, "cgroup.max.depth"), text, sizeof(text));
	STREQ(text, "7\n");
	if (has_v1) {
		is_in("/proc/self/cgroup", "pids", "");
		slurp(file(v1, "", "pids.max"), text, sizeof(text));
		STREQ(text, "777\n");
	}
	thread_goes_on = 1;
	CHECK(!pthread_join(t, NULL));
	reap(pid);
	ok();
}
