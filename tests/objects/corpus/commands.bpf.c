/* Commands in by one queue, results out by another, carried out by a program that user space runs. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum operation { ADD, MULTIPLY, NEGATE };

struct command {
	enum operation operation;
	__s64 left, right;
};

struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 64); __type(value, struct command); } commands SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 64); __type(value, __s64); } results SEC(".maps");

static long one(__u32 index, void *context)
{
	struct command command;
	__s64 result;

	if (bpf_map_pop_elem(&commands, &command))
		return 1;
	switch (command.operation) {
	case ADD:
		result = command.left + command.right;
		break;
	case MULTIPLY:
		result = command.left * command.right;
		break;
	default:
		result = -command.left;
	}
	bpf_map_push_elem(&results, &result, BPF_ANY);
	return 0;
}

SEC("syscall")
int work(void *ctx)
{
	return bpf_loop(64, one, 0, 0);
}

char LICENSE[] SEC("license") = "GPL";
