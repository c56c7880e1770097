/* Each kind of CO-RE relocation of a field: offset, size, existence, signedness, and the two shifts of a bit-field. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct field_facts {
	__u32 offset, size, exists, is_signed;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 8);
	__type(value, struct field_facts);
} facts SEC(".maps");

__u64 bits[4];

SEC("raw_tp/sched_process_exec")
int fields(void *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct field_facts comm = {
		.offset = bpf_core_field_offset(struct task_struct, comm),
		.size = bpf_core_field_size(task->comm),
		.exists = bpf_core_field_exists(task->comm),
		.is_signed = __builtin_preserve_field_info(task->exit_code, BPF_FIELD_SIGNED),
	};

	bits[0] = BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
	bits[1] = BPF_CORE_READ_BITFIELD_PROBED(task, sched_reset_on_fork);
	bits[2] = BPF_CORE_READ_BITFIELD_PROBED(task, sched_migrated);
	bits[3] = BPF_CORE_READ_BITFIELD_PROBED(task, exit_code);
	return bpf_map_push_elem(&facts, &comm, BPF_EXIST);
}

char LICENSE[] SEC("license") = "GPL";
