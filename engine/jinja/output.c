/* The rendered text. Macros and block sets write here too; their part is then cut off the end. */
#include <stdlib.h>
#include <string.h>

#include "engine/jinja/runtime.h"
#include "engine/jinja/text.h"

static bool output_grow(struct runtime *r, size_t more)
{
    struct output *o = &r->output;
    if (more > o->limit - o->used)
        return runtime_fail_limit(r, "bytes of output", o->limit);
    size_t capacity = o->capacity ? o->capacity : 4096;
    while (capacity - o->used < more)
        capacity *= 2;
    char *bytes = realloc(o->bytes, capacity + 1);
    if (bytes)
        o->bytes = bytes;
    uint8_t *marks = bytes ? realloc(o->marks, capacity) : NULL;
    if (!marks) {
        r->failed = true;
        return error_set_memory(r->error, "a rendered chat template", capacity);
    }
    o->marks = marks;
    o->capacity = capacity;
    return true;
}

bool output_write(struct runtime *r, const struct text *t)
{
    struct output *o = &r->output;
    if (t->length == 0)
        return true;
    if (!runtime_charge_bytes(r, t->length))
        return false;
    if (o->capacity - o->used < t->length && !output_grow(r, t->length))
        return false;
    memcpy(o->bytes + o->used, t->bytes, t->length);
    if (t->marks)
        memcpy(o->marks + o->used, t->marks, t->length);
    else
        memset(o->marks + o->used, t->mark, t->length);
    o->used += t->length;
    return true;
}

bool output_take_back(struct runtime *r, size_t start, struct value *out)
{
    struct output *o = &r->output;
    struct text whole = text_of("", 0, JINJA_MARK_TEMPLATE);
    if (o->used > start) {
        whole = (struct text){
            .bytes = o->bytes + start, .marks = o->marks + start, .length = o->used - start};
        /* Text of one mark needs no array. */
        size_t same = 1;
        while (same < whole.length && whole.marks[same] == whole.marks[0])
            same++;
        if (same == whole.length) {
            whole.mark = whole.marks[0];
            whole.marks = NULL;
        }
    }
    struct builder b = {0};
    if (!builder_add(r, &b, &whole))
        return false;
    o->used = start;
    *out = value_text(builder_text(&b));
    return true;
}
