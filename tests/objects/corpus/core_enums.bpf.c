/* Both kinds of CO-RE relocation of an enumerator: whether it exists, and its value, other here than in the kernel. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

enum pid_type {
	PIDTYPE_NO_SUCH = 77,
	PIDTYPE_SID = 99,
	PIDTYPE_TGID = 98,
};

enum no_such_enum_anywhere {
	NOWHERE = 5,
};

__u32 exists[3], values[3];

SEC("raw_tp/sched_process_exec")
int enumerators(void *ctx)
{
	exists[0] = bpf_core_enum_value_exists(enum pid_type, PIDTYPE_SID);
	exists[1] = bpf_core_enum_value_exists(enum pid_type, PIDTYPE_NO_SUCH);
	exists[2] = bpf_core_enum_value_exists(enum no_such_enum_anywhere, NOWHERE);
	values[0] = bpf_core_enum_value(enum pid_type, PIDTYPE_SID);
	values[1] = bpf_core_enum_value(enum pid_type, PIDTYPE_TGID);
	if (bpf_core_enum_value_exists(enum pid_type, PIDTYPE_NO_SUCH))
		values[2] = bpf_core_enum_value(enum pid_type, PIDTYPE_NO_SUCH);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
