/* Maps of maps: a stack for each processor, filled from the start, and queues that user space adds. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct stack {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 16);
	__type(value, __u64);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct stack);
} by_processor SEC(".maps") = {
	.values = { &first, 0, &second },
};

struct queue {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 8);
	__type(value, __u32);
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 32);
	__type(key, __u32);
	__array(values, struct queue);
} by_user SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 32);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 64);
		__type(key, __u32);
		__type(value, __u64);
	});
} counters SEC(".maps");

SEC("socket")
int count(struct __sk_buff *skb)
{
	__u32 key = bpf_get_smp_processor_id() & 2, user = skb->mark;
	__u64 length = skb->len;
	void *inner = bpf_map_lookup_elem(&by_processor, &key);

	if (inner)
		bpf_map_push_elem(inner, &length, BPF_EXIST);
	inner = bpf_map_lookup_elem(&by_user, &user);
	if (inner)
		bpf_map_push_elem(inner, &user, BPF_EXIST);
	inner = bpf_map_lookup_elem(&counters, &user);
	return inner && bpf_map_lookup_elem(inner, &key);
}

char LICENSE[] SEC("license") = "GPL";
