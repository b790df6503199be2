/* The kv_trace of an answer: which positions each head kept, as JSON text. Engine thread. */
#ifndef WINNOW_ENGINE_SERVE_TRACE_H
#define WINNOW_ENGINE_SERVE_TRACE_H

#include "cache/pages/cache.h"

#define TRACE_MAX_BYTES (1024 * 1024)

/* "[[[[0,3],[10,20]], ...], ...]": a list of inclusive ranges per [layer][kv head]. The caller
 * frees it; NULL when memory is short. A text of TRACE_MAX_BYTES has no more ranges and sets
 * *truncated; it is still valid JSON. */
char *trace_text(const struct cache *cache, const struct cache_sequence *sequence, bool *truncated);

#endif
