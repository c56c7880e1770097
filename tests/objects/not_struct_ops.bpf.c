/* Not supported: tables of operations that the kernel calls. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct tcp_congestion_ops {
	int (*undo_cwnd)(void *sk);
};

SEC("struct_ops/undo_cwnd")
int undo_cwnd(void *sk)
{
	return 0;
}

SEC(".struct_ops")
struct tcp_congestion_ops operations = { .undo_cwnd = undo_cwnd };

char LICENSE[] SEC("license") = "GPL";
