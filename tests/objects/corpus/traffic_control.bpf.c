/* Programs of qdiscs and routes under each of their names. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 64);
	__type(value, __u32);
} marks SEC(".maps");

static __always_inline int note(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	return bpf_map_push_elem(&marks, &mark, BPF_EXIST);
}

SEC("tc") int at_tc(struct __sk_buff *skb) { return note(skb); }
SEC("classifier") int at_classifier(struct __sk_buff *skb) { return note(skb); }
SEC("action") int at_action(struct __sk_buff *skb) { return note(skb); }
SEC("lwt_in") int at_lwt_in(struct __sk_buff *skb) { return 0; }
SEC("lwt_out") int at_lwt_out(struct __sk_buff *skb) { return 0; }
SEC("lwt_xmit") int at_lwt_xmit(struct __sk_buff *skb) { return 0; }
SEC("lwt_seg6local") int at_lwt_seg6local(struct __sk_buff *skb) { return 0; }
SEC("flow_dissector") int at_flow_dissector(struct __sk_buff *skb) { return BPF_OK; }
SEC("socket") int at_socket_filter(struct __sk_buff *skb) { return note(skb); }

char LICENSE[] SEC("license") = "GPL";
