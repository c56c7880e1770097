/* Not supported: functions of another file. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int elsewhere(int x);

SEC("socket")
int program(struct __sk_buff *skb)
{
	return elsewhere(skb->len);
}

char LICENSE[] SEC("license") = "GPL";
