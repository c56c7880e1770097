/* A hook of the security modules. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16);
	__type(value, __u32);
} asked SEC(".maps");

SEC("lsm/bpf")
int BPF_PROG(on_bpf, int cmd)
{
	__u32 value = cmd;

	bpf_map_push_elem(&asked, &value, BPF_EXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
