/* kv_trace: see trace.h. */
#include "engine/serve/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct trace {
    char *text;
    size_t used, room;
    size_t most;      /* no range is added beyond, so that the brackets fit */
    bool first_range; /* of the current head */
    bool truncated, failed;
};

static void append(struct trace *t, const char *text, size_t length)
{
    if (t->failed)
        return;
    if (t->room - t->used <= length) {
        size_t room = (t->room ? t->room * 2 : 4096) + length;
        char *bigger = realloc(t->text, room);
        if (!bigger) {
            t->failed = true;
            return;
        }
        t->text = bigger;
        t->room = room;
    }
    memcpy(t->text + t->used, text, length + 1);
    t->used += length;
}

static void append_range(void *context, int32_t first, int32_t last)
{
    struct trace *t = context;
    char text[40];
    int n = snprintf(text, sizeof text, "%s[%d,%d]", t->first_range ? "" : ",", first, last);
    if (t->used + (size_t)n > t->most) {
        t->truncated = true;
        return;
    }
    t->first_range = false;
    append(t, text, (size_t)n);
}

char *trace_text(const struct cache *cache, const struct cache_sequence *sequence, bool *truncated)
{
    uint32_t n_layers = cache_n_layers(cache), n_heads = cache_n_kv_heads(cache);
    size_t brackets = (size_t)n_layers * (n_heads * 3 + 3) + 3;
    struct trace t = {.most = brackets < TRACE_MAX_BYTES ? TRACE_MAX_BYTES - brackets : 0};
    append(&t, "[", 1);
    for (uint32_t l = 0; l < n_layers; l++) {
        append(&t, l ? ",[" : "[", l ? 2 : 1);
        for (uint32_t h = 0; h < n_heads; h++) {
            append(&t, h ? ",[" : "[", h ? 2 : 1);
            t.first_range = true;
            cache_kept_ranges(sequence, l, h, append_range, &t);
            append(&t, "]", 1);
        }
        append(&t, "]", 1);
    }
    append(&t, "]", 1);
    *truncated = t.truncated;
    if (!t.failed)
        return t.text;
    free(t.text);
    return NULL;
}
