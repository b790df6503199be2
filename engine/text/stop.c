/* Stop strings: see stop.h. */
#include "engine/text/stop.h"

#include <stdlib.h>

struct stop_set {
    const struct stop_string *strings;
    uint32_t n;
    /* fallback[s][i]: length of the longest proper prefix of string s that also ends its first i
     * bytes
     */
    uint16_t (*fallback)[STOP_MAX_BYTES + 1];
};

static void fill_fallback(const struct stop_string *string, uint16_t *fallback)
{
    fallback[0] = fallback[1] = 0;
    uint16_t k = 0;
    for (uint32_t i = 1; i < string->length; i++) {
        while (k > 0 && string->bytes[i] != string->bytes[k])
            k = fallback[k];
        if (string->bytes[i] == string->bytes[k])
            k++;
        fallback[i + 1] = k;
    }
}

struct stop_set *stop_set_new(const struct stop_string *strings, uint32_t n, struct error *e)
{
    if (n > STOP_MAX_STRINGS) {
        error_set(e, "invalid_value", "stop", "%u stop strings; at most %d are possible", n,
                  STOP_MAX_STRINGS);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        if (strings[i].length < 1 || strings[i].length > STOP_MAX_BYTES) {
            error_set(e, "invalid_value", "stop",
                      "a stop string has %u bytes; 1 to %d are possible", strings[i].length,
                      STOP_MAX_BYTES);
            return NULL;
        }
    struct stop_set *set = calloc(1, sizeof *set);
    if (set)
        set->fallback = calloc(n ? n : 1, sizeof *set->fallback);
    if (!set || !set->fallback) {
        free(set);
        error_set_memory(e, "stop strings", (uint64_t)n * sizeof *set->fallback);
        return NULL;
    }
    set->strings = strings;
    set->n = n;
    for (uint32_t i = 0; i < n; i++)
        fill_fallback(&strings[i], set->fallback[i]);
    return set;
}

void stop_set_free(struct stop_set *set)
{
    if (!set)
        return;
    free(set->fallback);
    free(set);
}

/* Advances one automaton by a byte. */
static uint16_t advance(const struct stop_set *set, uint32_t s, uint16_t matched, char byte)
{
    const struct stop_string *string = &set->strings[s];
    if (matched == string->length)
        matched = set->fallback[s][matched];
    while (matched > 0 && string->bytes[matched] != byte)
        matched = set->fallback[s][matched];
    return string->bytes[matched] == byte ? (uint16_t)(matched + 1) : 0;
}

struct stop_hit stop_push(const struct stop_set *set, struct stop_state *state, const char *text,
                          size_t length)
{
    struct stop_hit hit = {.string = -1};
    for (size_t i = 0; i < length && hit.string < 0; i++)
        for (uint32_t s = 0; s < set->n; s++) {
            state->matched[s] = advance(set, s, state->matched[s], text[i]);
            if (state->matched[s] == set->strings[s].length && state->matched[s] > hit.length)
                hit = (struct stop_hit){.string = (int32_t)s,
                                        .before = (uint32_t)i + 1,
                                        .length = set->strings[s].length};
        }
    return hit;
}

uint32_t stop_held(const struct stop_set *set, const struct stop_state *state)
{
    uint32_t held = 0;
    for (uint32_t s = 0; s < set->n; s++)
        held = state->matched[s] > held ? state->matched[s] : held;
    return held;
}
