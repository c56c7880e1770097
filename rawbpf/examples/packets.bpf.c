/* The queue that Documentation/bpf/map_queue_stack.rst declares, filled by a socket filter: see packets.py. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__type(value, __u32);
	__uint(max_entries, 10);
} queue SEC(".maps");

SEC("socket")
int push_length(struct __sk_buff *skb)
{
	__u32 length = skb->len;

	return bpf_map_push_elem(&queue, &length, BPF_ANY);
}
