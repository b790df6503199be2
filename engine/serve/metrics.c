/* Counters of the engine: see metrics.h. The bucket edges are vLLM's, so that its dashboards show
 * the same quantiles. */
#include "engine/serve/metrics.h"

#include <string.h>

#define N_EDGES(edges) ((uint32_t)(sizeof(edges) / sizeof((edges)[0])))

static const double first_token_edges[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                           0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                           20,    40,    80,   160,  640,  2560};
static const double inter_token_edges[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                           0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double request_edges[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                       30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double step_edges[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                    0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
static const double policy_edges[] = {0.000001, 0.0000025, 0.000005, 0.00001, 0.000025, 0.00005,
                                      0.0001,   0.00025,   0.0005,   0.001,   0.0025,   0.005,
                                      0.01,     0.025,     0.05,     0.1};
static const double token_edges[] = {1,     2,      5,      10,     20,     50,    100,
                                     200,   500,    1000,   2000,   5000,   10000, 20000,
                                     50000, 100000, 200000, 500000, 1000000};
static const double batch_edges[] = {1,   2,   4,    8,    16,   32,   64,   128,
                                     256, 512, 1024, 2048, 4096, 8192, 16384};
static const double lifetime_edges[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                        0.2,   0.5,   1,     2,    5,    10,   20,
                                        30,    60,    120,   300,  600,  1200, 1800};

_Static_assert(N_EDGES(first_token_edges) < METRICS_MAX_BUCKETS, "room for the +Inf bucket");

void histogram_observe(struct histogram *h, double value)
{
    if (!(value >= 0))
        value = 0;
    uint32_t bucket = 0;
    while (bucket < h->n_edges && value > h->edges[bucket])
        bucket++;
    atomic_fetch_add_explicit(&h->buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_micro, (uint_fast64_t)(value * 1e6 + 0.5),
                              memory_order_relaxed);
}

static void histogram_init(struct histogram *h, const double *edges, uint32_t n_edges)
{
    h->edges = edges;
    h->n_edges = n_edges;
}

void engine_metrics_init(struct engine_metrics *m)
{
    memset(m, 0, sizeof *m);
    histogram_init(&m->time_to_first_token, first_token_edges, N_EDGES(first_token_edges));
    histogram_init(&m->inter_token_latency, inter_token_edges, N_EDGES(inter_token_edges));
    histogram_init(&m->request_duration, request_edges, N_EDGES(request_edges));
    histogram_init(&m->queue_time, request_edges, N_EDGES(request_edges));
    histogram_init(&m->prefill_time, request_edges, N_EDGES(request_edges));
    histogram_init(&m->decode_time, request_edges, N_EDGES(request_edges));
    histogram_init(&m->step_time, step_edges, N_EDGES(step_edges));
    histogram_init(&m->policy_time, policy_edges, N_EDGES(policy_edges));
    histogram_init(&m->request_prompt_tokens, token_edges, N_EDGES(token_edges));
    histogram_init(&m->request_generation_tokens, token_edges, N_EDGES(token_edges));
    histogram_init(&m->step_batch_tokens, batch_edges, N_EDGES(batch_edges));
    for (uint32_t i = 0; i < PRESETS_MOST; i++)
        histogram_init(&m->page_lifetime[i], lifetime_edges, N_EDGES(lifetime_edges));
}
