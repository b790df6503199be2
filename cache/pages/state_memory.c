/* State memory on the host: see state_memory.h. */
#include "cache/pages/state_memory.h"

#include <stdlib.h>
#include <string.h>

static void *take(void *context, size_t bytes)
{
    (void)context;
    size_t whole = (bytes + 63) / 64 * 64;
    return whole >= bytes ? aligned_alloc(64, whole ? whole : 64) : NULL;
}

static void give(void *context, void *p)
{
    (void)context;
    free(p);
}

static void copy(void *context, void *to, const void *from, size_t bytes)
{
    (void)context;
    memcpy(to, from, bytes);
}

static void clear(void *context, void *p, size_t bytes)
{
    (void)context;
    memset(p, 0, bytes);
}

static void set_page(void *context, uint32_t *to, uint32_t page)
{
    (void)context;
    *to = page;
}

const struct state_memory *state_memory_host(void)
{
    static const struct state_memory host = {
        .take = take, .give = give, .copy = copy, .clear = clear, .set_page = set_page};
    return &host;
}
