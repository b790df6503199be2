/* Stop strings in a stream of text: finds the first that is complete, and says how many bytes may
 * still become part of one and must be held.
 *
 * There is one Knuth-Morris-Pratt automaton per string, so a byte costs O(strings) and memory is a
 * few bytes per character. A `stop_set` is read only and shared by the choices of a request; each
 * choice has a `stop_state`. Engine thread, except stop_set_new. */
#ifndef WINNOW_ENGINE_TEXT_STOP_H
#define WINNOW_ENGINE_TEXT_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"

#define STOP_MAX_STRINGS 16
#define STOP_MAX_BYTES   256

struct stop_string {
    char *bytes;
    uint32_t length; /* >= 1 */
};

/* The strings [n] outlive the set. NULL: "out_of_memory", or "invalid_value" beyond a limit. */
struct stop_set;
struct stop_set *stop_set_new(const struct stop_string *strings, uint32_t n, struct error *e);
void stop_set_free(struct stop_set *set);

struct stop_state {
    uint16_t matched[STOP_MAX_STRINGS]; /* bytes of each string that the text ends with */
};

struct stop_hit {
    int32_t string;  /* index, -1 = none */
    uint32_t before; /* bytes of this push up to the string's end */
    uint32_t length; /* of the string, which may begin in an earlier push */
};
/* Feeds text until a string is complete. Of several that end at the same byte the longest
 * counts. */
struct stop_hit stop_push(const struct stop_set *set, struct stop_state *state, const char *text,
                          size_t length);
/* Bytes at the end of all text so far that may be the beginning of a stop string. */
uint32_t stop_held(const struct stop_set *set, const struct stop_state *state);

#endif
