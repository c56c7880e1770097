/* Packet counters where everything is relocated, as with vmlinux.h: contexts and headers. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct seen {
	__be32 from, to;
	__be16 port;
	__u8 protocol, ttl;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 256);
	__type(value, struct seen);
} packets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} by_protocol SEC(".maps");

static __always_inline int look(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct iphdr *ip = data + 14;
	struct seen seen = {};
	__u32 protocol;
	__u64 *count;

	if (data + 14 + 20 + 20 > end || ethernet->h_proto != bpf_htons(0x0800))
		return -1;
	protocol = ip->protocol;
	count = bpf_map_lookup_elem(&by_protocol, &protocol);
	if (count)
		*count += 1;
	seen.from = ip->saddr;
	seen.to = ip->daddr;
	seen.ttl = ip->ttl;
	seen.protocol = protocol;
	seen.port = ((struct tcphdr *)(ip + 1))->dest;
	return bpf_map_push_elem(&packets, &seen, BPF_ANY);
}

SEC("xdp")
int at_interface(struct xdp_md *ctx)
{
	look((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return 2;
}

SEC("tc")
int at_qdisc(struct __sk_buff *skb)
{
	if (skb->len > 1500 || skb->ifindex == 0)
		return 0;
	look((void *)(long)skb->data, (void *)(long)skb->data_end);
	return 0;
}

SEC("socket")
int at_socket(struct __sk_buff *skb)
{
	return skb->len;
}

char LICENSE[] SEC("license") = "GPL";
