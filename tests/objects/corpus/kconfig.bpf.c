/* The kernel's configuration as constants, which decide what the verifier looks at. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

extern int LINUX_KERNEL_VERSION __kconfig;
extern bool LINUX_HAS_BPF_COOKIE __kconfig;
extern bool LINUX_HAS_SYSCALL_WRAPPER __kconfig;
extern unsigned int LINUX_NO_SUCH_THING __kconfig __weak;
extern int CONFIG_HZ __kconfig;
extern bool CONFIG_BPF_SYSCALL __kconfig;
extern char CONFIG_BPF __kconfig;
extern enum libbpf_tristate CONFIG_NET __kconfig;
extern char CONFIG_DEFAULT_HOSTNAME[8] __kconfig;
extern __u64 CONFIG_NO_SUCH_NUMBER __kconfig __weak;
extern bool CONFIG_NO_SUCH_SWITCH __kconfig __weak;
extern __u8 CONFIG_LOG_BUF_SHIFT __kconfig;

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16);
	__type(value, __u64);
} facts SEC(".maps");

static __always_inline void note(__u64 value)
{
	bpf_map_push_elem(&facts, &value, BPF_EXIST);
}

SEC("socket")
int configured(struct __sk_buff *skb)
{
	note(LINUX_KERNEL_VERSION);
	note(LINUX_HAS_BPF_COOKIE);
	note(LINUX_HAS_SYSCALL_WRAPPER);
	note(LINUX_NO_SUCH_THING);
	note(CONFIG_HZ);
	note(CONFIG_BPF_SYSCALL ? 1 : 100);
	note(CONFIG_BPF);
	note(CONFIG_NET == TRI_YES);
	note(CONFIG_DEFAULT_HOSTNAME[1]);
	note(CONFIG_NO_SUCH_NUMBER);
	note(CONFIG_LOG_BUF_SHIFT);
	if (CONFIG_NO_SUCH_SWITCH)
		note(0xdead);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
