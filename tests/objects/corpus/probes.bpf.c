/* kprobes, uprobes and system calls: arguments in registers, which vmlinux.h makes relocations too. */
#define __TARGET_ARCH_x86
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct call {
	__u64 time;
	__u32 pid, what;
	long argument;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 128);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} started SEC(".maps");

static __always_inline int note(__u32 what, long argument)
{
	struct call call = { bpf_ktime_get_ns(), bpf_get_current_pid_tgid() >> 32, what, argument };

	return bpf_map_push_elem(&calls, &call, BPF_EXIST);
}

SEC("kprobe/do_unlinkat")
int BPF_KPROBE(unlink_begins, int folder)
{
	__u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();

	bpf_map_update_elem(&started, &id, &now, BPF_ANY);
	return note(1, folder);
}

SEC("kretprobe/do_unlinkat")
int BPF_KRETPROBE(unlink_ends, long result)
{
	__u64 id = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&started, &id);
	return note(2, result);
}

SEC("kprobe")
int BPF_KPROBE(anywhere)
{
	return note(3, PT_REGS_IP(ctx));
}

SEC("kprobe.multi/vfs_*")
int BPF_KPROBE(many)
{
	return note(4, 0);
}

SEC("uprobe//proc/self/exe:malloc")
int BPF_KPROBE(user_begins, long size)
{
	return note(5, size);
}

SEC("uretprobe//proc/self/exe:malloc")
int BPF_KRETPROBE(user_ends, long result)
{
	return note(6, result);
}

SEC("uprobe")
int user_anywhere(struct pt_regs *ctx)
{
	return note(7, PT_REGS_PARM1(ctx));
}

SEC("uprobe.s")
int user_sleepable(struct pt_regs *ctx)
{
	return note(8, PT_REGS_PARM2(ctx));
}

char LICENSE[] SEC("license") = "GPL";
