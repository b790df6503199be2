/* Python's str() and repr(). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/jinja/character.h"
#include "engine/jinja/literal.h"
#include "engine/jinja/text.h"

static bool repr_into(struct runtime *r, struct builder *b, const struct value *v, unsigned depth);

static bool add(struct runtime *r, struct builder *b, const char *word)
{
    return builder_add_bytes(r, b, word, strlen(word), JINJA_MARK_USER);
}

static bool repr_string(struct runtime *r, struct builder *b, const struct text *t)
{
    bool single = memchr(t->bytes, '\'', t->length) != NULL;
    char quote = single && !memchr(t->bytes, '"', t->length) ? '"' : '\'';
    if (!builder_add_bytes(r, b, &quote, 1, JINJA_MARK_USER))
        return false;
    size_t from = 0;
    for (size_t i = 0; i < t->length;) {
        uint32_t code;
        char escape[16];
        size_t n = character_read(t->bytes + i, t->length - i, &code), used = 0;
        if (code == '\n' || code == '\r' || code == '\t')
            used = (size_t)snprintf(escape, sizeof escape, "\\%c",
                                    code == '\n'   ? 'n'
                                    : code == '\r' ? 'r'
                                                   : 't');
        else if (code == '\\' || code == (unsigned char)quote)
            used = (size_t)snprintf(escape, sizeof escape, "\\%c", (char)code);
        else if (code < 0x20 || (code >= 0x7F && code < 0xA1) || code == 0xAD)
            used = (size_t)snprintf(escape, sizeof escape, "\\x%02x", (unsigned)code);
        else if (code >= 0x2000 && code <= 0x3000 && character_is_space(code))
            used = (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
        if (used) {
            struct text plain = text_cut(t, from, i);
            if (!builder_add(r, b, &plain) ||
                !builder_add_bytes(r, b, escape, used, JINJA_MARK_USER))
                return false;
            from = i + n;
        }
        i += n;
    }
    struct text rest = text_cut(t, from, t->length);
    return builder_add(r, b, &rest) && builder_add_bytes(r, b, &quote, 1, JINJA_MARK_USER);
}

static bool repr_list(struct runtime *r, struct builder *b, const struct value *v, unsigned depth)
{
    bool tuple = v->kind == VALUE_TUPLE;
    if (!add(r, b, tuple ? "(" : "["))
        return false;
    for (size_t i = 0; i < v->list->count; i++)
        if ((i > 0 && !add(r, b, ", ")) || !repr_into(r, b, &v->list->items[i], depth + 1))
            return false;
    return add(r, b, tuple ? v->list->count == 1 ? ",)" : ")" : "]");
}

static bool repr_dict(struct runtime *r, struct builder *b, const struct value *v, unsigned depth)
{
    bool namespace = v->kind == VALUE_NAMESPACE;
    if (!add(r, b, namespace ? "<Namespace {" : "{"))
        return false;
    for (size_t i = 0; i < v->dict->count; i++) {
        const struct dict_entry *entry = &v->dict->entries[i];
        if ((i > 0 && !add(r, b, ", ")) || !repr_into(r, b, &entry->key, depth + 1) ||
            !add(r, b, ": ") || !repr_into(r, b, &entry->value, depth + 1))
            return false;
    }
    return add(r, b, namespace ? "}>" : "}");
}

/* Text of a value that has no parts; its mark is the value's. */
static size_t write_scalar(char out[64], const struct value *v)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
    case VALUE_ABSENT:
        return 0;
    case VALUE_NONE:
        return (size_t)snprintf(out, 64, "None");
    case VALUE_BOOL:
        return (size_t)snprintf(out, 64, "%s", v->boolean ? "True" : "False");
    case VALUE_INT:
        return (size_t)snprintf(out, 64, "%" PRId64, v->integer);
    case VALUE_FLOAT:
        return literal_write_float(out, v->number);
    default:
        return (size_t)snprintf(out, 64, "<%s>", value_type_name(v));
    }
}

static bool repr_into(struct runtime *r, struct builder *b, const struct value *v, unsigned depth)
{
    if (depth > JINJA_MAX_VALUE_DEPTH)
        return runtime_fail_limit(r, "nested lists and objects", JINJA_MAX_VALUE_DEPTH);
    if (!runtime_charge(r, 1))
        return false;
    switch (v->kind) {
    case VALUE_STRING:
        return repr_string(r, b, &v->text);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return repr_list(r, b, v, depth);
    case VALUE_DICT:
    case VALUE_NAMESPACE:
        return repr_dict(r, b, v, depth);
    case VALUE_UNDEFINED:
        return add(r, b, "Undefined");
    default: {
        char scalar[64];
        size_t n = write_scalar(scalar, v);
        return builder_add_bytes(r, b, scalar, n, v->mark);
    }
    }
}

bool value_repr(struct runtime *r, const struct value *v, struct text *out)
{
    struct builder b = {0};
    if (!repr_into(r, &b, v, 0))
        return false;
    *out = builder_text(&b);
    return true;
}

bool value_string(struct runtime *r, const struct value *v, struct text *out)
{
    if (v->kind == VALUE_STRING) {
        *out = v->text;
        return true;
    }
    if (v->kind == VALUE_UNDEFINED) {
        *out = text_of("", 0, JINJA_MARK_TEMPLATE);
        return true;
    }
    return value_repr(r, v, out);
}
