/* Connections spliced in the kernel, and sockets chosen: sockops, sk_msg, sk_skb, sk_lookup, sk_reuseport. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} by_cookie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} by_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

/* Sockets that nobody uses. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1024);
	__uint(key_size, 0);
	__uint(value_size, 4);
} idle SEC(".maps");

SEC("sockops")
int established(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 port = ctx->local_port;

	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		bpf_sock_hash_update(ctx, &by_cookie, &cookie, BPF_ANY);
		bpf_map_push_elem(&idle, &port, BPF_ANY);
	}
	return 0;
}

SEC("sk_msg")
int message(struct sk_msg_md *ctx)
{
	__u32 index;

	if (bpf_map_pop_elem(&idle, &index))
		return SK_PASS;
	return bpf_msg_redirect_map(ctx, &by_index, index & 15, BPF_F_INGRESS);
}

SEC("sk_skb/stream_parser") int parser(struct __sk_buff *ctx) { return ctx->len; }
SEC("sk_skb/stream_verdict") int verdict(struct __sk_buff *ctx)
{
	return bpf_sk_redirect_map(ctx, &by_index, 0, 0);
}
SEC("sk_skb") int either(struct __sk_buff *ctx) { return SK_PASS; }

SEC("sk_lookup")
int lookup(struct bpf_sk_lookup *ctx)
{
	return ctx->local_port == 7 ? SK_PASS : SK_DROP;
}

SEC("sk_reuseport")
int choose(struct sk_reuseport_md *ctx)
{
	__u32 index = 0;

	return bpf_sk_select_reuseport(ctx, &listeners, &index, 0) ? SK_PASS : SK_DROP;
}

SEC("sk_reuseport/migrate") int migrate(struct sk_reuseport_md *ctx) { return SK_PASS; }

char LICENSE[] SEC("license") = "GPL";
