/* Variables of nested blocks. Names are numbers, scopes are short, so a lookup is a few compares.
 */
#include <string.h>

#include "engine/jinja/runtime.h"

struct scope *scope_new(struct runtime *r, struct scope *parent)
{
    struct scope *s = runtime_take(r, sizeof *s);
    if (s)
        *s = (struct scope){.parent = parent};
    return s;
}

static bool scope_grow(struct runtime *r, struct scope *s)
{
    uint32_t capacity = s->capacity ? s->capacity * 2 : 4;
    struct binding *bindings = runtime_take_array(r, capacity, sizeof *bindings);
    if (!bindings)
        return false;
    if (s->count)
        memcpy(bindings, s->bindings, s->count * sizeof *bindings);
    s->bindings = bindings;
    s->capacity = capacity;
    return true;
}

bool scope_set(struct runtime *r, struct scope *s, uint32_t name, const struct value *v)
{
    if (!runtime_charge(r, s->count / 8))
        return false;
    for (uint32_t i = 0; i < s->count; i++)
        if (s->bindings[i].name == name) {
            s->bindings[i].value = *v;
            return true;
        }
    if (s->count == s->capacity && !scope_grow(r, s))
        return false;
    s->bindings[s->count++] = (struct binding){name, *v};
    return true;
}

const struct value *scope_find(struct runtime *r, uint32_t name)
{
    uint32_t seen = 0;
    const struct value *found = NULL;
    for (const struct scope *s = r->scope; s && !found; s = s->parent) {
        uint32_t i = 0;
        while (i < s->count && s->bindings[i].name != name)
            i++;
        found = i < s->count ? &s->bindings[i].value : NULL;
        seen += 1 + i;
    }
    return runtime_charge(r, seen / 8) ? found : NULL;
}
