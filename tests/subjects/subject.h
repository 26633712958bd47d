// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// What every subject shares. A subject is a program that sets up one kind of
// state, calls ready(), is dumped and restored in there, and checks itself.
//
//   DIR/state   what it says: "ready PID", then "ok" or "bad: what";
//               "skip: why" when this kernel cannot make the state at all
//   DIR/go      made by the harness: wake up and verify
//
// Nothing stays open for this: a subject holds only the descriptors it tests.
#ifndef SUBJECT_H
#define SUBJECT_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

static char subject_dir[PATH_MAX / 2];

static const char *in_dir(const char *name)
{
	static __thread char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", subject_dir, name);
	return path;
}

static void say(const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	int fd = open(in_dir("state"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, line, n) != n)
		_exit(97);
	close(fd);
}

#define BAD(...) (say("bad: " __VA_ARGS__), _exit(1))
#define STR_(x) #x
#define STR(x) STR_(x)
// The condition holds, or the subject ends as bad, with where and errno.
#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			BAD("%s: %s (errno %s)", __FILE_NAME__ ":" STR(__LINE__), #cond,           \
			    strerror(errno));                                                      \
	} while (0)
#define EQ(got, want)                                                                              \
	do {                                                                                       \
		long long got_ = (long long)(got), want_ = (long long)(want);                      \
		if (got_ != want_)                                                                 \
			BAD("%s: %s is %lld (%#llx), not %lld (%#llx) (errno %s)",                 \
			    __FILE_NAME__ ":" STR(__LINE__), #got, got_, got_, want_, want_,       \
			    strerror(errno));                                                      \
	} while (0)
#define STREQ(got, want)                                                                           \
	do {                                                                                       \
		const char *got_ = (got), *want_ = (want);                                         \
		if (strcmp(got_, want_))                                                           \
			BAD("%s: %s is `%s`, not `%s`", __FILE_NAME__ ":" STR(__LINE__), #got,      \
			    got_, want_);                                                          \
	} while (0)
// This kernel, or our rights, cannot make the state: the test is skipped.
#define SKIP(...) (say("skip: " __VA_ARGS__), _exit(0))
#define SETUP_OR_SKIP(cond)                                                                        \
	do {                                                                                       \
		if (!(cond))                                                                       \
			SKIP("%s: %s", #cond, strerror(errno));                                    \
	} while (0)
#ifndef __FILE_NAME__
#define __FILE_NAME__ __FILE__
#endif

UNUSED static void msleep(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

// Marks between the processes of one subject: files in DIR.
UNUSED static void mark(const char *name)
{
	int fd = open(in_dir(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		_exit(98);
	close(fd);
}

UNUSED static void await(const char *name)
{
	while (access(in_dir(name), F_OK))
		msleep(3);
}

UNUSED static int triggered(void)
{
	return access(in_dir("go"), F_OK) == 0;
}

// ---- what must be the same before and after, in any subject --------------------------

static size_t slurp(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	size_t n = 0;
	ssize_t r;
	while (n < size - 1 && (r = read(fd, buf + n, size - 1 - n)) > 0)
		n += r;
	close(fd);
	buf[n] = 0;
	return n;
}

// maps, adjacent equal areas merged, without the inode and offset columns.
static void merged_maps(char *out, size_t size)
{
	static char raw[512 * 1024];
	slurp("/proc/self/maps", raw, sizeof(raw));
	unsigned long last_start = 0, last_end = 0;
	char last_perms[8] = "", last_name[256] = "";
	size_t n = 0;
	char *save, *line;
	for (line = strtok_r(raw, "\n", &save);; line = strtok_r(NULL, "\n", &save)) {
		unsigned long s = 0, e = 0;
		char perms[8] = "", name[256] = "";
		if (line && sscanf(line, "%lx-%lx %7s %*s %*s %*s %255[^\n]", &s, &e, perms, name) < 3)
			BAD("maps line %s", line);
		// Anonymous shared memory may come back by way of a memfd.
		if (!strncmp(name, "/memfd:/dev/zero", 16) || !strncmp(name, "/memfd:/anon_hugepage", 21))
			memmove(name, name + 7, strlen(name + 7) + 1);
		if (line && s == last_end && !strcmp(perms, last_perms) && !strcmp(name, last_name)) {
			last_end = e;
			continue;
		}
		if (last_end && n < size - 400)
			n += snprintf(out + n, size - n, "%lx-%lx %s %s\n", last_start, last_end,
				      last_perms, last_name);
		if (!line)
			break;
		last_start = s, last_end = e;
		strcpy(last_perms, perms), strcpy(last_name, name);
	}
}

static void descriptors(char *out, size_t size)
{
	size_t n = 0;
	char present[4096] = "";
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	if (!d)
		BAD("/proc/self/fd: %s", strerror(errno));
	while ((e = readdir(d))) {
		int fd = atoi(e->d_name);
		if (e->d_name[0] != '.' && fd != dirfd(d) && fd < (int)sizeof(present))
			present[fd] = 1;
	}
	closedir(d);
	for (int fd = 0; fd < (int)sizeof(present); fd++)
		if (present[fd] && n < size - 16)
			n += snprintf(out + n, size - n, "%d ", fd);
	out[n] = 0;
}

static int compare_maps = 1, compare_fds = 1, compare_parent = 1;

UNUSED static void first_difference(const char *what, const char *a, const char *b)
{
	while (*a && *b) {
		size_t la = strcspn(a, "\n"), lb = strcspn(b, "\n");
		if (la != lb || memcmp(a, b, la))
			break;
		a += la + !!a[la], b += lb + !!b[lb];
	}
	BAD("%s differ: before `%.*s` after `%.*s`", what, (int)strcspn(a, "\n"), a,
	    (int)strcspn(b, "\n"), b);
}

static char maps_before[256 * 1024], maps_after[256 * 1024], fds_before[16384], fds_after[16384];
static int mtime_of_exe_checked UNUSED;

static void snapshot(char *maps, char *fds)
{
	if (compare_fds)
		descriptors(fds, sizeof(fds_before));
	if (compare_maps)
		merged_maps(maps, sizeof(maps_before));
}

static pid_t before_pid, before_ppid, before_sid, before_pgid;

// Says "ready", is dumped and restored in here, returns when told to go on.
// `spin` is called in between; NULL sleeps.
UNUSED static void ready_while(void (*spin)(void))
{
	snapshot(maps_before, fds_before);
	// Once more: the first call itself may have mapped something (malloc in opendir).
	snapshot(maps_before, fds_before);
	before_pid = getpid(), before_ppid = getppid(), before_sid = getsid(0), before_pgid = getpgrp();
	say("ready %d", getpid());
	while (!triggered()) {
		if (spin)
			spin();
		else
			msleep(3);
	}
	EQ(getpid(), before_pid);
	EQ(syscall(SYS_gettid), before_pid);
	// DIR/foreground: criu restores without --restore-detached and is the parent then.
	if (compare_parent && access(in_dir("foreground"), F_OK))
		EQ(getppid(), before_ppid);
	EQ(getsid(0), before_sid);
	EQ(getpgrp(), before_pgid);
	snapshot(maps_after, fds_after);
	if (compare_fds && strcmp(fds_before, fds_after))
		BAD("descriptors differ: before `%s` after `%s`", fds_before, fds_after);
	if (compare_maps && strcmp(maps_before, maps_after))
		first_difference("maps", maps_before, maps_after);
}

UNUSED static void ready(void)
{
	ready_while(NULL);
}

// ---- children ----------------------------------------------------------------------

// Forks a child that runs `fn` and exits 0; it calls here() when it is set up, and
// goes on when the harness says so. A child that ends in any other way is `bad`.
static int children_here;

UNUSED static void here(void)
{
	char name[64];
	snprintf(name, sizeof(name), "here.%d", getpid());
	mark(name);
}

UNUSED static void await_child(pid_t pid)
{
	char name[64];
	snprintf(name, sizeof(name), "here.%d", pid);
	while (access(in_dir(name), F_OK)) {
		siginfo_t si = { 0 };
		if (!waitid(P_PID, pid, &si, WEXITED | WNOHANG | WNOWAIT) && si.si_pid == pid)
			BAD("child %d ended before it was set up: %d %d", pid, si.si_code, si.si_status);
		msleep(3);
	}
}

// Sets up, waits for the trigger. For children: no "ready" of its own.
UNUSED static void here_until_go(void)
{
	here();
	while (!triggered())
		msleep(3);
}

UNUSED static pid_t child(void (*fn)(void))
{
	pid_t pid = fork();
	if (pid < 0)
		BAD("fork: %s", strerror(errno));
	if (pid == 0) {
		fn();
		_exit(0);
	}
	await_child(pid);
	children_here++;
	return pid;
}

UNUSED static void reap(pid_t pid)
{
	int status;
	if (waitpid(pid, &status, 0) != pid)
		BAD("waitpid(%d): %s", pid, strerror(errno));
	if (status != 0)
		BAD("child %d ended with status %#x", pid, status);
}

UNUSED static void ok(void) __attribute__((noreturn));
UNUSED static void ok(void)
{
	say("ok");
	_exit(0);
}

// A line of /proc/PID/status and the like: what follows "key:", blanks skipped.
UNUSED static const char *proc_value(const char *path, const char *key)
{
	static __thread char buf[65536], value[1024];
	slurp(path, buf, sizeof(buf));
	size_t k = strlen(key);
	for (char *p = buf; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		if (strncmp(p, key, k) || p[k] != ':')
			continue;
		p += k + 1;
		p += strspn(p, " \t");
		snprintf(value, sizeof(value), "%.*s", (int)strcspn(p, "\n"), p);
		return value;
	}
	return "(none)";
}

UNUSED static const char *link_of(const char *path)
{
	static __thread char buf[PATH_MAX];
	ssize_t n = readlink(path, buf, sizeof(buf) - 1);
	buf[n < 0 ? 0 : n] = 0;
	return buf;
}

UNUSED static const char *fd_link(int fd)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return link_of(path);
}

static void subject(int argc, char **argv);

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		return 2;
	}
	snprintf(subject_dir, sizeof(subject_dir), "%s", argv[1]);
	umask(0);
	// The launcher of the harness goes away; then init is the parent for good.
	for (int i = 0; i < 1000 && getppid() != 1; i++)
		usleep(1000);
	subject(argc, argv);
	BAD("subject returned");
	return 1;
}
#endif
