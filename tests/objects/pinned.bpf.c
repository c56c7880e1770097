/* A map that is shared by its name. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} shared SEC(".maps");

SEC("socket")
int push(struct __sk_buff *skb)
{
	__u32 length = skb->len;

	return bpf_map_push_elem(&shared, &length, BPF_ANY);
}
