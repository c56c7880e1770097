/* The floor that everything is measured against: bpf(2) called in a loop by C,
 * as libbpf does it: a zeroed attr for each call. Returns ns per call. */

#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static double loop(int cmd, int fd, void *value, int calls)
{
    double start = now();

    for (int i = 0; i < calls; i++) {
        union bpf_attr attr;

        memset(&attr, 0, sizeof(attr));
        attr.map_fd = fd;
        attr.value = (uintptr_t)value;
        if (syscall(__NR_bpf, cmd, &attr, 32) < 0)
            return -1;
    }
    return (now() - start) / calls;
}

double push(int fd, void *value, int calls)
{
    return loop(BPF_MAP_UPDATE_ELEM, fd, value, calls);
}

double pop(int fd, void *value, int calls)
{
    return loop(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, value, calls);
}
