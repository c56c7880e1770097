/* Attached to functions of the kernel, before and after: fentry and fexit. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 128);
	__type(value, long);
} results SEC(".maps");

SEC("fentry/do_unlinkat")
int BPF_PROG(before, int folder)
{
	long value = folder;

	return bpf_map_push_elem(&results, &value, BPF_EXIST);
}

SEC("fexit/do_unlinkat")
int BPF_PROG(after, int folder, void *name, long result)
{
	return bpf_map_push_elem(&results, &result, BPF_EXIST);
}

char LICENSE[] SEC("license") = "GPL";
