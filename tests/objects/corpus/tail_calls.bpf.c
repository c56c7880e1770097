/* A table of programs that call each other, filled from the start. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16);
	__type(value, __u32);
} trail SEC(".maps");

int second(struct __sk_buff *skb);
int third(struct __sk_buff *skb);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__array(values, int(struct __sk_buff *));
} steps SEC(".maps") = {
	.values = { [1] = (void *)&second, [5] = (void *)&third },
};

static __always_inline void note(__u32 step)
{
	bpf_map_push_elem(&trail, &step, BPF_EXIST);
}

SEC("socket")
int first(struct __sk_buff *skb)
{
	note(1);
	bpf_tail_call(skb, &steps, 1);
	return -1;
}

SEC("socket")
int second(struct __sk_buff *skb)
{
	note(2);
	bpf_tail_call(skb, &steps, 5);
	return -2;
}

SEC("socket")
int third(struct __sk_buff *skb)
{
	note(3);
	bpf_tail_call(skb, &steps, 6);
	return skb->len;
}

char LICENSE[] SEC("license") = "GPL";
