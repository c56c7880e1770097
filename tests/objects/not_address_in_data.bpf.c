/* Not supported: addresses in data. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static const char *const names[] = { "one", "two" };

SEC("socket")
int program(struct __sk_buff *skb)
{
	return names[skb->len & 1][0];
}

char LICENSE[] SEC("license") = "GPL";
