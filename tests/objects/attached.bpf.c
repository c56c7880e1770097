/* A program for each kind of place that a section's name can say, and some that wait to be told theirs. Each pushes its
 * own number. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 64);
	__type(value, __u32);
} ran SEC(".maps");

/* Others call the same functions. */
const volatile __u32 process;

static __always_inline int push(__u32 number)
{
	if (bpf_get_current_pid_tgid() >> 32 == process)
		bpf_map_push_elem(&ran, &number, BPF_EXIST);
	return 0;
}

#define PROGRAM(section, name, number) SEC(section) int name(void *context) { return push(number); }

PROGRAM("raw_tp/sys_enter", raw_tracepoint, 1)
PROGRAM("tp/syscalls/sys_enter_getppid", tracepoint, 2)
PROGRAM("uprobe/libc.so.6:getppid", user_function, 3)
PROGRAM("uretprobe//proc/self/exe:nothing_of_this_name", wrong, 4)
PROGRAM("perf_event", counter, 5)
PROGRAM("uprobe", somewhere, 7)
PROGRAM("usdt/libc.so.6:libc:setjmp", marker, 10)
PROGRAM("?uprobe.multi/libc.so.6:getpp*", many, 11)
PROGRAM("?kprobe/do_nanosleep", function, 12)
PROGRAM("?ksyscall/getppid", system_call, 13)
PROGRAM("?kprobe.multi/do_nanosleep", many_of_the_kernel, 14)

/* On older kernels programs of these types may not ask whose process it is. */
SEC("xdp") int packet(struct xdp_md *context) { return XDP_PASS; }
SEC("cgroup/skb") int traffic(struct __sk_buff *skb) { return 1; }
SEC("syscall") int command(void *context) { return 0; }

char LICENSE[] SEC("license") = "GPL";
