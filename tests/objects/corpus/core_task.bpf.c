/* An exec monitor: members of the kernel's task, some of them behind several pointers, pushed as a struct. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct event {
	__u32 pid, parent, namespace_level;
	__u64 pages;
	char command[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 64);
	__type(value, struct event);
} events SEC(".maps");

__u64 lost;

SEC("raw_tp/sched_process_exec")
int on_exec(void *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct event event = {};

	event.pid = BPF_CORE_READ(task, tgid);
	event.parent = BPF_CORE_READ(task, real_parent, tgid);
	event.namespace_level = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, level);
	event.pages = BPF_CORE_READ(task, mm, total_vm);
	BPF_CORE_READ_STR_INTO(&event.command, task, comm);
	if (bpf_map_push_elem(&events, &event, BPF_ANY))
		__sync_fetch_and_add(&lost, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
