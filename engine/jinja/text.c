/* Strings with marks: see text.h. */
#include "engine/jinja/text.h"

#include <string.h>

#include "engine/jinja/character.h"

struct text text_cut(const struct text *t, size_t start, size_t end)
{
    struct text cut = *t;
    cut.bytes += start;
    cut.length = end > start ? end - start : 0;
    if (cut.marks)
        cut.marks += start;
    return cut;
}

uint8_t text_common_mark(const struct text *t)
{
    if (!t->marks)
        return t->mark == JINJA_MARK_TEMPLATE ? JINJA_MARK_TEMPLATE : JINJA_MARK_USER;
    for (size_t i = 0; i < t->length; i++)
        if (t->marks[i] != JINJA_MARK_TEMPLATE)
            return JINJA_MARK_USER;
    return JINJA_MARK_TEMPLATE;
}

/* ---- building */

static bool make_marks(struct runtime *r, struct text_buffer *buffer)
{
    buffer->marks = runtime_take(r, buffer->capacity);
    if (!buffer->marks)
        return false;
    memset(buffer->marks, buffer->mark, buffer->used);
    return true;
}

static bool grow(struct runtime *r, struct builder *b, size_t more)
{
    struct text_buffer *old = b->buffer;
    size_t used = old ? old->used : 0;
    if (more > SIZE_MAX / 4 - used)
        return runtime_fail_limit(r, "bytes of memory", r->memory.cap_bytes);
    size_t capacity = used + more < 128 ? 128 : (used + more) * 2;
    /* The first piece is often the only one. */
    if (!old && more >= 4096)
        capacity = more;
    struct text_buffer *buffer = runtime_take(r, sizeof *buffer);
    if (!buffer || !runtime_charge_bytes(r, used))
        return false;
    *buffer = (struct text_buffer){.used = used, .capacity = capacity};
    buffer->bytes = runtime_take(r, capacity);
    if (!buffer->bytes)
        return false;
    if (old) {
        memcpy(buffer->bytes, old->bytes, used);
        buffer->mark = old->mark;
        if (old->marks) {
            buffer->marks = runtime_take(r, capacity);
            if (!buffer->marks)
                return false;
            memcpy(buffer->marks, old->marks, used);
        }
    }
    b->buffer = buffer;
    return true;
}

bool builder_add(struct runtime *r, struct builder *b, const struct text *t)
{
    if (t->length == 0)
        return true;
    if (!runtime_charge_bytes(r, t->length))
        return false;
    if ((!b->buffer || b->buffer->capacity - b->buffer->used < t->length) && !grow(r, b, t->length))
        return false;
    struct text_buffer *buffer = b->buffer;
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference) grow has made one */
    if (buffer->used == 0 && !buffer->marks)
        buffer->mark = t->mark;
    if (!buffer->marks && (t->marks || t->mark != buffer->mark) && !make_marks(r, buffer))
        return false;
    memcpy(buffer->bytes + buffer->used, t->bytes, t->length);
    if (buffer->marks && t->marks)
        memcpy(buffer->marks + buffer->used, t->marks, t->length);
    else if (buffer->marks)
        memset(buffer->marks + buffer->used, t->mark, t->length);
    buffer->used += t->length;
    return true;
}

bool builder_add_bytes(struct runtime *r, struct builder *b, const char *bytes, size_t length,
                       uint8_t mark)
{
    struct text t = text_of(bytes, length, mark);
    return builder_add(r, b, &t);
}

struct text builder_text(const struct builder *b)
{
    const struct text_buffer *buffer = b->buffer;
    if (!buffer)
        return text_of("", 0, JINJA_MARK_TEMPLATE);
    return (struct text){.bytes = buffer->bytes,
                         .length = buffer->used,
                         .marks = buffer->marks,
                         .mark = buffer->mark,
                         .buffer = b->buffer};
}

bool text_concatenate(struct runtime *r, const struct text *a, const struct text *b,
                      struct text *out)
{
    if (a->length == 0 || b->length == 0) {
        *out = a->length == 0 ? *b : *a;
        return true;
    }
    struct builder builder = {0};
    struct text_buffer *buffer = a->buffer;
    if (buffer && a->bytes >= buffer->bytes &&
        a->bytes + a->length == buffer->bytes + buffer->used) {
        size_t start = (size_t)(a->bytes - buffer->bytes);
        if (buffer->capacity - buffer->used >= b->length || start == 0) {
            builder.buffer = buffer;
            if (!builder_add(r, &builder, b))
                return false;
            struct text whole = builder_text(&builder);
            *out = text_cut(&whole, start, whole.length);
            return true;
        }
    }
    if (!builder_add(r, &builder, a) || !builder_add(r, &builder, b))
        return false;
    *out = builder_text(&builder);
    return true;
}

bool text_repeat(struct runtime *r, const struct text *t, int64_t times, struct text *out)
{
    *out = text_of("", 0, JINJA_MARK_TEMPLATE);
    if (times <= 0 || t->length == 0)
        return true;
    if ((uint64_t)times > r->memory.cap_bytes / t->length)
        return runtime_fail_limit(r, "bytes of memory", r->memory.cap_bytes);
    struct builder b = {0};
    if (!grow(r, &b, t->length * (size_t)times))
        return false;
    for (int64_t i = 0; i < times; i++)
        if (!builder_add(r, &b, t))
            return false;
    *out = builder_text(&b);
    return true;
}

/* ---- searching */

size_t text_find(const struct text *t, const struct text *needle, size_t start, size_t end)
{
    if (end > t->length)
        end = t->length;
    if (start > end || needle->length > end - start)
        return SIZE_MAX;
    if (needle->length == 0)
        return start;
    const char *at = memmem(t->bytes + start, end - start, needle->bytes, needle->length);
    return at ? (size_t)(at - t->bytes) : SIZE_MAX;
}

size_t text_find_last(struct runtime *r, const struct text *t, const struct text *needle,
                      size_t start, size_t end)
{
    if (end > t->length)
        end = t->length;
    if (start > end || needle->length > end - start)
        return SIZE_MAX;
    if (needle->length == 0)
        return end;
    /* Each candidate is paid for: a needle that nearly matches everywhere makes this quadratic. */
    for (size_t left = end - needle->length - start + 1; left > 0;) {
        const char *at = memrchr(t->bytes + start, needle->bytes[0], left);
        if (!at || !runtime_charge_bytes(r, needle->length))
            return SIZE_MAX;
        if (memcmp(at, needle->bytes, needle->length) == 0)
            return (size_t)(at - t->bytes);
        left = (size_t)(at - t->bytes) - start;
    }
    return SIZE_MAX;
}

/* ---- stripping */

static bool strippable(uint32_t code, const char *bytes, size_t length,
                       const struct text *characters)
{
    if (!characters)
        return character_is_space(code);
    for (size_t i = 0; i < characters->length;) {
        size_t n = character_read(characters->bytes + i, characters->length - i, NULL);
        if (n == length && memcmp(characters->bytes + i, bytes, n) == 0)
            return true;
        i += n;
    }
    return false;
}

struct text text_strip(const struct text *t, const struct text *characters, int sides)
{
    size_t start = 0, end = t->length;
    uint32_t code;
    while ((sides & STRIP_LEFT) && start < end) {
        size_t n = character_read(t->bytes + start, end - start, &code);
        if (!strippable(code, t->bytes + start, n, characters))
            break;
        start += n;
    }
    while ((sides & STRIP_RIGHT) && end > start) {
        size_t n = character_read_back(t->bytes + start, end - start, &code);
        if (!strippable(code, t->bytes + end - n, n, characters))
            break;
        end -= n;
    }
    return text_cut(t, start, end);
}

bool text_strip_paid(struct runtime *r, const struct text *t, const struct text *characters,
                     int sides, struct text *out)
{
    /* Each stripped character is compared with all of `characters`. */
    size_t each = characters ? characters->length : 0;
    if (each > 0 && !runtime_charge(r, 1 + t->length / 64 * (1 + each / 16)))
        return false;
    *out = text_strip(t, characters, sides);
    return runtime_charge_bytes(r, 4 * (t->length - out->length));
}

/* ---- changing */

static bool starts_word(uint32_t code)
{
    return character_is_space(code) || code == '-' || code == '(' || code == '{' || code == '[' ||
           code == '<';
}

static uint32_t change_one(uint32_t code, enum text_case to, bool first)
{
    switch (to) {
    case CASE_UPPER:
        return character_upper(code);
    case CASE_SWAP:
        return character_upper(code) != code ? character_upper(code) : character_lower(code);
    case CASE_LOWER:
        return character_lower(code);
    default:
        return first ? character_upper(code) : character_lower(code);
    }
}

bool text_change_case(struct runtime *r, const struct text *t, enum text_case to, struct text *out)
{
    struct builder b = {0};
    bool first = true;
    char buffer[256];
    size_t used = 0, from = 0;
    for (size_t i = 0; i < t->length;) {
        uint32_t code;
        size_t n = character_read(t->bytes + i, t->length - i, &code);
        uint32_t changed = change_one(code, to, first);
        if (changed == code) {
            memcpy(buffer + used, t->bytes + i, n);
            used += n;
        } else {
            used += character_write(buffer + used, changed);
        }
        first = to == CASE_TITLE         ? !character_is_alpha(code)
                : to == CASE_TITLE_WORDS ? starts_word(code)
                                         : false;
        i += n;
        /* A run ends where the marks change, so that each run has one. */
        bool ends = i == t->length || (t->marks && t->marks[i] != t->marks[from]);
        if (ends || used + 4 > sizeof buffer) {
            uint8_t mark = t->marks ? t->marks[from] : t->mark;
            if (!builder_add_bytes(r, &b, buffer, used, mark))
                return false;
            used = 0;
            from = i;
        }
    }
    *out = builder_text(&b);
    return true;
}

bool text_has_case(struct runtime *r, const struct text *t, enum text_case wanted, bool *has)
{
    struct text same, other;
    if (!text_change_case(r, t, wanted, &same) ||
        !text_change_case(r, t, wanted == CASE_UPPER ? CASE_LOWER : CASE_UPPER, &other))
        return false;
    *has = text_is(t, same.bytes, same.length) && !text_is(t, other.bytes, other.length);
    return true;
}

bool text_replace(struct runtime *r, const struct text *t, const struct text *old,
                  const struct text *new, int64_t max, struct text *out)
{
    struct builder b = {0};
    size_t at = 0;
    if (!runtime_charge_bytes(r, t->length))
        return false;
    for (int64_t done = 0; max < 0 || done < max; done++) {
        size_t found = text_find(t, old, at, t->length);
        if (found == SIZE_MAX || !runtime_charge(r, 1))
            break;
        struct text before = text_cut(t, at, found);
        if (!builder_add(r, &b, &before) || !builder_add(r, &b, new))
            return false;
        at = found + old->length;
        if (old->length > 0)
            continue;
        /* An empty `old` is found before every character and at the end. */
        if (at == t->length) {
            at = SIZE_MAX;
            break;
        }
        size_t n = character_read(t->bytes + at, t->length - at, NULL);
        struct text one = text_cut(t, at, at + n);
        if (!builder_add(r, &b, &one))
            return false;
        at += n;
    }
    if (r->failed)
        return false;
    if (at == 0) {
        *out = *t;
        return true;
    }
    if (at != SIZE_MAX) {
        struct text rest = text_cut(t, at, t->length);
        if (!builder_add(r, &b, &rest))
            return false;
    }
    *out = builder_text(&b);
    return true;
}
