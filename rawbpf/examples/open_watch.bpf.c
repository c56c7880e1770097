/* Every file that a process opens goes into a queue: see open_watch.py. Without writing any Python:
 *
 *     clang -O2 -g -target bpf -I/usr/include/$(uname -m)-linux-gnu -c open_watch.bpf.c -o open_watch.bpf.o
 *     rawbpf run open_watch.bpf.o
 *
 * bpf_helpers.h is in Debian's package libbpf-dev; the folder behind -I is where Debian keeps asm/types.h.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* Only the members that are read here are declared. `preserve_access_index` makes the kernel fill in where they really
 * are when it loads the program (CO-RE, Linux 5.17). */
struct task_struct {
	struct task_struct *real_parent;
	int tgid;
} __attribute__((preserve_access_index));

struct trace_event_raw_sys_enter {
	unsigned long args[6];
} __attribute__((preserve_access_index));

struct event {
	__u32 pid;
	__u32 parent;
	__u32 flags;
	char command[16];
	char path[100];
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4096);
	__type(value, struct event);
} queue SEC(".maps");

/* The one process that is watched; 0: all of them. Set before the program is loaded. */
const volatile __u32 only;

SEC("tp/syscalls/sys_enter_openat")
int on_open(struct trace_event_raw_sys_enter *context)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct event event = {};

	event.pid = bpf_get_current_pid_tgid() >> 32;
	if (only && event.pid != only)
		return 0;
	event.parent = BPF_CORE_READ(task, real_parent, tgid);
	event.flags = context->args[2];
	bpf_get_current_comm(event.command, sizeof(event.command));
	bpf_probe_read_user_str(event.path, sizeof(event.path), (void *)context->args[1]);

	/* If nobody drains the queue, the newest events stay. */
	bpf_map_push_elem(&queue, &event, BPF_EXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
