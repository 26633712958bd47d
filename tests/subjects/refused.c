// SPDX-License-Identifier: Apache-2.0 OR MIT
// Descriptors that no dump can save. One per call, named by the argument; the subject runs on.
#include "subject.h"
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>

static const char *what;
#define IS(name) (!strcmp(what, name))

static int make(void)
{
	if (IS("io_uring")) {
		char params[120] = { 0 };
		return syscall(SYS_io_uring_setup, 4, params);
	}
	if (IS("userfaultfd"))
		return syscall(SYS_userfaultfd, O_CLOEXEC | 1);
	if (IS("bpf_map")) {
		union bpf_attr a = { .map_type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 4, .max_entries = 4 };
		return syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof(a));
	}
	if (IS("bpf_prog")) {
		struct bpf_insn code[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K }, { .code = BPF_JMP | BPF_EXIT } };
		union bpf_attr a = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (long)code, .insn_cnt = 2, .license = (long)"" };
		return syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof(a));
	}
	if (IS("bpf_filter")) {
		struct bpf_insn code[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K }, { .code = BPF_JMP | BPF_EXIT } };
		union bpf_attr a = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (long)code, .insn_cnt = 2, .license = (long)"" };
		int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof(a)), s = socket(AF_INET, SOCK_DGRAM, 0);
		SETUP_OR_SKIP(fd >= 0);
		CHECK(!setsockopt(s, SOL_SOCKET, SO_ATTACH_BPF, &fd, sizeof(fd)));
		close(fd);
		return s;
	}
	if (IS("perf_event")) {
		struct perf_event_attr a = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(a), .config = PERF_COUNT_SW_TASK_CLOCK };
		return syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
	}
	if (IS("memfd_secret"))
		return syscall(SYS_memfd_secret, 0);
	if (IS("vsock"))
		return socket(AF_VSOCK, SOCK_STREAM, 0);
	if (IS("netlink_queue")) {
		int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
		struct { struct nlmsghdr h; struct rtgenmsg g; } m = { { sizeof(m), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 }, { AF_UNSPEC } };
		CHECK(send(s, &m, sizeof(m), 0) == sizeof(m));
		return s;
	}
	if (IS("seccomp_notify")) {
		struct sock_filter code[] = { { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW } };
		struct sock_fprog prog = { 1, code };
		CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
	}
	if (IS("fsopen"))
		return syscall(SYS_fsopen, "tmpfs", 0);
	if (IS("corked")) {
		int s = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
		CHECK(!setsockopt(s, IPPROTO_UDP, 1, &one, sizeof(one)));
		return s;
	}
	BAD("no such kind: %s", what);
	return -1;
}

static void subject(int argc, char **argv)
{
	what = argc > 2 ? argv[2] : "";
	SETUP_OR_SKIP(make() >= 0);
	ready();
	ok();
}
