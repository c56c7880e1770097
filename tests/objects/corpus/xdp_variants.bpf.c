/* XDP programs of each kind, with maps of interfaces, processors and sockets to redirect to. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__uint(value_size, 4);
} interfaces_by_number SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct bpf_cpumap_val));
} processors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 64);
	__type(value, __u32);
} lengths SEC(".maps");

SEC("xdp")
int plain(struct xdp_md *ctx)
{
	__u32 length = ctx->data_end - ctx->data;

	bpf_map_push_elem(&lengths, &length, BPF_EXIST);
	return bpf_redirect_map(&interfaces, 0, XDP_PASS);
}

SEC("xdp.frags")
int fragments(struct xdp_md *ctx)
{
	return bpf_redirect_map(&interfaces_by_number, 7, XDP_PASS);
}

SEC("xdp/devmap")
int leaving(struct xdp_md *ctx)
{
	return ctx->egress_ifindex ? XDP_PASS : XDP_DROP;
}

SEC("xdp/cpumap")
int arriving(struct xdp_md *ctx)
{
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}

SEC("xdp.frags/devmap")
int leaving_fragments(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp.frags/cpumap")
int arriving_fragments(struct xdp_md *ctx)
{
	return bpf_redirect_map(&processors, 0, XDP_PASS);
}

char LICENSE[] SEC("license") = "GPL";
