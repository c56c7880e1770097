/* A function that another program can replace (freplace), and one to replace it with. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__attribute__((noinline)) int answer(struct __sk_buff *skb)
{
	volatile int number = 7;

	return number;
}

SEC("socket")
int asks(struct __sk_buff *skb)
{
	return answer(skb);
}

SEC("socket")
int replacement(struct __sk_buff *skb)
{
	return 42;
}

char LICENSE[] SEC("license") = "GPL";
