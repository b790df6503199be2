/* See nfc.h. The text is cut before every character that begins something of its own (a starter that
 * joins nothing before it). Each piece is decomposed, its marks are sorted by class, and what has a
 * composed form is composed: Unicode Standard Annex 15. Hangul syllables are computed. */
#include "engine/text/nfc.h"

#include <stdlib.h>

#include "config/base/utf8.h"
#include "engine/text/nfc_table.h"

enum {
    SYLLABLES = 0xAC00,
    LEADS = 0x1100,
    VOWELS = 0x1161,
    TAILS = 0x11A7, /* the tail of this number is none */
    N_LEADS = 19,
    N_VOWELS = 21,
    N_TAILS = 28,
    N_SYLLABLES = N_LEADS * N_VOWELS * N_TAILS
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

struct piece_character {
    uint32_t code, place;
    uint8_t combining;
};
/* The characters of one piece. */
struct piece {
    struct piece_character *list;
    size_t n, capacity;
};

/* ---- the tables */

static int by_code(const void *key, const void *entry)
{
    uint32_t a = *(const uint32_t *)key, b = ((const struct nfc_parts *)entry)->code;
    return (a > b) - (a < b);
}

static const struct nfc_parts *parts_of(uint32_t code)
{
    const struct nfc_parts *found =
        bsearch(&code, nfc_composed, COUNT(nfc_composed), sizeof *nfc_composed, by_code);
    return found ? found
                 : bsearch(&code, nfc_excluded, COUNT(nfc_excluded), sizeof *nfc_excluded, by_code);
}

static int by_class_range(const void *key, const void *entry)
{
    uint32_t code = *(const uint32_t *)key;
    const struct nfc_class *c = entry;
    return code < c->first ? -1 : code > c->last;
}

static uint8_t combining_of(uint32_t code)
{
    if (code < 0x300)
        return 0;
    const struct nfc_class *found =
        bsearch(&code, nfc_classes, COUNT(nfc_classes), sizeof *nfc_classes, by_class_range);
    return found ? found->combining : 0;
}

/* The first index of nfc_by_parts whose parts are not below (second, first). */
static size_t first_with(uint32_t second, uint32_t first)
{
    size_t low = 0, high = COUNT(nfc_by_parts);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct nfc_parts *p = &nfc_composed[nfc_by_parts[middle]];
        bool below = p->second < second || (p->second == second && p->first < first);
        if (below)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The character that the two make, or 0. */
static uint32_t compose(uint32_t first, uint32_t second)
{
    if (first - LEADS < N_LEADS && second - VOWELS < N_VOWELS)
        return SYLLABLES + ((first - LEADS) * N_VOWELS + second - VOWELS) * N_TAILS;
    if (first - SYLLABLES < N_SYLLABLES && (first - SYLLABLES) % N_TAILS == 0 &&
        second - TAILS - 1 < N_TAILS - 1)
        return first + second - TAILS;
    size_t at = first_with(second, first);
    if (at == COUNT(nfc_by_parts))
        return 0;
    const struct nfc_parts *p = &nfc_composed[nfc_by_parts[at]];
    return p->second == second && p->first == first ? p->code : 0;
}

static const struct nfc_parts *excluded(uint32_t code)
{
    return code < 0x340
               ? NULL
               : bsearch(&code, nfc_excluded, COUNT(nfc_excluded), sizeof *nfc_excluded, by_code);
}

/* Whether it, or what it decomposes into, may join a character before it. */
static bool joins(uint32_t code)
{
    if (code < 0x300)
        return false;
    if (code - VOWELS < N_VOWELS || code - TAILS - 1 < N_TAILS - 1 || combining_of(code))
        return true;
    const struct nfc_parts *parts = excluded(code);
    if (parts && combining_of(parts->first))
        return true;
    size_t at = first_with(code, 0);
    return at < COUNT(nfc_by_parts) && nfc_composed[nfc_by_parts[at]].second == code;
}

/* ---- one piece */

static bool push(struct piece *p, uint32_t code)
{
    if (p->n == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 32;
        struct piece_character *list = realloc(p->list, capacity * sizeof *list);
        if (!list)
            return false;
        p->list = list;
        p->capacity = capacity;
    }
    p->list[p->n] = (struct piece_character){code, (uint32_t)p->n, combining_of(code)};
    p->n++;
    return true;
}

/* The recursion is as deep as the tables' decompositions: 4. */
static bool push_decomposed(struct piece *p, uint32_t code)
{
    if (code < 0xC0)
        return push(p, code);
    if (code - SYLLABLES < N_SYLLABLES) {
        uint32_t s = code - SYLLABLES, tail = s % N_TAILS;
        return push(p, LEADS + s / (N_VOWELS * N_TAILS)) &&
               push(p, VOWELS + s % (N_VOWELS * N_TAILS) / N_TAILS) &&
               (tail == 0 || push(p, TAILS + tail));
    }
    const struct nfc_parts *parts = parts_of(code);
    if (!parts)
        return push(p, code);
    return push_decomposed(p, parts->first) &&
           (parts->second == 0 || push_decomposed(p, parts->second));
}

static int by_combining(const void *a, const void *b)
{
    const struct piece_character *x = a, *y = b;
    if (x->combining != y->combining)
        return x->combining - y->combining;
    return (x->place > y->place) - (x->place < y->place);
}

/* Sorts each run of marks by class; marks of one class keep their order. */
static void sort_marks(struct piece *p)
{
    for (size_t i = 0; i < p->n;) {
        size_t end = i;
        while (end < p->n && p->list[end].combining)
            end++;
        if (end - i > 1)
            qsort(&p->list[i], end - i, sizeof *p->list, by_combining);
        i = end > i ? end : i + 1;
    }
}

static void compose_piece(struct piece *p)
{
    size_t kept = 0, starter = SIZE_MAX;
    uint8_t before = 0; /* class of the last kept character behind the starter */
    for (size_t i = 0; i < p->n; i++) {
        struct piece_character c = p->list[i];
        bool reaches =
            starter != SIZE_MAX && (kept == starter + 1 || (before != 0 && before < c.combining));
        uint32_t made = reaches ? compose(p->list[starter].code, c.code) : 0;
        if (made) {
            p->list[starter].code = made;
            continue;
        }
        if (c.combining == 0)
            starter = kept;
        before = c.combining;
        p->list[kept++] = c;
    }
    p->n = kept;
}

static bool write_code(struct bytes *out, uint32_t c)
{
    char text[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t heads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n; i-- > 1; c >>= 6)
        text[i] = (char)(0x80 | (c & 0x3F));
    text[0] = (char)(heads[n] | c);
    return bytes_add(out, text, n);
}

static bool write_piece(struct piece *p, struct bytes *out)
{
    sort_marks(p);
    compose_piece(p);
    bool ok = true;
    for (size_t i = 0; ok && i < p->n; i++)
        ok = write_code(out, p->list[i].code);
    p->n = 0;
    return ok;
}

/* ---- the text */

/* The first byte of a character that the form may change, or `length`. */
static size_t first_doubtful(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        size_t n = (uint8_t)text[at] < 0x80 ? 1 : utf8_length(text + at, length - at);
        if (n > 1) {
            uint32_t code = utf8_code(text + at, n);
            if (joins(code) || excluded(code))
                break;
        }
        at += n ? n : 1;
    }
    return at;
}

bool nfc_normalise(const char *text, size_t length, struct bytes *out, bool *changed)
{
    struct piece p = {0};
    *changed = first_doubtful(text, length) < length;
    if (!*changed)
        return true;
    bool ok = bytes_reserve(out, length);
    for (size_t at = 0; ok && at < length;) {
        size_t n = utf8_length(text + at, length - at);
        uint32_t code = n ? utf8_code(text + at, n) : 0;
        if (p.n > 0 && (n == 0 || !joins(code)))
            ok = write_piece(&p, out);
        ok = ok && (n ? push_decomposed(&p, code) : bytes_add(out, text + at, 1));
        at += n ? n : 1;
    }
    ok = ok && write_piece(&p, out);
    free(p.list);
    return ok;
}
