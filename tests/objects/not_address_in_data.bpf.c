/* Addresses in data do not get into the kernel: a program that uses one is refused. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static const char *const names[] = { "one", "two" };

SEC("socket")
int program(struct __sk_buff *skb)
{
	return names[skb->len & 1][0];
}

char LICENSE[] SEC("license") = "GPL";
