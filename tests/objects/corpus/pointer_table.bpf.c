/* Data that holds addresses, which nothing in the kernel uses. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct description {
	const char *name;
	__u32 number;
};

struct description descriptions[] = { { "one", 1 }, { "two", 2 } };

SEC("socket")
int numbers(struct __sk_buff *skb)
{
	return descriptions[skb->len & 1].number;
}

char LICENSE[] SEC("license") = "GPL";
