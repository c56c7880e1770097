/* The first program is right, the verifier refuses the second; its map is pinned by name. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} half SEC(".maps");

SEC("socket")
int fine(struct __sk_buff *skb)
{
	__u32 length = skb->len;

	return bpf_map_push_elem(&half, &length, BPF_ANY);
}

SEC("socket")
int outside(struct __sk_buff *skb)
{
	char buffer[8] = {};

	return buffer[skb->len]; /* beyond the stack */
}
