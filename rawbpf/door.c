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

static int element_command(int cmd, int fd, void *value, uint64_t flags)
{
    struct {
        uint32_t map_fd;
        uint32_t pad;
        uint64_t key, value, flags;
    } attr = {fd, 0, 0, (uintptr_t)value, flags};
    int tries = BUSY_TRIES;
    int result;

    do
        result = bpf(cmd, &attr, sizeof(attr));
    while (result == -EBUSY && --tries);
    return result;
}

int map_update_elem(int fd, void *value, uint64_t flags)
{
    return element_command(2 /* BPF_MAP_UPDATE_ELEM */, fd, value, flags);
}

int map_lookup_elem(struct element *element)
{
    return element_command(1 /* BPF_MAP_LOOKUP_ELEM */, element->map_fd, element->value, 0);
}

int map_lookup_and_delete_elem(struct element *element)
{
    int result = element_command(21 /* BPF_MAP_LOOKUP_AND_DELETE_ELEM */, element->map_fd, element->value, 0);

    element->taken = result == 0;
    return result;
}
