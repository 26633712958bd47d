// SPDX-License-Identifier: Apache-2.0 OR MIT
// Three busy processes of four threads with timers, signals, pipes and shared memory. Every thread
// counts in DIR/beats (an array of u64, a page for each process), which tells from outside who runs.
#include "subject.h"
#define PROCESSES 3
#define THREADS 4

static _Atomic uint64_t *beats;
static int process;
static atomic_int over;
static volatile sig_atomic_t ticks;
static int talk[2];

static void on_tick(int s) { ticks++; }

static void *worker(void *arg)
{
	long i = (long)arg;
	uint64_t sum = i, n = 0;
	char *mine = malloc(20000);
	while (!atomic_load(&over)) {
		for (int k = 0; k < 20000; k++)
			mine[k] = n + k;
		for (int k = 0; k < 20000; k++)
			if (mine[k] != (char)(n + k))
				BAD("memory changed under process %d thread %ld", process, i);
		n++;
		sum += n;
		if (sum != i + n * (n + 1) / 2)
			BAD("sum is off in process %d thread %ld", process, i);
		if (i == 1) {
			char c = n, d;
			EQ(write(talk[1], &c, 1), 1);
			EQ(read(talk[0], &d, 1), 1);
			EQ(d, c);
		}
		if (i == 2)
			usleep(500);
		if (i == 3)
			pthread_kill(pthread_self(), SIGUSR1);
		atomic_store(&beats[process * 512 + i], n);
	}
	free(mine);
	return 0;
}

static void run(void)
{
	pthread_t t[THREADS];
	struct sigaction sa = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	struct itimerval it = { { 0, 3000 }, { 0, 3000 } };
	CHECK(!sigaction(SIGALRM, &sa, 0) && !sigaction(SIGUSR1, &sa, 0));
	CHECK(!pipe(talk));
	for (long i = 1; i < THREADS; i++)
		CHECK(!pthread_create(&t[i], 0, worker, (void *)i));
	CHECK(!setitimer(ITIMER_REAL, &it, 0));
	for (uint64_t n = 1; !triggered(); n++) {
		atomic_store(&beats[process * 512], n);
		usleep(1000);
	}
	int before = ticks;
	msleep(50);
	CHECK(ticks > before);
	atomic_store(&over, 1);
	for (int i = 1; i < THREADS; i++)
		CHECK(!pthread_join(t[i], 0));
}

/* A pipe, a FIFO and a socket that hold data all the time: their images are never empty. */
static int kept[3];

static void keep_data(void)
{
	int ends[2];
	CHECK(!pipe(ends));
	kept[0] = ends[0];
	EQ(write(ends[1], "in a pipe", 9), 9);
	CHECK(!mkfifo(in_dir("fifo"), 0600));
	kept[1] = open(in_dir("fifo"), O_RDWR);
	EQ(write(kept[1], "in a fifo", 9), 9);
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
	kept[2] = ends[0];
	EQ(write(ends[1], "in a sock", 9), 9);
}

static void data_is_kept(void)
{
	const char *want[3] = { "in a pipe", "in a fifo", "in a sock" };
	for (int i = 0; i < 3; i++) {
		char got[10] = "";
		EQ(read(kept[i], got, 9), 9);
		STREQ(got, want[i]);
	}
}

static void spin(void)
{
	atomic_fetch_add(&beats[0], 1);
	usleep(1000);
}

static void subject(int argc, char **argv)
{
	pid_t pid[PROCESSES];
	pthread_t t[THREADS];
	int fd = open(in_dir("beats"), O_RDWR | O_CREAT, 0666);
	CHECK(!ftruncate(fd, PROCESSES * 4096));
	beats = mmap(0, PROCESSES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	for (process = 1; process < PROCESSES; process++) {
		pid[process] = fork();
		if (!pid[process]) {
			run();
			_exit(0);
		}
	}
	process = 0;
	keep_data();
	struct sigaction sa = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	CHECK(!sigaction(SIGUSR1, &sa, 0));
	CHECK(!pipe(talk));
	for (long i = 1; i < THREADS; i++)
		CHECK(!pthread_create(&t[i], 0, worker, (void *)i));
	for (int p = 0; p < PROCESSES; p++)
		for (int i = 0; i < THREADS; i++)
			while ((p || i) && !atomic_load(&beats[p * 512 + i]))
				msleep(1);

	ready_while(spin);

	atomic_store(&over, 1);
	for (int i = 1; i < THREADS; i++)
		CHECK(!pthread_join(t[i], 0));
	for (int p = 1; p < PROCESSES; p++)
		reap(pid[p]);
	data_is_kept();
	ok();
}
