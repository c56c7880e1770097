/* Not supported: CO-RE relocations. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct task_struct { int pid; } __attribute__((preserve_access_index));

SEC("socket")
int program(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	int pid;

	bpf_probe_read_kernel(&pid, sizeof(pid), &task->pid);
	return pid;
}

char LICENSE[] SEC("license") = "GPL";
