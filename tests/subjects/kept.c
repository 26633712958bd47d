// SPDX-License-Identifier: Apache-2.0 OR MIT
// State of a task that is easily lost without a word. One kind per call, named by the argument.
#include "subject.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/membarrier.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/timerfd.h>
#include <sys/inotify.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define PR_SET_MDWE_ 65
#define PR_GET_MDWE_ 66
#define PR_SET_MEMORY_MERGE_ 67
#define PR_GET_MEMORY_MERGE_ 68
#define ARCH_GET_CPUID_ 0x1011
#define ARCH_SET_CPUID_ 0x1012

static const char *what;
// The state is not kept: whether the dump told is checked elsewhere.
static int lost;
#define IS(name) (!strcmp(what, name))

static char *page(void)
{
	char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	*p = 1;
	return p;
}

// A line of smaps, of the mapping that begins at `p`.
static const char *smaps(void *p, const char *key)
{
	static char line[512], head[32];
	FILE *f = fopen("/proc/self/smaps", "r");
	int in = 0;
	snprintf(head, sizeof(head), "%lx-", (long)p);
	while (fgets(line, sizeof(line), f)) {
		if (strchr(line, '-') && strspn(line, "0123456789abcdef") == strcspn(line, "-"))
			in = !strncmp(line, head, strlen(head));
		if (in && strstr(line, key)) {
			fclose(f);
			return line;
		}
	}
	fclose(f);
	return "";
}

static int prctls(void)
{
	if (IS("mdwe")) {
		SETUP_OR_SKIP(!prctl(PR_SET_MDWE_, 1, 0, 0, 0));
		ready();
		EQ(prctl(PR_GET_MDWE_, 0, 0, 0, 0), 1);
	} else if (IS("merge")) {
		SETUP_OR_SKIP(!prctl(PR_SET_MEMORY_MERGE_, 1, 0, 0, 0));
		ready();
		EQ(prctl(PR_GET_MEMORY_MERGE_, 0, 0, 0, 0), 1);
	} else if (IS("io_flusher")) {
		SETUP_OR_SKIP(!prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0));
		ready();
		EQ(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0), 1);
	} else if (IS("speculation")) {
		SETUP_OR_SKIP(!prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0));
		ready();
		EQ(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0), PR_SPEC_PRCTL | PR_SPEC_DISABLE);
	} else if (IS("tsc")) {
		int v = 0;
		SETUP_OR_SKIP(!prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
		compare_maps = 1;
		ready();
		prctl(PR_GET_TSC, &v);
		EQ(v, PR_TSC_SIGSEGV);
		prctl(PR_SET_TSC, PR_TSC_ENABLE);
	} else if (IS("mce_kill")) {
		SETUP_OR_SKIP(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
		ready();
		EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
	} else if (IS("cpuid")) {
		SETUP_OR_SKIP(!syscall(SYS_arch_prctl, ARCH_SET_CPUID_, 0));
		ready();
		EQ(syscall(SYS_arch_prctl, ARCH_GET_CPUID_, 0), 0);
	} else if (IS("membarrier")) {
		SETUP_OR_SKIP(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
		ready();
		EQ(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0), 0);
	} else if (IS("dispatch")) {
		static char selector;
		SETUP_OR_SKIP(!prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector));
		ready(); // is refused
	} else {
		return 0;
	}
	return 1;
}

static int memory(void)
{
	char *p = NULL;
	if (IS("mempolicy")) {
		unsigned long nodes = 1, got = 0;
		int mode = -1;
		SETUP_OR_SKIP(!syscall(SYS_set_mempolicy, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, &nodes, 8 * sizeof(nodes)));
		ready();
		CHECK(!syscall(SYS_get_mempolicy, &mode, &got, 8 * sizeof(got), 0, 0));
		EQ(mode, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES);
		EQ(got, 1);
	} else if (IS("mbind")) {
		unsigned long nodes = 1, got = 0;
		int mode = -1;
		p = page();
		SETUP_OR_SKIP(!syscall(SYS_mbind, p, 4096, MPOL_BIND, &nodes, 8 * sizeof(nodes), 0));
		ready();
		CHECK(!syscall(SYS_get_mempolicy, &mode, &got, 8 * sizeof(got), p, MPOL_F_ADDR));
		EQ(mode, MPOL_BIND);
	} else if (IS("mcl_future")) {
		SETUP_OR_SKIP(!mlockall(MCL_FUTURE));
		p = page();
		ready();
		p = page();
		CHECK(strstr(smaps(p, "VmFlags"), " lo"));
	} else if (IS("mcl_onfault")) {
		SETUP_OR_SKIP(!mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT));
		ready();
		p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(strstr(smaps(p, "VmFlags"), " lo"));
		CHECK(strstr(smaps(p, "Rss"), " 0 kB"));
	} else if (IS("mlocked")) {
		p = page();
		SETUP_OR_SKIP(!mlockall(MCL_CURRENT));
		ready();
		CHECK(strstr(smaps(p, "VmFlags"), " lo"));
		p = page();
		CHECK(!strstr(smaps(p, "VmFlags"), " lo"));
	} else if (IS("anon_name")) {
		p = page();
		SETUP_OR_SKIP(!prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, 4096, "a name"));
		ready(); // compares maps
	} else if (IS("mseal")) {
		p = page();
		SETUP_OR_SKIP(!syscall(462, p, 4096, 0));
		ready();
		CHECK(munmap(p, 4096) < 0 && errno == EPERM);
	} else {
		return 0;
	}
	return 1;
}

static long key_add(const char *name, int ring)
{
	return syscall(SYS_add_key, "user", name, "secret", 6, ring);
}

static int rights(void)
{
	char buf[64] = "";
	if (IS("session_key")) {
		SETUP_OR_SKIP(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "amber") > 0);
		CHECK(key_add("kept", KEY_SPEC_SESSION_KEYRING) > 0);
		ready();
		long id = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "kept", 0);
		CHECK(id > 0 && syscall(SYS_keyctl, KEYCTL_READ, id, buf, sizeof(buf)) == 6);
	} else if (IS("process_key")) {
		SETUP_OR_SKIP(key_add("kept", KEY_SPEC_PROCESS_KEYRING) > 0);
		ready();
		CHECK(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "kept", 0) > 0);
	} else if (IS("session_ring")) {
		SETUP_OR_SKIP(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "amber") > 0);
		ready();
	} else if (IS("landlock")) {
		struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_CHAR };
		int fd = syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
		SETUP_OR_SKIP(fd >= 0);
		CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		CHECK(!syscall(SYS_landlock_restrict_self, fd, 0));
		close(fd);
		CHECK(mknod(in_dir("node"), S_IFCHR | 0600, 0x103) && errno == EACCES);
		ready();
		CHECK(mknod(in_dir("node"), S_IFCHR | 0600, 0x103) && errno == EACCES);
	} else if (IS("unrestricted")) {
		// As those that restrict themselves, but for that.
		CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		CHECK(!setresgid(7, 7, 7) && !setresuid(7, 7, 7));
		prctl(PR_SET_DUMPABLE, 1);
		ready();
		EQ(getuid(), 7);
	} else if (IS("landlock_fd")) {
		struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_CHAR };
		SETUP_OR_SKIP(syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0) >= 0);
		ready();
	} else if (IS("autogroup")) {
		int fd = open("/proc/self/autogroup", O_WRONLY);
		SETUP_OR_SKIP(fd >= 0 && write(fd, "7", 1) == 1);
		close(fd);
		ready();
		slurp("/proc/self/autogroup", buf, sizeof(buf));
		CHECK(lost || strstr(buf, "nice 7"));
	} else if (IS("exit_signal")) {
		int w[2];
		CHECK(!pipe(w));
		signal(SIGUSR1, SIG_IGN);
		pid_t pid = syscall(SYS_clone, SIGUSR1, 0, 0, 0, 0);
		if (!pid) {
			here_until_go();
			_exit(0);
		}
		await_child(pid);
		signal(SIGUSR1, SIG_DFL);
		sigset_t s;
		sigemptyset(&s), sigaddset(&s, SIGUSR1);
		sigprocmask(SIG_BLOCK, &s, NULL);
		ready();
		struct timespec limit = { 2, 0 };
		EQ(sigtimedwait(&s, NULL, &limit), SIGUSR1);
		waitpid(pid, NULL, __WALL);
	} else {
		return 0;
	}
	return 1;
}

static int files(void)
{
	if (IS("cancel_on_set")) {
		struct itimerspec t = { .it_value = { .tv_sec = 4000000000 } };
		int fd = timerfd_create(CLOCK_REALTIME, 0);
		CHECK(fd >= 0 && !timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &t, NULL));
		char path[64], buf[4096];
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
		ready();
		slurp(path, buf, sizeof(buf));
		CHECK(strstr(buf, "settime flags: 03"));
	} else if (IS("inotify_queue")) {
		char buf[4096];
		int fd = inotify_init1(IN_NONBLOCK);
		CHECK(fd >= 0 && inotify_add_watch(fd, subject_dir, IN_CREATE) == 1);
		mark("an_event");
		ready();
		ssize_t n = read(fd, buf, sizeof(buf));
		struct inotify_event *e = (void *)buf;
		CHECK(n > 0);
		if (!lost)
			STREQ(e->name, "an_event");
	} else if (IS("pipe_size")) {
		int p[2];
		CHECK(!pipe(p));
		CHECK(fcntl(p[0], F_SETPIPE_SZ, 1 << 18) == 1 << 18);
		ready();
		EQ(fcntl(p[0], F_GETPIPE_SZ), 1 << 18);
	} else {
		return 0;
	}
	return 1;
}

// ---- System V semaphores -----------------------------------------------------------

static int sem_value(int set, int n)
{
	return semctl(set, n, GETVAL);
}

static void locker(void)
{
	int set = semget(0x616d62, 0, 0);
	// Two semaphores: one taken, one given twice.
	struct sembuf ops[] = { { 0, -1, SEM_UNDO }, { 3, 2, SEM_UNDO } };
	CHECK(set >= 0 && !semop(set, ops, 2));
	here_until_go();
	await("checked");
}

static void undo(void)
{
	unsigned short values[4] = { 1, 5, 0, 0 };
	int set = semget(0x616d62, 4, IPC_CREAT | 0600);
	CHECK(set >= 0 && !semctl(set, 0, SETALL, values));
	struct sembuf more = { 1, -3, SEM_UNDO };
	CHECK(!semop(set, &more, 1));
	pid_t pid = child(locker);

	ready();

	EQ(sem_value(set, 0), 0);
	EQ(sem_value(set, 3), 2);
	mark("checked");
	reap(pid);
	EQ(sem_value(set, 0), 1);
	EQ(sem_value(set, 1), 2);
	EQ(sem_value(set, 3), 0);
	CHECK(!semctl(set, 0, IPC_RMID));
}

static void subject(int argc, char **argv)
{
	what = argc > 2 ? argv[2] : "";
	lost = argc > 3 && !strcmp(argv[3], "lost");
	if (IS("undo"))
		undo();
	else if (!prctls() && !memory() && !rights() && !files())
		BAD("no such kind: %s", what);
	ok();
}
