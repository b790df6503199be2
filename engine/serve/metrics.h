/* The engine's counters: atomics that the engine thread writes and /metrics reads without a
 * lock. */
#ifndef WINNOW_ENGINE_SERVE_METRICS_H
#define WINNOW_ENGINE_SERVE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "cache/policy/preset.h"

#define METRICS_MAX_BUCKETS 32

/* `edges` rise and are in the unit of the histogram's name; bucket n_edges is +Inf. Counts become
 * cumulative when they are written out. */
struct histogram {
    const double *edges;
    uint32_t n_edges;
    atomic_uint_fast64_t buckets[METRICS_MAX_BUCKETS];
    atomic_uint_fast64_t sum_micro; /* sum of observations times 1e6 */
};
void histogram_observe(struct histogram *h, double value);

enum metrics_finish {
    METRICS_FINISH_STOP,
    METRICS_FINISH_LENGTH,
    METRICS_FINISH_TOOL_CALLS,
    METRICS_FINISH_ABORT,
    METRICS_FINISH_ERROR,
    METRICS_FINISH_COUNT
};
enum metrics_phase {
    METRICS_PHASE_QUEUED,
    METRICS_PHASE_PREFILL,
    METRICS_PHASE_DECODE,
    METRICS_PHASE_PAUSED,
    METRICS_PHASE_COUNT
};

/* Arrays of PRESETS_MOST are indexed by preset_index. */
struct engine_metrics {
    atomic_uint_fast64_t requests_running, requests_waiting, requests_paused, sessions,
        session_pages; /* gauges */
    atomic_uint_fast64_t prompt_tokens, generation_tokens, preemptions;
    atomic_uint_fast64_t prefix_query_tokens, prefix_hit_tokens;
    atomic_uint_fast64_t finished[METRICS_FINISH_COUNT][PRESETS_MOST];
    atomic_uint_fast64_t disconnects[METRICS_PHASE_COUNT];
    atomic_uint_fast64_t kv_pages, kv_pages_used, kv_pages_cached, page_bytes;
    atomic_uint_fast64_t evicted_slots[PRESETS_MOST], pages_returned[PRESETS_MOST];
    atomic_uint_fast64_t tokens_seen[PRESETS_MOST], slots_kept[PRESETS_MOST];
    struct histogram time_to_first_token, inter_token_latency, request_duration, queue_time,
        prefill_time, decode_time;
    struct histogram step_time, policy_time, request_prompt_tokens, request_generation_tokens,
        step_batch_tokens;
    struct histogram page_lifetime[PRESETS_MOST];
};
void engine_metrics_init(struct engine_metrics *m);

#endif
