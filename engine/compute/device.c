/* Picks a kind of device by name and opens it: see device.h. */
#include "engine/compute/device.h"

#include <stdio.h>
#include <string.h>

/* "auto, cpu or cuda" */
static const char *list_names(const struct device_table *table, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "auto");
    for (uint32_t i = 0; i < table->n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i + 1 == table->n ? " or " : ", ",
                                 table->kinds[i]->name);
    return out;
}

static bool pick_named(const struct device_table *table, const char *name, struct device *out,
                       struct error *e)
{
    char shown[80], names[160];
    const char *reason;
    for (uint32_t i = 0; i < table->n; i++) {
        if (strcmp(name, table->kinds[i]->name) != 0)
            continue;
        out->kind = table->kinds[i];
        return out->kind->count(&reason) > 0 ||
               error_set(e, "device_unavailable", "--device",
                         "--device %s: no GPU can be used: %s; --device %s works", name, reason,
                         table->kinds[0]->name);
    }
    return error_set(e, "invalid_value", "--device", "\"%s\" is not %s",
                     error_excerpt(shown, name, strlen(name)),
                     list_names(table, names, sizeof names));
}

bool device_pick(const struct device_table *table, const char *name, struct device *out,
                 struct error *e)
{
    *out = (struct device){.kind = table->kinds[0], .why = ""};
    if (name && strcmp(name, "auto") != 0)
        return pick_named(table, name, out, e);
    for (uint32_t i = table->n; i-- > 1;) {
        const char *reason;
        if (table->kinds[i]->count(&reason) > 0) {
            *out = (struct device){.kind = table->kinds[i], .why = ""};
            return true;
        }
        out->why = *out->why ? out->why : reason;
    }
    return true;
}

bool device_open(struct backend *b, const struct device_kind *kind, const struct device_options *o,
                 const struct model *m, struct error *e)
{
    if (kind->open(b, o, m, e))
        return true;
    b->close = NULL;
    return false;
}
