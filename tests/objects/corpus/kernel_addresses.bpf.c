/* Addresses of the kernel's symbols, from /proc/kallsyms: of one that exists, and of one that does not. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

extern const void _stext __ksym;
extern const void no_such_symbol __ksym __weak;
extern const int no_such_variable __ksym __weak;

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
int addresses(void *ctx)
{
	__u64 instruction = 0;

	bpf_probe_read_kernel(&instruction, sizeof(instruction), &_stext);
	note(instruction);
	note((__u64)&_stext);
	note((__u64)&no_such_symbol);
	if (&no_such_variable)
		note(1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
