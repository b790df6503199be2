/* What requests held when they ended, head by head, for GET /v1/kv/requests/{id}: a ring of fixed
 * size, so that nothing is allocated while requests run. The oldest go first; one that ended more
 * than RECORD_TTL_NS ago is not found any more. Engine thread. */
#ifndef WINNOW_ENGINE_SERVE_HISTORY_H
#define WINNOW_ENGINE_SERVE_HISTORY_H

#include "cache/pages/cache.h"

#define RECORDS_MAX   256 /* 3 MiB for a model of 1024 KV heads */
#define RECORD_TTL_NS (UINT64_C(60) * 1000000000)

/* One request's first choice. */
struct request_record {
    char id[64];
    uint32_t owner_key;
    uint64_t order; /* of the request; differs where an id is used again */
    const char *policy;
    uint32_t budget; /* 0 = none */
    uint32_t n_prompt, tokens_seen, pages;
    double slots_kept; /* mean over heads */
    uint64_t submitted_ns, ended_ns;
};

struct request_history {
    struct request_record *records;  /* [RECORDS_MAX] */
    struct cache_head_counts *heads; /* [RECORDS_MAX][n_heads] */
    uint32_t n_heads, next;
};

/* False: "out_of_memory"; history_clear is still needed. */
bool history_init(struct request_history *h, uint32_t n_heads, struct error *e);
void history_clear(struct request_history *h);

/* Room for one more, in the place of the oldest; *heads [n_heads] is zero. The caller fills both.
 */
struct request_record *history_add(struct request_history *h, struct cache_head_counts **heads);
/* The request's record, while it is still there, else NULL. */
struct request_record *history_of(struct request_history *h, uint64_t order);
/* The newest of that id which the key may see (`all`: any key's) and which ended less than
 * RECORD_TTL_NS before now; NULL: there is none. */
const struct request_record *history_find(const struct request_history *h, const char *id,
                                          uint32_t owner_key, bool all, uint64_t now_ns);
/* [n_heads] of a record. */
const struct cache_head_counts *history_heads(const struct request_history *h,
                                              const struct request_record *record);

#endif
