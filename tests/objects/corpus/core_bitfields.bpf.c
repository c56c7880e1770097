/* Bit-fields of what a program may read directly: those of packet headers. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 16);
	__type(value, __u32);
} flags SEC(".maps");

SEC("tc")
int header_bits(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data;
	struct tcphdr *tcp = data + 20;
	__u32 found;

	if ((void *)(ip + 1) > end || (void *)tcp + 20 > end)
		return 0;
	found = BPF_CORE_READ_BITFIELD(ip, version) << 16 | BPF_CORE_READ_BITFIELD(tcp, doff) << 8 |
		BPF_CORE_READ_BITFIELD(tcp, syn) << 1 | BPF_CORE_READ_BITFIELD(tcp, fin);
	bpf_map_push_elem(&flags, &found, BPF_EXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
