/* Tracepoints by their two names, raw ones, and those whose arguments have the kernel's types. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 128);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline int note(__u64 value)
{
	return bpf_map_push_elem(&seen, &value, BPF_EXIST);
}

SEC("tracepoint/syscalls/sys_enter_getpid")
int system_call(struct trace_event_raw_sys_enter *ctx)
{
	return note(ctx->id + ctx->args[0]);
}

SEC("tp/sched/sched_process_exit")
int exits(struct trace_event_raw_sched_process_template *ctx)
{
	return note(ctx->pid);
}

SEC("raw_tracepoint/sys_enter")
int raw(__u64 *ctx)
{
	return note(ctx[1]);
}

SEC("raw_tp")
int raw_anywhere(void *ctx)
{
	return note(0);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(typed, struct task_struct *task, int old_pid, struct linux_binprm *binary)
{
	return note((__u64)task->pid << 32 | binary->argc);
}

SEC("perf_event")
int sampled(void *ctx)
{
	return note(bpf_get_smp_processor_id());
}

char LICENSE[] SEC("license") = "GPL";
