/* Events through a ring buffer and a perf buffer beside the queue; their sizes are the loader's affair. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct event {
	__u64 time;
	__u32 pid, length;
	char command[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 5000);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096 * 3);
} from_user SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} perf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 32);
	__type(value, struct event);
} overflow SEC(".maps");

static long drain(struct bpf_dynptr *sample, void *context)
{
	__u32 value;

	return bpf_dynptr_read(&value, sizeof(value), sample, 0, 0) ? 1 : 0;
}

SEC("raw_tp/sched_process_exec")
int events(void *ctx)
{
	struct event event = { bpf_ktime_get_ns(), bpf_get_current_pid_tgid() >> 32 };
	struct event *reserved = bpf_ringbuf_reserve(&ring, sizeof(event), 0);

	bpf_get_current_comm(event.command, sizeof(event.command));
	if (reserved) {
		*reserved = event;
		bpf_ringbuf_submit(reserved, 0);
	} else {
		bpf_map_push_elem(&overflow, &event, BPF_EXIST);
	}
	bpf_user_ringbuf_drain(&from_user, drain, 0, 0);
	return bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &event, sizeof(event));
}

char LICENSE[] SEC("license") = "GPL";
