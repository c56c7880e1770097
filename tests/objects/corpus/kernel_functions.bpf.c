/* Functions of the kernel that programs may call (kfuncs), one of them in no kernel, and another's address. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym __weak;
extern void bpf_task_release(struct task_struct *task) __ksym __weak;
extern int bpf_no_such_function(int number) __ksym __weak;

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16);
	__type(value, __u32);
} pids SEC(".maps");

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	struct task_struct *parent;
	__u32 pid;

	bpf_rcu_read_lock();
	pid = task->real_parent->pid;
	bpf_rcu_read_unlock();
	if (bpf_task_from_pid) {
		parent = bpf_task_from_pid(pid);
		if (parent) {
			pid += parent->pid;
			bpf_task_release(parent);
		}
	}
	if (bpf_no_such_function)
		pid = bpf_no_such_function(pid);
	return bpf_map_push_elem(&pids, &pid, BPF_EXIST);
}

char LICENSE[] SEC("license") = "GPL";
