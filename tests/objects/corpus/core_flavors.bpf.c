/* Members that only some kernels have, asked for before they are read, by several declarations of one struct. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct task_struct___old {
	long state;
} __attribute__((preserve_access_index));

struct task_struct___new {
	unsigned int __state;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 16);
	__type(value, __u64);
} states SEC(".maps");

SEC("raw_tp/sched_process_exec")
int state(void *ctx)
{
	void *task = (void *)bpf_get_current_task();
	struct task_struct___old *old = task;
	struct task_struct___new *new = task;
	__u64 state;

	if (bpf_core_field_exists(new->__state))
		state = BPF_CORE_READ(new, __state);
	else
		state = BPF_CORE_READ(old, state);
	return bpf_map_push_elem(&states, &state, BPF_EXIST);
}

char LICENSE[] SEC("license") = "GPL";
