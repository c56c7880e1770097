/* What each helper answers, for both map types: `flags` in, results out. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 2);
	__type(value, __u64);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 2);
	__type(value, __u64);
} stack SEC(".maps");

__u64 flags;
__u64 value;
long result;

SEC("socket")
int push_queue(struct __sk_buff *skb)
{
	__u64 number = value;

	result = bpf_map_push_elem(&queue, &number, flags);
	return 0;
}

SEC("socket")
int push_stack(struct __sk_buff *skb)
{
	__u64 number = value;

	result = bpf_map_push_elem(&stack, &number, flags);
	return 0;
}

SEC("socket")
int peek_queue(struct __sk_buff *skb)
{
	__u64 number = ~0ULL;

	result = bpf_map_peek_elem(&queue, &number);
	value = number;
	return 0;
}

SEC("socket")
int peek_stack(struct __sk_buff *skb)
{
	__u64 number = ~0ULL;

	result = bpf_map_peek_elem(&stack, &number);
	value = number;
	return 0;
}

SEC("socket")
int pop_queue(struct __sk_buff *skb)
{
	__u64 number = ~0ULL;

	result = bpf_map_pop_elem(&queue, &number);
	value = number;
	return 0;
}

SEC("socket")
int pop_stack(struct __sk_buff *skb)
{
	__u64 number = ~0ULL;

	result = bpf_map_pop_elem(&stack, &number);
	value = number;
	return 0;
}
