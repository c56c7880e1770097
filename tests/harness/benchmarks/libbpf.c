/* The same loops by way of libbpf. Return 0, or -1 if a call failed. The
 * prototypes stand here so that the library is enough, without its headers. */

#include <stdint.h>

int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value);

int push(int fd, void *value, int calls)
{
    for (int i = 0; i < calls; i++)
        if (bpf_map_update_elem(fd, (void *)0, value, 0) < 0)
            return -1;
    return 0;
}

int pop(int fd, void *value, int calls)
{
    for (int i = 0; i < calls; i++)
        if (bpf_map_lookup_and_delete_elem(fd, (void *)0, value) < 0)
            return -1;
    return 0;
}
