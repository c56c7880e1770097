/* Every exec on the system goes into a queue: see exec_watch.py. Without writing any Python:
 *
 *     clang -O2 -g -target bpf -I/usr/include/$(uname -m)-linux-gnu -c exec_watch.bpf.c -o exec_watch.bpf.o
 *     rawbpf run exec_watch.bpf.o --set 'real_parent_offset=offsetof(task_struct,real_parent)' \
 *                                 --set 'tgid_offset=offsetof(task_struct,tgid)'
 *
 * bpf_helpers.h is in Debian's package libbpf-dev; the folder behind -I is where Debian keeps asm/types.h.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u32 pid;
	__u32 parent;
	char command[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__type(value, struct event);
} queue SEC(".maps");

/* Where struct task_struct has its members differs from kernel to kernel. The loader knows. */
const volatile __u64 real_parent_offset;
const volatile __u64 tgid_offset;

SEC("raw_tp/sched_process_exec")
int on_exec(struct bpf_raw_tracepoint_args *context)
{
	__u64 task = context->args[0], parent = 0;
	struct event event = {};

	event.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_probe_read_kernel(&parent, sizeof(parent), (void *)(task + real_parent_offset));
	bpf_probe_read_kernel(&event.parent, sizeof(event.parent), (void *)(parent + tgid_offset));
	bpf_get_current_comm(event.command, sizeof(event.command));

	/* If nobody drains the queue, the newest events stay. */
	bpf_map_push_elem(&queue, &event, BPF_EXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
