/* CO-RE relocations in functions that are called: static ones, a global one, a callback of bpf_loop(), two programs. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 64);
	__type(value, __u32);
} ancestors SEC(".maps");

struct climb {
	struct task_struct *task;
	__u32 count;
};

static __noinline __u32 pid_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, tgid);
}

static __noinline struct task_struct *parent_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, real_parent);
}

__noinline int namespace_level(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, pid_ns_for_children, level);
}

static long climb_one(__u32 index, void *context)
{
	struct climb *climb = context;
	__u32 pid = pid_of(climb->task);

	bpf_map_push_elem(&ancestors, &pid, BPF_EXIST);
	climb->count++;
	climb->task = parent_of(climb->task);
	return pid <= 1;
}

SEC("raw_tp/sched_process_exec")
int climb_all(void *ctx)
{
	struct climb climb = { (struct task_struct *)bpf_get_current_task(), 0 };

	bpf_loop(16, climb_one, &climb, 0);
	return namespace_level();
}

SEC("raw_tp/sched_process_exit")
int only_pid(void *ctx)
{
	return pid_of((struct task_struct *)bpf_get_current_task());
}

char LICENSE[] SEC("license") = "GPL";
