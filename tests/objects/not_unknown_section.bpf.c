/* Not supported: a section of no known type. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("no_such_type/at_all")
int program(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
