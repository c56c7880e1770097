/* What no kernel has: a field, one in a function, a type, an enumerator, a size; and a program that asks before, and is
 * refused for something else. */
#include "corpus/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct task_struct___mine {
	int no_such_member;
	struct {
		int inner[4];
	} deep;
} __attribute__((preserve_access_index));

struct nowhere {
	int member;
} __attribute__((preserve_access_index));

enum pid_type {
	PIDTYPE_NO_SUCH,
};

static __noinline int called(void *task)
{
	return BPF_CORE_READ((struct task_struct___mine *)task, deep.inner[2]);
}

SEC("raw_tp/one")
int field(void *ctx)
{
	struct task_struct___mine *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, no_such_member);
}

SEC("raw_tp/two")
int in_function(void *ctx)
{
	return called((void *)bpf_get_current_task());
}

SEC("raw_tp/three")
int type(void *ctx)
{
	struct nowhere *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, member);
}

SEC("raw_tp/four")
int enumerator(void *ctx)
{
	return bpf_core_enum_value(enum pid_type, PIDTYPE_NO_SUCH);
}

SEC("raw_tp/five")
int size(void *ctx)
{
	struct task_struct___mine *task = (void *)bpf_get_current_task();

	return bpf_core_field_size(task->deep);
}

SEC("raw_tp/six")
int asks(void *ctx)
{
	int *wild = (void *)bpf_get_current_task();

	return bpf_core_type_exists(struct nowhere) ? 0 : *wild;
}

char LICENSE[] SEC("license") = "GPL";
