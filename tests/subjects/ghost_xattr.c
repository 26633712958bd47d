// SPDX-License-Identifier: Apache-2.0 OR MIT
// Extended attributes of files without a name: a file, a directory, a symbolic link, a FIFO.
#include "subject.h"
#include <linux/capability.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/xattr.h>
#include <sys/xattr.h>

// 0 where the file system or our rights have no such attribute.
static int set(const char *path, const char *name, const void *value, size_t size)
{
	if (!lsetxattr(path, name, value, size, 0))
		return 1;
	CHECK(errno == ENOTSUP || errno == EPERM);
	return 0;
}

static void same(const char *path, const char *name, const void *value, size_t size)
{
	char buf[256];
	EQ(getxattr(path, name, buf, sizeof(buf)), size);
	CHECK(!memcmp(buf, value, size));
}

static int nameless(const char *name, int flags)
{
	int fd = open(in_dir(name), flags);
	CHECK(fd >= 0);
	return fd;
}

static void subject(int argc, char **argv)
{
	char big[200], self[4][64];
	memset(big, 'x', sizeof(big));
	struct vfs_cap_data caps = { .magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
				     .data = { { 1 << CAP_NET_RAW, 0 }, { 0, 0 } } };
	struct {
		struct posix_acl_xattr_header head;
		struct posix_acl_xattr_entry all[5];
	} acl = { { POSIX_ACL_XATTR_VERSION },
		  { { ACL_USER_OBJ, 6, ACL_UNDEFINED_ID },
		    { ACL_USER, 4, 5 },
		    { ACL_GROUP_OBJ, 4, ACL_UNDEFINED_ID },
		    { ACL_MASK, 4, ACL_UNDEFINED_ID },
		    { ACL_OTHER, 0, ACL_UNDEFINED_ID } } };

	int fd = open(in_dir("file"), O_RDWR | O_CREAT, 0600);
	CHECK(write(fd, "content", 7) == 7);
	int user = set(in_dir("file"), XATTR_USER_PREFIX "amber", "value\0of", 8) &&
		   set(in_dir("file"), XATTR_USER_PREFIX "big", big, sizeof(big)) &&
		   set(in_dir("file"), XATTR_USER_PREFIX "empty", "", 0);
	int trusted = set(in_dir("file"), XATTR_TRUSTED_PREFIX "amber", "t", 1);
	int capable = set(in_dir("file"), XATTR_NAME_CAPS, &caps, XATTR_CAPS_SZ_2);
	int label = set(in_dir("file"), XATTR_SECURITY_PREFIX "amber", "a:b:c\0", 6);
	int listed = set(in_dir("file"), XATTR_NAME_POSIX_ACL_ACCESS, &acl, sizeof(acl));
	SETUP_OR_SKIP(user || capable || label);

	CHECK(!mkdir(in_dir("dir"), 0755));
	int in_user = set(in_dir("dir"), XATTR_USER_PREFIX "amber", "d", 1);
	int in_default = set(in_dir("dir"), XATTR_NAME_POSIX_ACL_DEFAULT, &acl, sizeof(acl));
	int dir = nameless("dir", O_RDONLY | O_DIRECTORY);
	CHECK(!symlink("nowhere", in_dir("link")));
	int of_link = set(in_dir("link"), XATTR_SECURITY_PREFIX "amber", "l", 1);
	int link = nameless("link", O_PATH | O_NOFOLLOW);
	CHECK(!mkfifo(in_dir("fifo"), 0600));
	int of_fifo = set(in_dir("fifo"), XATTR_SECURITY_PREFIX "amber", "f", 1);
	int fifo = nameless("fifo", O_RDWR);
	CHECK(!unlink(in_dir("file")) && !rmdir(in_dir("dir")) && !unlink(in_dir("link")) &&
	      !unlink(in_dir("fifo")));

	ready();

	snprintf(self[0], 64, "/proc/self/fd/%d", fd);
	snprintf(self[1], 64, "/proc/self/fd/%d", dir);
	snprintf(self[2], 64, "/proc/self/fd/%d", link);
	snprintf(self[3], 64, "/proc/self/fd/%d", fifo);
	if (user) {
		same(self[0], XATTR_USER_PREFIX "amber", "value\0of", 8);
		same(self[0], XATTR_USER_PREFIX "big", big, sizeof(big));
		same(self[0], XATTR_USER_PREFIX "empty", "", 0);
	}
	if (trusted)
		same(self[0], XATTR_TRUSTED_PREFIX "amber", "t", 1);
	if (capable)
		same(self[0], XATTR_NAME_CAPS, &caps, XATTR_CAPS_SZ_2);
	if (label)
		same(self[0], XATTR_SECURITY_PREFIX "amber", "a:b:c\0", 6);
	if (listed)
		same(self[0], XATTR_NAME_POSIX_ACL_ACCESS, &acl, sizeof(acl));
	if (in_user)
		same(self[1], XATTR_USER_PREFIX "amber", "d", 1);
	if (in_default)
		same(self[1], XATTR_NAME_POSIX_ACL_DEFAULT, &acl, sizeof(acl));
	if (of_link)
		same(self[2], XATTR_SECURITY_PREFIX "amber", "l", 1);
	if (of_fifo)
		same(self[3], XATTR_SECURITY_PREFIX "amber", "f", 1);
	struct stat st;
	CHECK(!fstat(fd, &st));
	EQ(st.st_nlink, 0);
	EQ(st.st_mode & 07777, listed ? 0640 : 0600);
	ok();
}
