/* The floor that everything is measured against: bpf(2) called in a loop by C,
 * as libbpf does it: a zeroed attr for each call. Returns 0, or -1 if a call
 * failed. */

#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int loop(int cmd, int fd, void *value, int calls)
{
    for (int i = 0; i < calls; i++) {
        union bpf_attr attr;

        memset(&attr, 0, sizeof(attr));
        attr.map_fd = fd;
        attr.value = (uintptr_t)value;
        if (syscall(__NR_bpf, cmd, &attr, 32) < 0)
            return -1;
    }
    return 0;
}

int push(int fd, void *value, int calls)
{
    return loop(BPF_MAP_UPDATE_ELEM, fd, value, calls);
}

int pop(int fd, void *value, int calls)
{
    return loop(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, value, calls);
}
