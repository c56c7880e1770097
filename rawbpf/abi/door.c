/* What the door's prototypes at the end of bpf.h promise. build_ffi.py puts
 * bpf.h and the _Static_asserts of its offsets above this text. */

/* A queue's lock can be lost to a program running in an NMI or, since 6.15, to
 * any holder that the resilient spinlock gives up on. The call then did
 * nothing and answers EBUSY. */
enum { BUSY_TRIES = 10 };

/* What bpf(2) itself never answers, and so can have another meaning: the hook
 * raised; the hook is a function of another interpreter in this process, which
 * can't be called from here; the map was closed; another call has the batch. */
enum {
    HOOK_RAISED = -EINTR,
    HOOK_ELSEWHERE = -EUNATCH,
    MAP_CLOSED = -ESHUTDOWN,
    BATCH_IN_USE = -EALREADY,
    NO_ANSWER = INT32_MIN,
};

static int bpf_hooked;

void set_bpf_hooked(int on)
{
    bpf_hooked = on;
}

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
    result = HOOK_ELSEWHERE; /* cffi calls nothing, and says nothing, where it has no such function */
    bpf_hook(cmd, attr, size, &result);
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

/* A descriptor that was made, moved above 2; or the errno, as it is. */
static int above_stderr(int made)
{
    int result = made;

    if (made >= 0 && made <= STDERR_FILENO) {
        result = fcntl(made, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        if (result < 0)
            result = -errno;
        close(made);
    }
    return result;
}

int bpf_open(int cmd, void *attr, uint32_t size, int32_t *made)
{
    return *made = above_stderr(bpf(cmd, attr, size));
}

/* The two parts of map.calls: the bits for calls under way, and what a call that
 * was begun adds to the others. */
#define UNDER_WAY 0xffff
#define BEGUN     0x10000

void map_retire(struct map *map)
{
    __atomic_store_n(&map->fd, -1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&map->calls, __ATOMIC_SEQ_CST) & UNDER_WAY)
        usleep(50);
}

/* A call with a descriptor of the map's own, counted. It is counted before the
 * descriptor is read, as map_retire() does it the other way round: one of the
 * two sees the other. Each call gets a number, in *number. */
static inline int begin_call(struct map *map, int counted, uint64_t *number)
{
    *number = __atomic_fetch_add(&map->calls, BEGUN + counted, __ATOMIC_SEQ_CST) / BEGUN;
    return __atomic_load_n(&map->fd, __ATOMIC_SEQ_CST);
}

static inline void end_call(struct map *map, int counted)
{
    __atomic_fetch_sub(&map->calls, counted, __ATOMIC_SEQ_CST);
}

int map_dup(struct map *map, int32_t *made)
{
    uint64_t number;
    int fd = begin_call(map, 1, &number);
    int result = MAP_CLOSED;

    if (fd >= 0) {
        result = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        if (result < 0)
            result = errno == EINVAL ? -EMFILE : -errno; /* EINVAL: the process may have no descriptor above 2 */
    }
    end_call(map, 1);
    *made = result;
    return result;
}

int map_bpf(struct map *map, int cmd, void *attr, uint32_t size)
{
    uint64_t number;
    int counted = !bpf_hooked;
    int result = MAP_CLOSED;

    if (begin_call(map, counted, &number) >= 0)
        result = counted ? enter_kernel(cmd, attr, size) : bpf(cmd, attr, size);
    end_call(map, counted);
    return result;
}

/* The same for a command that names the map in its attr, at `map_fd`. */
static inline int counted_bpf(struct map *map, int cmd, void *attr, uint32_t size, uint32_t *map_fd, uint64_t *number)
{
    int counted = !bpf_hooked;
    int fd = begin_call(map, counted, number);
    int tries = BUSY_TRIES;
    int result = MAP_CLOSED;

    *map_fd = fd;
    if (__builtin_expect(fd >= 0, 1))
        do
            result = counted ? enter_kernel(cmd, attr, size) : bpf(cmd, attr, size);
        while (result == -EBUSY && --tries);
    end_call(map, counted);
    return result;
}

static inline int element_command(int cmd, struct map *map, void *key, void *value, uint64_t flags, uint64_t *number)
{
    struct {
        uint32_t map_fd;
        uint32_t pad;
        uint64_t key, value, flags;
    } attr = {0, 0, (uintptr_t)key, (uintptr_t)value, flags};

    return counted_bpf(map, cmd, &attr, sizeof(attr), &attr.map_fd, number);
}

int map_update_elem(struct map *map, void *value, uint64_t flags)
{
    uint64_t number;

    return element_command(2 /* BPF_MAP_UPDATE_ELEM */, map, NULL, value, flags, &number);
}

int map_lookup_elem(struct map *map, void *value)
{
    uint64_t number;

    return element_command(1 /* BPF_MAP_LOOKUP_ELEM */, map, NULL, value, 0, &number);
}

static int64_t pushed_and_why(uint32_t pushed, int why)
{
    return (int64_t)why << 32 | pushed;
}

int64_t map_push(struct map *map, void *values, uint32_t count, uint64_t flags)
{
    char *value = values;
    uint32_t pushed;

    for (pushed = 0; pushed < count; pushed++, value += map->value_size) {
        int result = map_update_elem(map, value, flags);

        if (result < 0)
            return pushed_and_why(pushed, -result);
    }
    return pushed_and_why(count, 0);
}

/* Batches */

/* The state of a batch that was claimed, while `owner` still names the thread before. */
enum { CLAIMED = 3 };

static int claim(struct batch *batch, uint8_t state)
{
    if (!__atomic_compare_exchange_n(&batch->state, &state, CLAIMED, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return 0;
    __atomic_store_n(&batch->owner, (uintptr_t)pthread_self(), __ATOMIC_RELAXED);
    __atomic_store_n(&batch->state, BATCH_TAKEN, __ATOMIC_RELEASE);
    return 1;
}

static inline void set_state(struct batch *batch, uint8_t state)
{
    __atomic_store_n(&batch->state, state, __ATOMIC_SEQ_CST);
}

/* Other threads ask in is_lent() whether a scratch is borrowed. RELEASE: whoever
 * gives it back must have read what is in it before another finds it free. */
static inline void set_scratch(struct batch *batch, struct scratch *scratch)
{
    __atomic_store_n(&batch->scratch, scratch, __ATOMIC_RELEASE);
}

int batch_begin(struct batch *batch)
{
    if (!claim(batch, BATCH_FREE))
        return 0;
    batch->first = batch->count = 0;
    set_scratch(batch, NULL);
    return 1;
}

static int pop_one(struct batch *batch)
{
    struct map *map = batch->map;
    char *value = batch->data + (size_t)batch->count * map->value_size;
    uint64_t number;
    int result = element_command(21 /* BPF_MAP_LOOKUP_AND_DELETE_ELEM */, map, NULL, value, 0, &number);

    if (result == 0 || (result == HOOK_RAISED && last_answer == 0)) {
        if (batch->count == 0)
            batch->number = number;
        batch->count++;
    }
    return result;
}

int batch_pop(struct batch *batch, uint32_t want)
{
    int result = 0;

    while (result == 0 && want-- && batch->count < batch->capacity)
        result = pop_one(batch);
    return result;
}

/* The scratch is the batch's as long as nobody has borrowed it since. */
static struct batch *borrowed(struct batch *batch)
{
    return batch->scratch ? &batch->scratch->batch : NULL;
}

static uint32_t left(struct batch *batch)
{
    return batch->count - batch->first;
}

uint32_t batch_left(struct batch *batch)
{
    struct batch *behind = borrowed(batch);

    return left(batch) + (behind ? left(behind) : 0);
}

static int is_taken(struct batch *batch)
{
    return __atomic_load_n(&batch->state, __ATOMIC_SEQ_CST) == BATCH_TAKEN;
}

static int is_mine(struct batch *batch)
{
    return is_taken(batch) && __atomic_load_n(&batch->owner, __ATOMIC_RELAXED) == (uintptr_t)pthread_self();
}

static void hold(struct batch *batch, uint32_t handed)
{
    batch->first += handed;
    if (batch_left(batch) == 0) {
        set_state(batch, BATCH_FREE);
        return;
    }
    __atomic_fetch_add(&batch->map->held, 1, __ATOMIC_SEQ_CST);
    set_state(batch, BATCH_HELD);
}

void batch_hold(struct batch *batch)
{
    uint32_t rest = batch->rest[0] + batch->rest[1] + batch->rest[2] + batch->rest[3];

    if (is_taken(batch))
        hold(batch, left(batch) - rest);
}

void batch_keep(struct batch *batch)
{
    if (is_mine(batch))
        hold(batch, 0);
}

void batch_keep_both(struct batch *batch, struct batch *other)
{
    batch_keep(batch);
    batch_keep(other);
}

int map_pop(struct batch *batch, uint32_t want)
{
    int result;

    if (__atomic_load_n(&batch->map->held, __ATOMIC_SEQ_CST) || !batch_begin(batch))
        return BATCH_IN_USE;
    result = batch_pop(batch, want);
    if (batch->count == 0 || result == HOOK_RAISED) {
        hold(batch, 0);
        return result;
    }
    return batch->count;
}

int map_lookup_and_delete_elem(struct batch *batch)
{
    int count = map_pop(batch, 1);

    return count < 0 ? count : 0;
}

static uint32_t move(struct batch *to, struct batch *from, uint32_t most)
{
    size_t size = to->map->value_size;
    uint32_t count = left(from);

    if (count > most)
        count = most;
    if (count > to->capacity - to->count)
        count = to->capacity - to->count;
    if (count == 0)
        return 0;
    memcpy(to->data + to->count * size, from->data + from->first * size, count * size);
    if (to->count == 0)
        to->number = from->number + from->first;
    to->count += count;
    from->first += count;
    return count;
}

uint32_t batch_move(struct batch *to, struct batch *from, uint32_t most)
{
    struct batch *behind;
    uint32_t moved;

    if (claim(from, BATCH_HELD))
        __atomic_fetch_sub(&from->map->held, 1, __ATOMIC_SEQ_CST);
    else if (!is_mine(from))
        return 0;
    behind = borrowed(from);
    moved = move(to, from, most);
    if (behind && left(from) == 0)
        moved += move(to, behind, most - moved);
    hold(from, 0);
    return moved;
}

void batch_absorb(struct batch *batch)
{
    struct batch *behind = borrowed(batch);

    if (!behind)
        return;
    move(batch, behind, UINT32_MAX);
    if (left(behind) == 0)
        set_scratch(batch, NULL);
}

/* The scratch belongs to the batch that borrowed it last, until that is FREE. */
static int is_lent(struct scratch *scratch)
{
    struct batch *borrower = scratch->borrower;

    return borrower && __atomic_load_n(&borrower->scratch, __ATOMIC_ACQUIRE) == scratch &&
           __atomic_load_n(&borrower->state, __ATOMIC_SEQ_CST) != BATCH_FREE;
}

/* Runs one of the two programs, which finds in the words how many elements to
 * move and leaves there how many it moved, and why not more. */
static int run(struct scratch *scratch, void *attr, uint32_t want)
{
    uint32_t *words = scratch->words;
    int result;

    words[SCRATCH_POPPED] = words[SCRATCH_PUSHED] = words[SCRATCH_WHY] = 0;
    words[SCRATCH_LIMIT] = want;
    result = map_bpf(scratch->batch.map, 10 /* BPF_PROG_TEST_RUN */, attr, scratch->attr_size);
    return result < 0 ? result : -(int32_t)words[SCRATCH_WHY];
}

/* How many were moved. Who may open any map can write into this one as well. */
static uint32_t moved(struct scratch *scratch, int word, uint32_t want)
{
    uint32_t count = __atomic_load_n(&scratch->words[word], __ATOMIC_SEQ_CST);

    return count < want ? count : want;
}

int batch_pop_many(struct batch *batch, struct scratch *scratch, uint32_t want)
{
    struct batch *popped = &scratch->batch;
    int result = BATCH_IN_USE;

    if (__atomic_exchange_n(&scratch->busy, 1, __ATOMIC_SEQ_CST))
        return result;
    if (!is_lent(scratch) || (scratch->borrower == batch && left(popped) == 0)) {
        popped->first = popped->count = 0;
        scratch->borrower = batch;
        set_scratch(batch, scratch);
        result = run(scratch, scratch->pop_attr, want);
        popped->count = moved(scratch, SCRATCH_POPPED, want);
        popped->number = __atomic_fetch_add(&popped->map->calls, (uint64_t)popped->count * BEGUN, __ATOMIC_SEQ_CST) / BEGUN;
        if (batch->count == 0)
            batch->number = popped->number;
    }
    __atomic_store_n(&scratch->busy, 0, __ATOMIC_SEQ_CST);
    return result;
}

int64_t map_push_many(struct scratch *scratch, void *values, uint32_t count, uint64_t flags)
{
    int64_t result = BATCH_IN_USE;

    if (__atomic_exchange_n(&scratch->busy, 1, __ATOMIC_SEQ_CST))
        return result;
    if (!is_lent(scratch)) {
        memcpy(scratch->batch.data, values, (size_t)count * scratch->batch.map->value_size);
        memcpy(scratch->words + SCRATCH_FLAGS, &flags, sizeof(flags));
        result = run(scratch, scratch->push_attr, count);
        if (result >= 0)
            result = pushed_and_why(moved(scratch, SCRATCH_PUSHED, count), result);
    }
    __atomic_store_n(&scratch->busy, 0, __ATOMIC_SEQ_CST);
    return result;
}

/* Maps with keys. A batch of some maps answers EINTR by itself. */
static int noted(int result, int32_t *answer)
{
    if (result != HOOK_RAISED || !bpf_hooked)
        *answer = result;
    else if (last_answer != NO_ANSWER)
        *answer = last_answer;
    return result;
}

int map_element(struct map *map, int cmd, void *key, void *value, uint64_t flags, int32_t *answer)
{
    uint64_t number;

    return noted(element_command(cmd, map, key, value, flags, &number), answer);
}

int map_batch(struct map *map, int cmd, struct bpf_attr_batch *batch, int32_t *answer)
{
    uint64_t number;

    return noted(counted_bpf(map, cmd, batch, sizeof(*batch), &batch->map_fd, &number), answer);
}

/* Ring buffers. Source: kernel/bpf/ringbuf.c. */

enum { RINGBUF_HDR_SIZE = 8 };
static const uint32_t RINGBUF_BUSY = 1u << 31, RINGBUF_DISCARD = 1u << 30;

int ring_scan(void *producer, void *data, uint32_t size, uint64_t position, struct ring_record *records, int most,
              uint64_t *end)
{
    uint64_t limit = __atomic_load_n((uint64_t *)producer, __ATOMIC_ACQUIRE);
    int count = 0;

    if (position % 8 || limit - position > size)
        return -EINVAL;
    while (position != limit && count < most) {
        uint32_t offset = position & (size - 1);
        uint32_t header = __atomic_load_n((uint32_t *)((char *)data + offset), __ATOMIC_ACQUIRE);
        uint32_t length = header & ~(RINGBUF_BUSY | RINGBUF_DISCARD);
        uint64_t total = ((uint64_t)length + RINGBUF_HDR_SIZE + 7) & ~7ull;

        if (header & RINGBUF_BUSY)
            break;
        if (total > limit - position)
            return -EINVAL;
        position += total;
        if (!(header & RINGBUF_DISCARD))
            records[count++] = (struct ring_record){position, offset + RINGBUF_HDR_SIZE, length};
    }
    *end = position;
    return count;
}

void ring_fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The second door. */

int perf_event_open(struct perf_event_attr *attr, int32_t pid, int32_t cpu, int32_t group_fd, uint64_t flags,
                    int32_t *made)
{
    long result = syscall(__NR_perf_event_open, attr, pid, cpu, group_fd, (unsigned long)flags);

    return *made = above_stderr(result < 0 ? -errno : (int)result);
}
