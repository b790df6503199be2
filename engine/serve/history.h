/* What requests held when they ended, head by head, for GET /v1/kv/requests/{id}. A ring of fixed
 * size: a new record replaces the oldest, and nothing is allocated while requests run. Records
 * older than RECORD_TTL_NS are not found. Engine thread. */
#ifndef WINNOW_ENGINE_SERVE_HISTORY_H
#define WINNOW_ENGINE_SERVE_HISTORY_H

#include "cache/pages/cache.h"

#define RECORDS_MAX   256 /* 3 MiB for a model of 1024 KV heads */
#define RECORD_TTL_NS (UINT64_C(60) * 1000000000)

/* One request's first choice. */
struct request_record {
    char id[64];
    uint32_t owner_key;
    uint64_t order; /* of the request: distinguishes requests of the same id */
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

/* A new zeroed record and its *heads [n_heads], in place of the oldest. The caller fills both. */
struct request_record *history_add(struct request_history *h, struct cache_head_counts **heads);
/* The request's record. NULL: it has none, or it was replaced. */
struct request_record *history_of(struct request_history *h, uint64_t order);
/* The newest record of the id that belongs to owner_key (`all`: to any key) and is younger than
 * RECORD_TTL_NS. NULL: there is none. */
const struct request_record *history_find(const struct request_history *h, const char *id,
                                          uint32_t owner_key, bool all, uint64_t now_ns);
/* [n_heads] of a record. */
const struct cache_head_counts *history_heads(const struct request_history *h,
                                              const struct request_record *record);

#endif
