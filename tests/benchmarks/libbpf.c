/* The same loops by way of libbpf. Returns ns per call. The prototypes stand
 * here so that the library is enough and its headers need not be there. */

#include <stdint.h>

#include "clock.h"

int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value);

double push(int fd, void *value, int calls)
{
    double start = now();

    for (int i = 0; i < calls; i++)
        if (bpf_map_update_elem(fd, (void *)0, value, 0) < 0)
            return -1;
    return (now() - start) / calls;
}

double pop(int fd, void *value, int calls)
{
    double start = now();

    for (int i = 0; i < calls; i++)
        if (bpf_map_lookup_and_delete_elem(fd, (void *)0, value) < 0)
            return -1;
    return (now() - start) / calls;
}
