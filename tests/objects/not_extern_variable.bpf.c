/* Not supported: a value that neither the kernel's configuration nor libbpf has. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int LINUX_NO_SUCH_THING __kconfig;

SEC("socket")
int program(void *ctx)
{
	return LINUX_NO_SUCH_THING;
}

char LICENSE[] SEC("license") = "GPL";
