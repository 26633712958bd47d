// SPDX-License-Identifier: Apache-2.0 OR MIT
// System V IPC: segments (attached, alone, removed, read-only, shared with a child), queues, sets,
// limits. "plain" leaves out what CRIU's images lose.
#include "subject.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define PAGE 4096
static volatile int *shared;
static int plain;

static void other(void)
{
	here_until_go();
	while (shared[0] != 41)
		msleep(1);
	shared[0] = 42;
}

static void sysctl(const char *name, const char *value)
{
	char path[128];
	snprintf(path, sizeof(path), "/proc/sys/kernel/%s", name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	SETUP_OR_SKIP(fd >= 0);
	SETUP_OR_SKIP(write(fd, value, strlen(value)) == (ssize_t)strlen(value));
	close(fd);
}

static const char *sysctl_is(const char *name)
{
	static char buf[128];
	char path[128];
	snprintf(path, sizeof(path), "/proc/sys/kernel/%s", name);
	slurp(path, buf, sizeof(buf));
	buf[strcspn(buf, "\n")] = 0;
	return buf;
}

struct message {
	long type;
	char text[100];
};

static void subject(int argc, char **argv)
{
	plain = argc > 2;
	compare_maps = 0;
	// Ids with a sequence number in them.
	for (int i = 0; i < 3; i++) {
		int id = shmget(IPC_PRIVATE, PAGE, 0600);
		SETUP_OR_SKIP(id >= 0);
		shmctl(id, IPC_RMID, NULL);
	}
	sysctl("msgmnb", "32768");

	int segment = shmget(0x1234, 5 * PAGE + 100, IPC_CREAT | 0640);
	CHECK(segment >= 0);
	char *at = shmat(segment, NULL, 0);
	CHECK(at != (void *)-1);
	memset(at, 'a', PAGE), memset(at + 3 * PAGE, 'b', 2 * PAGE);
	CHECK(!mprotect(at + 2 * PAGE, PAGE, PROT_READ));
	const char *reader = shmat(segment, NULL, SHM_RDONLY);
	CHECK(reader != (void *)-1);
	shared = (int *)(at + PAGE);

	int alone = shmget(0x1235, 3 * PAGE, IPC_CREAT | 0600);
	CHECK(alone >= 0);
	char *tmp = shmat(alone, NULL, 0);
	strcpy(tmp + 2 * PAGE, "nobody looks");
	shmdt(tmp);

	int removed = shmget(IPC_PRIVATE, PAGE, 0600);
	char *in_removed = shmat(removed, NULL, 0);
	CHECK(in_removed != (void *)-1);
	strcpy(in_removed, "gone soon");
	if (!plain)
		CHECK(!shmctl(removed, IPC_RMID, NULL));

	int queue = msgget(0x55, IPC_CREAT | 0600);
	CHECK(queue >= 0);
	struct msqid_ds mq;
	CHECK(!msgctl(queue, IPC_STAT, &mq));
	mq.msg_perm.uid = 12, mq.msg_perm.gid = 13, mq.msg_qbytes = 20000;
	CHECK(!msgctl(queue, IPC_SET, &mq));
	struct message m = { 7, "first message" };
	CHECK(!msgsnd(queue, &m, 14, 0));
	m.type = 9, strcpy(m.text, "x");
	CHECK(!msgsnd(queue, &m, 1, 0));
	m.type = 3;
	CHECK(!msgsnd(queue, &m, 0, 0));

	int set = semget(0x66, 3, IPC_CREAT | 0600);
	CHECK(set >= 0);
	unsigned short values[3] = { 5, 0, 32767 };
	CHECK(!semctl(set, 0, SETALL, values));
	pid_t pid = child(other);

	struct shmid_ds ds;
	CHECK(!shmctl(segment, IPC_STAT, &ds));
	int attached = ds.shm_nattch;

	ready();

	EQ(shmget(0x1234, 0, 0), segment);
	CHECK(!shmctl(segment, IPC_STAT, &ds));
	EQ(ds.shm_segsz, 5 * PAGE + 100);
	EQ(ds.shm_nattch, attached);
	EQ(ds.shm_perm.mode, 0640);
	EQ(at[10], 'a');
	EQ(at[2 * PAGE], 0);
	EQ(at[4 * PAGE], 'b');
	EQ(reader[3 * PAGE], 'b');
	at[5 * PAGE] = 'c';
	EQ(reader[5 * PAGE], 'c');
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	CHECK(read(zero, at + 2 * PAGE, 1) < 0 && errno == EFAULT);
	CHECK(read(zero, (void *)reader, 1) < 0 && errno == EFAULT);
	close(zero);
	CHECK(!mprotect(at + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE));
	if (!plain)
		CHECK(mprotect((void *)reader, PAGE, PROT_READ | PROT_WRITE) < 0);
	shared[0] = 41;
	reap(pid);
	EQ(shared[0], 42);
	EQ(((int *)(reader + PAGE))[0], 42);

	EQ(shmget(0x1235, 0, 0), alone);
	tmp = shmat(alone, NULL, 0);
	STREQ(tmp + 2 * PAGE, "nobody looks");
	STREQ(in_removed, "gone soon");
	CHECK(!shmctl(removed, IPC_STAT, &ds));
	EQ(ds.shm_perm.mode & 01000, plain ? 0 : 01000);
	shmdt(in_removed);
	if (!plain)
		CHECK(shmctl(removed, IPC_STAT, &ds) < 0 && (errno == EINVAL || errno == EIDRM));

	EQ(msgget(0x55, 0), queue);
	CHECK(!msgctl(queue, IPC_STAT, &mq));
	EQ(mq.msg_perm.uid, 12);
	EQ(mq.msg_perm.gid, 13);
	if (!plain)
		EQ(mq.msg_qbytes, 20000);
	EQ(msgrcv(queue, &m, 100, 0, 0), 14);
	EQ(m.type, 7);
	STREQ(m.text, "first message");
	EQ(msgrcv(queue, &m, 100, 0, 0), 1);
	EQ(m.type, 9);
	EQ(msgrcv(queue, &m, 100, 0, IPC_NOWAIT), 0);
	EQ(m.type, 3);
	EQ(msgrcv(queue, &m, 100, 0, IPC_NOWAIT), -1);

	EQ(semget(0x66, 0, 0), set);
	EQ(semctl(set, 0, GETALL, values), 0);
	EQ(values[0], 5);
	EQ(values[1], 0);
	EQ(values[2], 32767);
	STREQ(sysctl_is("msgmnb"), "32768");
	ok();
}
