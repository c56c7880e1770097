/* Not supported: a function that the kernel does not have. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int bpf_no_such_function(int number) __ksym;

SEC("socket")
int program(void *ctx)
{
	return bpf_no_such_function(1);
}

char LICENSE[] SEC("license") = "GPL";
