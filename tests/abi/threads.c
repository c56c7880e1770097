/* Threads that share one map through door.c, for ThreadSanitizer: they push, pop with batches of their own and with one
 * for which they compete, keep what they popped or hand it over, and move what others kept. Then the map is retired
 * under their hands. Each number must be handed over once.
 *
 *     threads SECONDS
 *
 * Prints how many numbers were handed over. The exit code is 1 if one was lost, or handed over twice. */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bpf.h"

static void bpf_hook(int cmd, void *attr, uint32_t size, int32_t *result);

#include "door.c"

static void bpf_hook(int cmd, void *attr, uint32_t size, int32_t *result)
{
    *result = bpf_syscall(cmd, attr, size);
}

enum { THREADS = 4, ROOM = 4, ENTRIES = 64, BATCHES = THREADS + 2, NUMBERS = 1 << 24 };

static struct map map;
static struct batch batches[BATCHES]; /* one for each thread, and two for which they compete */
static struct scratch scratch;
static uint64_t elements[BATCHES][ROOM], in_scratch[ENTRIES], attr[16];
static uint32_t counts[8];
static uint64_t next;
static uint8_t pushed[NUMBERS], seen[NUMBERS];

/* As Python does it: the values are read, and one store says that the caller has them. */
static void hand_over(struct batch *batch)
{
    uint32_t at;

    for (at = batch->first; at < batch->count; at++)
        __atomic_fetch_add(&seen[elements[batch - batches][at]], 1, __ATOMIC_RELAXED);
    set_state(batch, BATCH_FREE);
}

static void push(void)
{
    uint64_t number = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);

    if (number < NUMBERS)
        pushed[number] = map_update_elem(&map, &number, 0) == 0;
}

static void pop(struct batch *batch, unsigned chance)
{
    int result = chance & 1 ? map_lookup_and_delete_elem(batch) : map_pop(batch, ROOM);

    if (result == BATCH_IN_USE)
        batch_keep(batch); /* as if something had been raised: it is another's, and stays that */
    else if (result >= 0 && chance & 6)
        hand_over(batch);
    else if (result >= 0)
        batch_keep(batch);
}

/* What was kept, moved together and handed over; and a run of programs that are not there. */
static void take_held(struct batch *mine)
{
    int each;

    if (!batch_begin(mine))
        return;
    for (each = 0; each < BATCHES; each++)
        if (&batches[each] != mine)
            batch_move(mine, &batches[each], ROOM);
    batch_pop_many(mine, &scratch, 1);
    batch_absorb(mine);
    hand_over(mine);
}

static void *work(void *own)
{
    struct batch *mine = own, *shared = &batches[THREADS];
    unsigned seed = mine - batches;

    while (__atomic_load_n(&map.fd, __ATOMIC_RELAXED) >= 0) {
        unsigned chance = rand_r(&seed);

        if (chance % 8 < 3)
            push();
        else if (chance % 8 < 6)
            pop(chance & 64 ? mine : shared + (chance >> 7 & 1), chance >> 8);
        else
            take_held(mine);
    }
    return NULL;
}

int main(int count, char **arguments)
{
    pthread_t threads[THREADS];
    union bpf_attr create = {0};
    uint64_t number, handed = 0;
    int each, fd;

    create.map_type = 22; /* BPF_MAP_TYPE_QUEUE */
    create.value_size = sizeof(number);
    create.max_entries = ENTRIES;
    fd = bpf(0 /* BPF_MAP_CREATE */, &create, sizeof(create));
    if (fd < 0)
        return 2;
    map.fd = fd;
    map.value_size = sizeof(number);
    scratch.batch.map = &map;
    scratch.batch.data = (char *)in_scratch;
    scratch.batch.capacity = ENTRIES;
    scratch.words = counts;
    scratch.pop_attr = scratch.push_attr = attr;
    scratch.attr_size = sizeof(attr);
    attr[0] = UINT32_MAX; /* no program */
    for (each = 0; each < BATCHES; each++) {
        batches[each].map = &map;
        batches[each].data = (char *)elements[each];
        batches[each].capacity = ROOM;
    }
    for (each = 0; each < THREADS; each++)
        pthread_create(&threads[each], NULL, work, &batches[each]);
    usleep(1000000 * atof(arguments[count - 1]));
    map_retire(&map);
    for (each = 0; each < THREADS; each++)
        pthread_join(threads[each], NULL);
    /* What is left, kept or in the map. */
    for (each = 0; each < BATCHES; each++)
        if (batches[each].state != BATCH_FREE)
            hand_over(&batches[each]);
    map.held = 0;
    map.fd = fd;
    while (map_lookup_and_delete_elem(&batches[0]) == 0)
        hand_over(&batches[0]);
    for (number = 0; number < NUMBERS; number++) {
        if (seen[number] != pushed[number])
            return 1;
        handed += seen[number];
    }
    printf("%llu\n", (unsigned long long)handed);
    return 0;
}
