/* Not supported: the map definitions of old. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	int type, key_size, value_size, max_entries;
} queue SEC("maps") = { BPF_MAP_TYPE_QUEUE, 0, 4, 4 };

SEC("socket")
int program(void *ctx)
{
	int value = 1;

	return bpf_map_push_elem(&queue, &value, 0);
}

char LICENSE[] SEC("license") = "GPL";
