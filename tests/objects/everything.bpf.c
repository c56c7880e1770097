/* One of each: maps of several types, constants, variables, functions called and called back, two sections. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum colour { RED, GREEN = 5, BLUE };

struct point {
	__s16 x, y;
};

struct event {
	__u64 time;
	__u32 pid;
	char command[16];
	struct point points[2];
	enum colour colour;
	unsigned int low : 3, high : 5;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16);
	__type(value, struct event);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 4);
	__uint(value_size, 8);
	__uint(map_flags, BPF_F_WRONLY_PROG);
} bytes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} a_hash_with_a_long_name SEC(".maps");

const volatile __u32 factor = 2;
const volatile struct point origin = { 1, -1 };
__u64 runs = 40;
static volatile __u32 calls;
char text[8] = "hello";

static __noinline __u32 twice(__u32 x)
{
	calls += 1;
	return x * factor;
}

static __noinline __u32 chain(__u32 x)
{
	return twice(x) + 1;
}

/* Not static: the verifier looks at it by itself. */
__attribute__((noinline)) int global(int x)
{
	calls += 1;
	return x > 7 ? 7 : x;
}

SEC("socket")
int fill(struct __sk_buff *skb)
{
	struct event event = {
		.time = bpf_ktime_get_ns(),
		.pid = chain(skb->len),
		.points = { { origin.x, origin.y }, { 3, -4 } },
		.colour = BLUE,
		.low = 5,
		.high = 17,
	};

	__builtin_memcpy(event.command, text, sizeof(text));
	runs += 1;
	return bpf_map_push_elem(&events, &event, BPF_EXIST);
}

SEC("socket")
int count(struct __sk_buff *skb)
{
	__u64 number = 9, *found;
	__u32 key = 3;

	bpf_map_push_elem(&bytes, &number, BPF_ANY);
	bpf_map_update_elem(&a_hash_with_a_long_name, &key, &number, BPF_ANY);
	found = bpf_map_lookup_elem(&a_hash_with_a_long_name, &key);
	return found ? *found + global(skb->len) : 0;
}

SEC("raw_tp/sched_process_exec")
int on_exec(struct bpf_raw_tracepoint_args *args)
{
	__u64 number = chain(3);

	return bpf_map_push_elem(&bytes, &number, BPF_EXIST);
}

SEC("kprobe/do_nanosleep")
int on_sleep(void *registers)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
