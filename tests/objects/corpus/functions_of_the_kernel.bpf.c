/* Attached to functions of the kernel, before and after: fentry and fexit. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 128);
	__type(value, long);
} results SEC(".maps");

SEC("fentry/do_nanosleep")
int BPF_PROG(before, void *sleeper, int mode)
{
	long value = mode;

	bpf_map_push_elem(&results, &value, BPF_EXIST);
	return 0;
}

SEC("fexit/do_nanosleep")
int BPF_PROG(after, void *sleeper, int mode, int result)
{
	long value = result;

	bpf_map_push_elem(&results, &value, BPF_EXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
