/* A variable of the kernel with its type: that of one processor. The kernel must name it (CONFIG_KALLSYMS_ALL). */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

struct rq {
	unsigned int nr_running;
} __attribute__((preserve_access_index));

extern const struct rq runqueues __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 64);
	__type(value, __u64);
} numbers SEC(".maps");

static __always_inline void note(__u64 value)
{
	bpf_map_push_elem(&numbers, &value, BPF_EXIST);
}

SEC("raw_tp/sched_process_exec")
int variables(void *ctx)
{
	struct rq *queue = bpf_per_cpu_ptr(&runqueues, 0), *here = bpf_this_cpu_ptr(&runqueues);

	if (queue)
		note(queue->nr_running);
	note(here->nr_running);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
