/* A static function that a helper calls back (Linux 5.17). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 64);
	__type(value, __u32);
} numbers SEC(".maps");

static int push(__u32 index, void *context)
{
	__u32 square = index * index;

	return bpf_map_push_elem(&numbers, &square, BPF_ANY) ? 1 : 0;
}

SEC("socket")
int squares(struct __sk_buff *skb)
{
	return bpf_loop(skb->len, push, 0, 0);
}

char LICENSE[] SEC("license") = "GPL";
