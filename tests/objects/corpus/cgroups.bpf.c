/* Programs of cgroups: who connects where, what is bound, sent and asked for. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct connection {
	__u64 cookie;
	__u32 address, port;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 64);
	__type(value, struct connection);
} connections SEC(".maps");

static __always_inline int note(struct bpf_sock_addr *ctx)
{
	struct connection connection = { bpf_get_socket_cookie(ctx), ctx->user_ip4, ctx->user_port };

	bpf_map_push_elem(&connections, &connection, BPF_EXIST);
	return 1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return note(ctx); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/bind4") int bind4(struct bpf_sock_addr *ctx) { return note(ctx); }
SEC("cgroup/bind6") int bind6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return note(ctx); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/getsockname4") int getsockname4(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/getsockname6") int getsockname6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/sock") int sock(struct bpf_sock *ctx) { return 1; }
SEC("cgroup/sock_create") int sock_create(struct bpf_sock *ctx) { return 1; }
SEC("cgroup/sock_release") int sock_release(struct bpf_sock *ctx) { return 1; }
SEC("cgroup/post_bind4") int post_bind4(struct bpf_sock *ctx) { return 1; }
SEC("cgroup/post_bind6") int post_bind6(struct bpf_sock *ctx) { return 1; }
SEC("cgroup_skb/ingress") int ingress(struct __sk_buff *ctx) { return 1; }
SEC("cgroup_skb/egress") int egress(struct __sk_buff *ctx) { return 1; }
SEC("cgroup/skb") int skb(struct __sk_buff *ctx) { return 1; }
SEC("cgroup/dev") int dev(struct bpf_cgroup_dev_ctx *ctx) { return ctx->major != 1; }
SEC("cgroup/sysctl") int sysctl(struct bpf_sysctl *ctx) { return !ctx->write; }
SEC("cgroup/getsockopt") int getsockopt(struct bpf_sockopt *ctx) { return 1; }
SEC("cgroup/setsockopt") int setsockopt(struct bpf_sockopt *ctx) { return 1; }

char LICENSE[] SEC("license") = "GPL";
