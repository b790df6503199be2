/* Failing, paying for work, and memory: see runtime.h. */
#include "engine/jinja/runtime.h"

#include <stdarg.h>
#include <stdio.h>

bool runtime_fail(struct runtime *r, const char *format, ...)
{
    if (r->failed)
        return false;
    r->failed = true;
    char message[sizeof r->error->message], where[32];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    snprintf(where, sizeof where, "line %d", (int)r->line);
    return error_set(r->error, "template_error", where, "%s", message);
}

bool runtime_fail_limit(struct runtime *r, const char *what, unsigned long long limit)
{
    return runtime_fail(r, "the chat template exceeded its limit of %llu %s", limit, what);
}

bool runtime_fail_undefined(struct runtime *r, const struct value *undefined)
{
    char name[80];
    error_excerpt(name, undefined->text.bytes, undefined->text.length);
    return runtime_fail(r, "'%s' is undefined", name);
}

bool runtime_charge(struct runtime *r, uint64_t steps)
{
    if (steps > JINJA_MAX_STEPS || r->steps > JINJA_MAX_STEPS - steps) {
        r->steps = JINJA_MAX_STEPS;
        return runtime_fail_limit(r, "steps", JINJA_MAX_STEPS);
    }
    r->steps += steps;
    return true;
}

bool runtime_charge_bytes(struct runtime *r, size_t bytes)
{
    return runtime_charge(r, 1 + bytes / JINJA_STEP_BYTES);
}

void *runtime_take(struct runtime *r, size_t bytes)
{
    void *piece = arena_take(&r->memory, bytes);
    if (piece)
        return piece;
    if (r->memory.cap_hit) {
        runtime_fail_limit(r, "bytes of memory", r->memory.cap_bytes);
    } else if (!r->failed) {
        r->failed = true;
        error_set_memory(r->error, "a chat template's values", bytes);
    }
    return NULL;
}

void *runtime_take_array(struct runtime *r, size_t count, size_t size)
{
    if (count > SIZE_MAX / size) {
        runtime_fail_limit(r, "bytes of memory", r->memory.cap_bytes);
        return NULL;
    }
    return runtime_take(r, count * size);
}
