/* Values that belong to tasks, sockets and cgroups, and values with a timer or a lock in them. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum { BPF_MAP_TYPE_TASK_STORAGE = 29, BPF_MAP_TYPE_CGRP_STORAGE = 32, BPF_LOCAL_STORAGE_GET_F_CREATE = 1 };

struct bpf_spin_lock {
	__u32 val;
};

struct bpf_timer {
	__u64 opaque[2];
} __attribute__((aligned(8)));

struct account {
	struct bpf_spin_lock lock;
	__u64 sum;
};

struct clock {
	struct bpf_timer timer;
	__u64 ticks;
};

struct { __uint(type, BPF_MAP_TYPE_TASK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int);
	__type(value, __u64); } by_task SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, int); __type(value, struct account); }
accounts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, int); __type(value, struct clock); }
clocks SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 8); __type(value, __u64); } sums SEC(".maps");

static int tick(void *map, int *key, struct clock *clock)
{
	clock->ticks += 1;
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	__u64 *mine = bpf_task_storage_get(&by_task, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (mine)
		*mine += 1;
	return mine ? bpf_map_push_elem(&sums, mine, BPF_EXIST) : 0;
}

SEC("tc")
int locked(void *ctx)
{
	int key = 0;
	struct account *account = bpf_map_lookup_elem(&accounts, &key);
	struct clock *clock = bpf_map_lookup_elem(&clocks, &key);

	if (account) {
		bpf_spin_lock(&account->lock);
		account->sum += 1;
		bpf_spin_unlock(&account->lock);
	}
	if (clock) {
		bpf_timer_init(&clock->timer, &clocks, 1);
		bpf_timer_set_callback(&clock->timer, tick);
		bpf_timer_start(&clock->timer, 1000000, 0);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
