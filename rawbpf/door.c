/* What the door's prototypes at the end of bpf.h promise. build_ffi.py puts
 * bpf.h and the _Static_asserts of its offsets above this text. */

/* A queue's lock can be lost to a program running in an NMI or, since 6.15, to
 * any holder that the resilient spinlock gives up on. The call then did
 * nothing and answers EBUSY. */
enum { BUSY_TRIES = 10 };

int bpf_hooked;

int bpf_syscall(int cmd, void *attr, uint32_t size)
{
    long result = syscall(__NR_bpf, cmd, attr, size);

    return result < 0 ? -errno : (int)result;
}

int bpf(int cmd, void *attr, uint32_t size)
{
    if (__builtin_expect(bpf_hooked, 0))
        return bpf_hook(cmd, attr, size);
    return bpf_syscall(cmd, attr, size);
}

static int element(int cmd, int fd, void *key, void *value, uint64_t flags)
{
    union bpf_attr attr;
    int tries = BUSY_TRIES;
    int result;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = fd;
    attr.key = (uintptr_t)key;
    attr.value = (uintptr_t)value;
    attr.flags = flags;
    do
        result = bpf(cmd, &attr, offsetof(union bpf_attr, flags) + sizeof(attr.flags));
    while (result == -EBUSY && --tries);
    return result;
}

int map_update_elem(int fd, void *key, void *value, uint64_t flags)
{
    return element(2 /* BPF_MAP_UPDATE_ELEM */, fd, key, value, flags);
}

int map_lookup_elem(int fd, void *key, void *value)
{
    return element(1 /* BPF_MAP_LOOKUP_ELEM */, fd, key, value, 0);
}

/* `value` has one byte more than the map's values: it becomes 1 when an element
 * was taken. Python code that is interrupted (Ctrl-C) before it sees the
 * return value learns from that byte that it now owns an element. */
int map_lookup_and_delete_elem(int fd, void *key, char *value, uint32_t value_size)
{
    int result = element(21 /* BPF_MAP_LOOKUP_AND_DELETE_ELEM */, fd, key, value, 0);

    if (result == 0)
        value[value_size] = 1;
    return result;
}
