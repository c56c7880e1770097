/* System calls by name: whether their arguments are behind a pointer is a constant that the loader gives. */
#define __TARGET_ARCH_x86
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 128);
	__type(value, long);
} results SEC(".maps");

SEC("ksyscall/unlinkat")
int BPF_KSYSCALL(unlinkat_begins, int folder, const char *path, int flags)
{
	long value = folder ^ flags;

	return bpf_map_push_elem(&results, &value, BPF_EXIST);
}

SEC("kretsyscall/unlinkat")
int BPF_KRETPROBE(unlinkat_ends, int result)
{
	long value = result;

	return bpf_map_push_elem(&results, &value, BPF_EXIST);
}

char LICENSE[] SEC("license") = "GPL";
