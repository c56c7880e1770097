/* Each kind of CO-RE relocation of a type: its id here and in the kernel, whether it exists, its size. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct no_such_struct_anywhere {
	int member;
};

typedef struct {
	int counter;
} atomic_t;

union thread_union {
	int any;
};

__u64 ids[2];
__u32 exists[4], sizes[4];

SEC("raw_tp/sched_process_exec")
int types(void *ctx)
{
	ids[0] = bpf_core_type_id_local(struct task_struct);
	ids[1] = bpf_core_type_id_kernel(struct task_struct);
	exists[0] = bpf_core_type_exists(struct task_struct);
	exists[1] = bpf_core_type_exists(struct no_such_struct_anywhere);
	exists[2] = bpf_core_type_exists(atomic_t);
	exists[3] = bpf_core_type_exists(enum bpf_map_type);
	sizes[0] = bpf_core_type_size(struct task_struct);
	sizes[1] = bpf_core_type_size(struct no_such_struct_anywhere);
	sizes[2] = bpf_core_type_size(atomic_t);
	sizes[3] = bpf_core_type_size(union thread_union);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
