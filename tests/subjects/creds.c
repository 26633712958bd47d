// SPDX-License-Identifier: Apache-2.0 OR MIT
// Credentials: all capability sets, ids of all four kinds, groups, securebits, no_new_privs; per thread.
#include "subject.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>

struct caps {
	struct __user_cap_data_struct set[2];
};

static void get_caps(struct caps *c)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	CHECK(!syscall(SYS_capget, &h, c->set));
}

static void set_caps(uint64_t eff, uint64_t perm, uint64_t inh)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct caps c;
	for (int i = 0; i < 2; i++) {
		c.set[i].effective = eff >> 32 * i;
		c.set[i].permitted = perm >> 32 * i;
		c.set[i].inheritable = inh >> 32 * i;
	}
	CHECK(!syscall(SYS_capset, &h, c.set));
}

static atomic_int up, go;
static int argument_user;
static char want[4096], got[4096];

static void identity(char *out, size_t size, int tid)
{
	char path[64];
	size_t n = 0;
	const char *keys[] = { "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs" };
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		n += snprintf(out + n, size - n, "%s=%s;", keys[i], proc_value(path, keys[i]));
}

static void *other(void *arg)
{
	static char before[4096], after[4096];
	int tid = syscall(SYS_gettid);
	struct caps c;
	// The raw calls change this thread alone.
	gid_t groups[] = { 7, 8 };
	CHECK(!syscall(SYS_setgroups, 2, groups));
	CHECK(!syscall(SYS_setresgid, 60, 61, 62));
	CHECK(!prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
	if (argument_user) {
		CHECK(!prctl(PR_SET_KEEPCAPS, 1));
		CHECK(!syscall(SYS_setresuid, 70, 71, 72));
	}
	get_caps(&c);
	uint64_t perm = c.set[0].permitted | (uint64_t)c.set[1].permitted << 32;
	set_caps(perm & (1ull << CAP_KILL | 1ull << CAP_CHOWN | 1ull << CAP_SYS_ADMIN), perm, 1ull << CAP_NET_RAW);
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	identity(before, sizeof(before), tid);
	atomic_store(&up, 1);
	while (!atomic_load(&go))
		msleep(3);
	identity(after, sizeof(after), tid);
	STREQ(after, before);
	return 0;
}

static void subject(int argc, char **argv)
{
	pthread_t t;
	struct caps c;
	argument_user = argc > 2;
	gid_t groups[] = { 1, 3000000, 20, 5 };
	CHECK(!setgroups(4, groups));
	CHECK(!pthread_create(&t, 0, other, 0));
	while (!atomic_load(&up))
		msleep(2);
	CHECK(!prctl(PR_CAPBSET_DROP, CAP_WAKE_ALARM) && !prctl(PR_CAPBSET_DROP, CAP_SYS_TIME));
	CHECK(!syscall(SYS_setresgid, 10, 11, 12));
	CHECK(!prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED));
	if (argument_user)
		CHECK(!syscall(SYS_setresuid, 1000, 1001, 1002));
	get_caps(&c);
	uint64_t perm = c.set[0].permitted | (uint64_t)c.set[1].permitted << 32;
	perm &= ~(1ull << CAP_LEASE);
	set_caps(perm & ~(1ull << CAP_SYS_PACCT), perm, perm & (1ull << CAP_NET_RAW | 1ull << CAP_CHOWN));
	CHECK(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
	CHECK(!syscall(SYS_setfsuid, 4) || 1);
	CHECK(!syscall(SYS_setfsgid, 5) || 1);
	// No dumpable core after a change of ids, as after execve of a setuid program.
	int dumpable = prctl(PR_GET_DUMPABLE);
	identity(want, sizeof(want), getpid());
	int secbits = prctl(PR_GET_SECUREBITS);

	ready();

	identity(got, sizeof(got), getpid());
	STREQ(got, want);
	EQ(prctl(PR_GET_SECUREBITS), secbits);
	EQ(prctl(PR_GET_DUMPABLE), dumpable);
	EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
	atomic_store(&go, 1);
	CHECK(!pthread_join(t, 0));
	ok();
}
