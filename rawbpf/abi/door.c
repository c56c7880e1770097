/* What the door's prototypes at the end of bpf.h promise. build_ffi.py puts
 * bpf.h and the _Static_asserts of its offsets above this text. */

/* A queue's lock can be lost to a program running in an NMI or, since 6.15, to
 * any holder that the resilient spinlock gives up on. The call then did
 * nothing and answers EBUSY. */
enum { BUSY_TRIES = 10 };

/* bpf(2) never answers EINTR, so it can stand for "the hook raised". */
enum { HOOK_RAISED = -EINTR, NO_ANSWER = INT32_MIN };

int bpf_hooked;

/* What the kernel says in words. The two arguments through which it does are
 * read by no other call, and by no kernel before 7.2. */
enum { BPF_COMMON_ATTRS = 1 << 16 };

static __thread char words[BPF_LOG_SIZE];

char *bpf_log(void)
{
    return words;
}

static int enter_kernel_for_words(int cmd, void *attr, uint32_t size)
{
    struct bpf_common_attr {
        uint64_t log_buf;
        uint32_t log_size, log_level, log_true_size;
        uint32_t pad;
    } common = {(uintptr_t)words, sizeof(words), 1, 0, 0};
    long result = syscall(__NR_bpf, cmd, attr, size, &common, sizeof(common));

    return result < 0 ? -errno : (int)result;
}

static int enter_kernel(int cmd, void *attr, uint32_t size)
{
    long result;

    if (__builtin_expect(cmd & BPF_COMMON_ATTRS, 0))
        return enter_kernel_for_words(cmd, attr, size);
    result = syscall(__NR_bpf, cmd, attr, size);
    return result < 0 ? -errno : (int)result;
}

/* A hook may raise (Ctrl-C) after the kernel has answered: an element is taken
 * then, or a descriptor made, and must not be lost. So the answer to the call
 * that a hook is busy with is kept here, and that of the last one. */
static __thread int answer = NO_ANSWER, last_answer = NO_ANSWER;

int bpf_answer(int result)
{
    if (answer == NO_ANSWER)
        answer = result;
    return result;
}

int bpf_syscall(int cmd, void *attr, uint32_t size)
{
    return bpf_answer(enter_kernel(cmd, attr, size));
}

static int ask_hook(int cmd, void *attr, uint32_t size)
{
    int outer = answer; /* of a call whose hook makes this one */
    int result;

    answer = NO_ANSWER;
    result = bpf_hook(cmd, attr, size);
    last_answer = answer;
    answer = outer;
    /* Whatever bpf(2) answers above 0 is a descriptor, but for one command. */
    if (result == HOOK_RAISED && last_answer > 0 && cmd != 37 /* BPF_PROG_STREAM_READ_BY_FD */)
        close(last_answer);
    return result;
}

int bpf(int cmd, void *attr, uint32_t size)
{
    if (__builtin_expect(cmd & BPF_COMMON_ATTRS, 0))
        words[0] = '\0';
    if (__builtin_expect(bpf_hooked, 0))
        return ask_hook(cmd, attr, size);
    return enter_kernel(cmd, attr, size);
}

int bpf_open(int cmd, void *attr, uint32_t size, int32_t *made)
{
    int result = bpf(cmd, attr, size);

    if (result >= 0 && result <= STDERR_FILENO) {
        int low = result;

        result = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        if (result < 0)
            result = -errno;
        close(low);
    }
    *made = result;
    return result;
}

void map_retire(struct map *map)
{
    __atomic_store_n(&map->fd, -1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&map->calls, __ATOMIC_SEQ_CST))
        usleep(50);
}

static int element_command(int cmd, struct map *map, void *value, uint64_t flags)
{
    struct {
        uint32_t map_fd;
        uint32_t pad;
        uint64_t key, value, flags;
    } attr = {0, 0, 0, (uintptr_t)value, flags};
    int counted = !bpf_hooked;
    int tries = BUSY_TRIES;
    int result;

    /* Counted before the descriptor is read, as map_retire() does it the other
     * way round: one of the two sees the other. */
    __atomic_fetch_add(&map->calls, counted, __ATOMIC_SEQ_CST);
    attr.map_fd = __atomic_load_n(&map->fd, __ATOMIC_SEQ_CST);
    do
        result = counted ? enter_kernel(cmd, &attr, sizeof(attr)) : bpf(cmd, &attr, sizeof(attr));
    while (result == -EBUSY && --tries);
    __atomic_fetch_sub(&map->calls, counted, __ATOMIC_SEQ_CST);
    return result;
}

int map_update_elem(struct map *map, void *value, uint64_t flags)
{
    return element_command(2 /* BPF_MAP_UPDATE_ELEM */, map, value, flags);
}

int map_lookup_elem(struct element *element)
{
    return element_command(1 /* BPF_MAP_LOOKUP_ELEM */, element->map, element->value, 0);
}

int map_lookup_and_delete_elem(struct element *element)
{
    int result = element_command(21 /* BPF_MAP_LOOKUP_AND_DELETE_ELEM */, element->map, element->value, 0);

    element->taken = result == 0 || (result == HOOK_RAISED && last_answer == 0);
    return result;
}
