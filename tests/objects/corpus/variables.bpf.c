/* Variables in each place that C has for them, functions that are weak or hidden, and strings. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define __hidden_here __attribute__((visibility("hidden")))

static __u64 counted;
static volatile const __u32 quiet = 7;
__hidden_here __u32 secret;
__u32 shared_zero;
__u32 shared[4] = { 1, 2, 3 };
const volatile __u8 level = 3;
__u64 aside SEC(".data.aside") = 11;
const volatile __u32 table[3] SEC(".rodata.table") = { 5, 6, 7 };
static __u32 apart SEC(".data.apart") = 1;
__attribute__((common)) __u32 nobody_uses_this;

struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 8); __type(value, __u64); } values SEC(".maps");

__weak __noinline int weak(int x)
{
	return x + quiet;
}

__hidden_here __noinline int hidden(int *x)
{
	secret += 1;
	return *x + level;
}

SEC("socket")
int everything(struct __sk_buff *skb)
{
	int length = skb->len;
	__u64 value;

	counted += 1;
	apart += 1;
	aside += length;
	shared[length & 3] += 1;
	shared_zero += 1;
	value = counted + apart + aside + table[skb->len & 1] + weak(length) + hidden(&length);
	bpf_printk("seen %d bytes, %d packets", length, counted);
	return bpf_map_push_elem(&values, &value, BPF_EXIST);
}

char LICENSE[] SEC("license") = "GPL";
