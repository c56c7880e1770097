/* Not supported: a function in the place of another program's. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("freplace/some")
int replacement(struct __sk_buff *skb)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
