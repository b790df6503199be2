/* The ring of ended requests: see history.h. */
#include "engine/serve/history.h"

#include <stdlib.h>
#include <string.h>

bool history_init(struct request_history *h, uint32_t n_heads, struct error *e)
{
    *h = (struct request_history){.n_heads = n_heads};
    h->records = calloc(RECORDS_MAX, sizeof *h->records);
    h->heads = calloc((size_t)RECORDS_MAX * n_heads, sizeof *h->heads);
    return (h->records && h->heads) ||
           error_set_memory(e, "the history of requests",
                            (uint64_t)RECORDS_MAX * n_heads * sizeof *h->heads);
}

void history_clear(struct request_history *h)
{
    free(h->records);
    free(h->heads);
    *h = (struct request_history){0};
}

static struct cache_head_counts *heads_at(const struct request_history *h, uint32_t index)
{
    return h->heads + (size_t)index * h->n_heads;
}

struct request_record *history_add(struct request_history *h, struct cache_head_counts **heads)
{
    struct request_record *record = &h->records[h->next];
    *heads = heads_at(h, h->next);
    memset(record, 0, sizeof *record);
    memset(*heads, 0, h->n_heads * sizeof **heads);
    h->next = (h->next + 1) % RECORDS_MAX;
    return record;
}

/* The index of the i-th newest record. */
static uint32_t nth(const struct request_history *h, uint32_t i)
{
    return (h->next + RECORDS_MAX - 1 - i) % RECORDS_MAX;
}

struct request_record *history_of(struct request_history *h, uint64_t order)
{
    for (uint32_t i = 0; i < RECORDS_MAX; i++) {
        struct request_record *record = &h->records[nth(h, i)];
        if (record->id[0] && record->order == order)
            return record;
    }
    return NULL;
}

const struct request_record *history_find(const struct request_history *h, const char *id,
                                          uint32_t owner_key, bool all, uint64_t now_ns)
{
    for (uint32_t i = 0; *id && i < RECORDS_MAX; i++) {
        const struct request_record *record = &h->records[nth(h, i)];
        if (!strcmp(record->id, id) && (all || record->owner_key == owner_key) &&
            now_ns < record->ended_ns + RECORD_TTL_NS)
            return record;
    }
    return NULL;
}

const struct cache_head_counts *history_heads(const struct request_history *h,
                                              const struct request_record *record)
{
    return heads_at(h, (uint32_t)(record - h->records));
}
