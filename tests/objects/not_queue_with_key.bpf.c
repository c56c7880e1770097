/* Not supported: a queue that wants a key. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, int);
} queue SEC(".maps");

SEC("socket")
int program(void *ctx)
{
	int value = 1;

	return bpf_map_push_elem(&queue, &value, 0);
}

char LICENSE[] SEC("license") = "GPL";
