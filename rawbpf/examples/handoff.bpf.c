/* Two programs that hand work to each other through a queue: see handoff.py. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct job {
	__u32 number;
	__u32 weight;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 8);
	__type(value, struct job);
} jobs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 8);
	__type(value, struct job);
} done SEC(".maps");

__u32 handed_out;
__u32 strength = 100;

/* A packet is a job, its length the weight. */
SEC("socket")
int producer(struct __sk_buff *skb)
{
	struct job job = { .number = handed_out + 1, .weight = skb->len };
	long error = bpf_map_push_elem(&jobs, &job, BPF_ANY);

	if (!error)
		handed_out++;
	return error;
}

/* Looks at the next job, and takes it only if it is not too heavy. */
SEC("socket")
int worker(struct __sk_buff *skb)
{
	struct job job;

	if (bpf_map_peek_elem(&jobs, &job))
		return 0;
	if (job.weight > strength)
		return 0;
	if (bpf_map_pop_elem(&jobs, &job))
		return 0;
	return bpf_map_push_elem(&done, &job, BPF_EXIST) ? 0 : job.number;
}
