/* The table of presets: each row is a point in the space of plan.h, as cache/POLICIES.md lists
 * them. A preset whose axes exist is one row here and nothing else. */
#include "cache/policy/preset.h"

#include <string.h>

/* What every preset starts from; a row names only what differs (later initialisers win). */
#define COMMON                                                                                     \
    .storage = STORAGE_F16, .has_budget = true, .budget = 1024, .vote_queries = 32, .kernel = 7,   \
    .pooling = POOLING_MAX, .sparsity = 0.5
/* Heads by profile: whole, or a window whose size the row states, so there is no budget. The
 * votes and their kernel are for requests that set scorer window_attention. */
#define PROFILED                                                                                   \
    .storage = STORAGE_F16, .scorer = SCORER_RECENCY, .allocation = ALLOCATION_PROFILE,            \
    .decode = DECODE_EVICT, .vote_queries = 32, .kernel = 7, .pooling = POOLING_MAX,               \
    .sparsity = 0.5

static const struct preset presets[] = {
    {"full", "keep everything", "-",
     .axes = {.storage = STORAGE_F16,
              .prefill = PREFILL_FULL,
              .decode = DECODE_GROW,
              .positions = POSITIONS_ORIGINAL},
     .multi_turn_safe = true},
    {"sink", "the first tokens and a sliding window; answers without end in constant memory",
     "StreamingLLM",
     .axes = {COMMON, .scorer = SCORER_RECENCY, .sinks = 4, .prefill = PREFILL_STREAM,
              .decode = DECODE_EVICT, .positions = POSITIONS_CACHE},
     .multi_turn_safe = true},
    {"h2o", "heavy hitters: the largest sums of attention, and the recent half", "H2O",
     .axes = {COMMON, .scorer = SCORER_ATTENTION_SUM, .sinks = 4, .decode = DECODE_EVICT},
     .recent_is_half = true},
    {"snapkv", "what the end of the prompt attends to", "SnapKV",
     .axes = {COMMON, .scorer = SCORER_WINDOW_ATTENTION, .decode = DECODE_GROW}},
    {"razor", "retrieval heads whole, the others a window and a mean of the rest", "RazorAttention",
     .axes = {PROFILED, .sinks = 4, .min_window = 1024, .remnant = REMNANT_MEAN},
     .multi_turn_safe = true},
    {"duo", "retrieval heads whole, streaming heads a window", "DuoAttention",
     .axes = {PROFILED, .sinks = 64, .recent = 256, .prefill = PREFILL_STREAM},
     .multi_turn_safe = true},
    {"tova", "what the newest token attends to", "TOVA",
     .axes = {COMMON, .scorer = SCORER_LAST_QUERY, .share = SHARE_LAYER, .decode = DECODE_EVICT}},
    {"scissorhands", "tokens that keep mattering", "Scissorhands",
     .axes = {COMMON, .scorer = SCORER_PERSISTENCE, .recent = 10, .decode = DECODE_EVICT}},
    {"pyramidkv", "snapkv with more for the first layers", "PyramidKV",
     .axes = {COMMON, .scorer = SCORER_WINDOW_ATTENTION, .allocation = ALLOCATION_PYRAMID,
              .decode = DECODE_GROW}},
    {"adakv", "snapkv with heads that compete for the budget", "AdaKV",
     .axes = {COMMON, .scorer = SCORER_WINDOW_ATTENTION, .allocation = ALLOCATION_ADAPTIVE,
              .decode = DECODE_GROW}},
    {"compresskv",
     "snapkv where retrieval heads choose for their layer, and layers that retrieve get more",
     "CompressKV",
     .axes = {COMMON, .scorer = SCORER_WINDOW_ATTENTION, .allocation = ALLOCATION_PROFILE,
              .share = SHARE_LAYER, .decode = DECODE_GROW}},
    {"knorm", "keys of small norm", "L2-norm pruning",
     .axes = {COMMON, .scorer = SCORER_KEY_NORM, .sinks = 4, .recent = 32, .decode = DECODE_EVICT}},
    {"keydiff", "keys unlike the average key", "KeyDiff",
     .axes = {COMMON, .scorer = SCORER_KEY_DIFF, .sinks = 4, .recent = 32, .decode = DECODE_EVICT}},
    {"random", "a random choice: the control that a real scorer must beat", "-",
     .axes = {COMMON, .scorer = SCORER_RANDOM, .sinks = 4, .recent = 32, .decode = DECODE_EVICT}},
};

_Static_assert(sizeof presets / sizeof *presets <= PRESETS_MOST,
               "counters by policy have room for PRESETS_MOST");

uint32_t preset_count(void)
{
    return sizeof presets / sizeof *presets;
}

const struct preset *preset_at(uint32_t index)
{
    return &presets[index];
}

uint32_t preset_index(const struct preset *preset)
{
    return (uint32_t)(preset - presets);
}

const struct preset *preset_find(const char *name)
{
    static const struct {
        const char *spelling, *name;
    } others[] = {{"none", "full"},
                  {"off", "full"},
                  {"streamingllm", "sink"},
                  {"streaming_llm", "sink"},
                  {"razorattention", "razor"},
                  {"duoattention", "duo"},
                  {"snap_kv", "snapkv"},
                  {"ada_kv", "adakv"},
                  {"compress_kv", "compresskv"},
                  {"pyramid_kv", "pyramidkv"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(name, others[i].spelling))
            name = others[i].name;
    for (uint32_t i = 0; i < preset_count(); i++)
        if (!strcmp(name, presets[i].name))
            return &presets[i];
    return NULL;
}

struct plan_asked plan_asked_of(const struct preset *preset)
{
    return (struct plan_asked){.preset = preset, .axes = preset->axes};
}
