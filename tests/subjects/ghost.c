// SPDX-License-Identifier: Apache-2.0 OR MIT
// Files deleted while open: content, holes, directory, position, mapped; fd shared by two tasks.
#include "subject.h"

static int shared_fd;

static void other(void)
{
	here_until_go();
	char c;
	EQ(pread(shared_fd, &c, 1, 3), 1);
	EQ(c, 's');
}

static void subject(int argc, char **argv)
{
	char path[PATH_MAX], buf[64] = "";
	struct stat st;
	strcpy(path, in_dir("deleted"));
	int fd = open(path, O_RDWR | O_CREAT, 0604);
	CHECK(write(fd, "ghost content", 13) == 13 && lseek(fd, 5, SEEK_SET) == 5);
	int again = open(path, O_RDONLY);
	shared_fd = fd;
	CHECK(!unlink(path));
	// The name is taken by another file now.
	int impostor = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(write(impostor, "impostor", 8) == 8);
	close(impostor);

	strcpy(path, in_dir("holes"));
	int holes = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(!ftruncate(holes, 600 << 10) && pwrite(holes, "middle", 6, 300 << 10) == 6);
	CHECK(!unlink(path));

	strcpy(path, in_dir("mapped"));
	int mapped = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(!ftruncate(mapped, 8192));
	char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
	char *priv = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, mapped, 0);
	strcpy(map + 4096, "mapped ghost");
	strcpy(priv, "private change");
	close(mapped);
	CHECK(!unlink(path));

	strcpy(path, in_dir("deleted-dir"));
	CHECK(!mkdir(path, 0750));
	int dir = open(path, O_RDONLY | O_DIRECTORY);
	CHECK(!rmdir(path));
	pid_t pid = child(other);

	ready();

	EQ(lseek(fd, 0, SEEK_CUR), 5);
	EQ(pread(fd, buf, sizeof(buf), 0), 13);
	STREQ(buf, "ghost content");
	CHECK(!fstat(fd, &st));
	EQ(st.st_nlink, 0);
	EQ(st.st_mode & 07777, 0604);
	CHECK(pwrite(fd, "G", 1, 0) == 1);
	EQ(read(again, buf, 1), 1);
	EQ(buf[0], 'G');
	int check = open(in_dir("deleted"), O_RDONLY);
	memset(buf, 0, sizeof(buf));
	EQ(read(check, buf, sizeof(buf)), 8);
	STREQ(buf, "impostor");
	close(check);
	CHECK(!fstat(holes, &st));
	EQ(st.st_size, 600 << 10);
	CHECK(st.st_blocks < 600);
	memset(buf, 0, sizeof(buf));
	EQ(pread(holes, buf, 6, 300 << 10), 6);
	STREQ(buf, "middle");
	STREQ(map + 4096, "mapped ghost");
	STREQ(priv, "private change");
	STREQ(priv + 4096, "mapped ghost");
	CHECK(access(in_dir("mapped"), F_OK) == -1 && access(in_dir("holes"), F_OK) == -1);
	CHECK(!fstat(dir, &st) && S_ISDIR(st.st_mode));
	EQ(st.st_mode & 07777, 0750);
	CHECK(access(in_dir("deleted-dir"), F_OK) == -1);
	reap(pid);
	ok();
}
