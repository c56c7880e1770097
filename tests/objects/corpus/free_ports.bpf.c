/* A pool of free ports: user space fills the queue, the program takes one for each connection and remembers whose. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/in.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct owner {
	__be32 address;
	__be16 port;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16384);
	__type(value, __u16);
} free_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct owner);
	__type(value, __u16);
} port_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u16);
	__type(value, struct owner);
} owner_of SEC(".maps");

const volatile __u16 lowest = 20000;
__u64 exhausted;

static __noinline int take(struct owner *owner)
{
	__u16 port;

	if (!owner)
		return -1;
	if (bpf_map_pop_elem(&free_ports, &port)) {
		__sync_fetch_and_add(&exhausted, 1);
		return -1;
	}
	bpf_map_update_elem(&port_of, owner, &port, BPF_ANY);
	bpf_map_update_elem(&owner_of, &port, owner, BPF_ANY);
	return port;
}

SEC("tc")
int translate(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = data + sizeof(*ethernet);
	struct tcphdr *tcp = (void *)(ip + 1);
	struct owner owner = {};
	__u16 *known, port;
	int taken;

	if ((void *)(tcp + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_TCP)
		return 0;
	owner.address = ip->saddr;
	owner.port = tcp->source;
	known = bpf_map_lookup_elem(&port_of, &owner);
	if (known && tcp->fin) {
		port = *known;
		bpf_map_delete_elem(&port_of, &owner);
		bpf_map_delete_elem(&owner_of, &port);
		bpf_map_push_elem(&free_ports, &port, 0);
		return 0;
	}
	taken = known ? *known : take(&owner);
	if (taken < lowest)
		return 2;
	tcp->source = bpf_htons(taken);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
