/* Maps with keys beside a queue: settings in, counters out. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct prefix {
	__u32 length, address;
};

struct counter {
	__u64 packets, bytes;
};

struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); }
settings SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 64); __type(key, __u32); __type(value, struct counter); }
by_mark SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, struct counter); }
total SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_HASH); __uint(max_entries, 64); __type(key, __u32); __type(value, __u32); }
by_length SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 64); __type(key, __u64); __type(value, __u8); }
recent SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH); __uint(max_entries, 64); __type(key, __u64); __type(value, __u32); }
recent_by_processor SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 64); __uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix); __type(value, __u32); }
routes SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_BLOOM_FILTER); __uint(max_entries, 64); __uint(map_extra, 3); __type(value, __u32); }
known SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 64); __type(value, struct counter); }
large SEC(".maps");

SEC("socket")
int count(struct __sk_buff *skb)
{
	struct counter fresh = { 1, skb->len }, *counter;
	struct prefix prefix = { 32, skb->mark };
	__u32 zero = 0, mark = skb->mark, length = skb->len, one = 1;
	__u64 wide = mark, *limit = bpf_map_lookup_elem(&settings, &zero);

	counter = bpf_map_lookup_elem(&by_mark, &mark);
	if (counter) {
		__sync_fetch_and_add(&counter->packets, 1);
		__sync_fetch_and_add(&counter->bytes, length);
	} else {
		bpf_map_update_elem(&by_mark, &mark, &fresh, BPF_NOEXIST);
	}
	counter = bpf_map_lookup_elem(&total, &zero);
	if (counter)
		counter->packets += 1;
	bpf_map_update_elem(&by_length, &length, &one, BPF_ANY);
	bpf_map_update_elem(&recent, &wide, &one, BPF_ANY);
	bpf_map_update_elem(&recent_by_processor, &wide, &one, BPF_ANY);
	bpf_map_push_elem(&known, &mark, BPF_ANY);
	if (limit && length > *limit)
		bpf_map_push_elem(&large, &fresh, BPF_EXIST);
	return bpf_map_lookup_elem(&routes, &prefix) != 0;
}

char LICENSE[] SEC("license") = "GPL";
