/* Locks and timers in values of maps whose types the kernel lets have none: their BTF is left out then. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct account {
	struct bpf_spin_lock lock;
	__u32 sum;
};

struct clock {
	struct bpf_timer timer;
	__u64 ticks;
};

struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 8); __type(value, struct account); } queue SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_STACK); __uint(max_entries, 8); __type(value, struct clock); } stack SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 8); __type(key, int); __type(value, struct account); }
recent SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __type(key, int); __type(value, struct clock); }
clocks SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __uint(map_flags, BPF_F_RDONLY_PROG);
	__type(key, int); __type(value, struct account); }
settings SEC(".maps");

SEC("socket")
int program(struct __sk_buff *skb)
{
	struct account account = { .sum = skb->len };
	int key = 0;

	bpf_map_push_elem(&queue, &account, BPF_EXIST);
	return bpf_map_lookup_elem(&settings, &key) != 0;
}

char LICENSE[] SEC("license") = "GPL";
