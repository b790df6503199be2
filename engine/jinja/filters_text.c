/* Filters that make text. As in Jinja, most of them take any value and work on its str(). */
#include <string.h>

#include "engine/jinja/character.h"
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool give(struct value *out, struct text t)
{
    *out = value_text(t);
    return true;
}

static bool filter_trim(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t, characters;
    if (!value_string(r, &c->self, &t) || !argument_text(r, c, 0, "", &characters))
        return false;
    bool given = c->argument[0].kind != VALUE_ABSENT;
    return text_strip_paid(r, &t, given ? &characters : NULL, STRIP_BOTH, &t) && give(out, t);
}

static bool filter_case(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t, changed;
    return value_string(r, &c->self, &t) && text_change_case(r, &t, c->which, &changed) &&
           give(out, changed);
}

static bool filter_string(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t;
    return value_string(r, &c->self, &t) && give(out, t);
}

static bool filter_replace(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t, old, new, done;
    int64_t count = -1;
    if (!value_string(r, &c->self, &t) || !value_string(r, &c->argument[0], &old) ||
        !value_string(r, &c->argument[1], &new))
        return false;
    if (c->argument[2].kind != VALUE_NONE && !argument_int(r, c, 2, -1, &count))
        return false;
    return text_replace(r, &t, &old, &new, count, &done) && give(out, done);
}

static bool filter_escape(struct runtime *r, const struct call *c, struct value *out)
{
    static const char *const replacements[][2] = {
        {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
    struct text t;
    if (!value_string(r, &c->self, &t))
        return false;
    for (size_t i = 0; i < sizeof replacements / sizeof replacements[0]; i++) {
        struct text old = text_of(replacements[i][0], 1, JINJA_MARK_TEMPLATE);
        struct text new = text_of(replacements[i][1], strlen(replacements[i][1]), JINJA_MARK_USER);
        if (!text_replace(r, &t, &old, &new, -1, &t))
            return false;
    }
    return give(out, t);
}

/* Whether it contains only white space. */
static bool blank(const struct text *t)
{
    return text_strip(t, NULL, STRIP_LEFT).length == 0;
}

static bool filter_indent(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t, indent = text_of("    ", 4, JINJA_MARK_TEMPLATE);
    bool first, blanks;
    const struct value *width = &c->argument[0];
    if (c->self.kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, &c->self);
    if (c->self.kind != VALUE_STRING)
        return runtime_fail(r, "indent needs a string, not %s", value_type_name(&c->self));
    if (!value_string(r, &c->self, &t) || !argument_bool(r, c, 1, false, &first) ||
        !argument_bool(r, c, 2, false, &blanks))
        return false;
    if (width->kind == VALUE_STRING) {
        indent = width->text;
    } else if (width->kind != VALUE_ABSENT) {
        int64_t n;
        struct text space = TEXT_LITERAL(" ");
        if (!argument_int(r, c, 0, 4, &n) || !text_repeat(r, &space, n, &indent))
            return false;
    }
    struct builder b = {0};
    for (size_t start = 0; start <= t.length;) {
        const char *end = memchr(t.bytes + start, '\n', t.length - start);
        size_t stop = end ? (size_t)(end - t.bytes) + 1 : t.length;
        struct text line = text_cut(&t, start, stop);
        bool wanted = start == 0 ? first : blanks || !blank(&line);
        /* Jinja adds a newline first, so that a text that ends with one gets no indent behind it.
         */
        if (start > 0 && start == t.length)
            wanted = blanks;
        if ((wanted && !builder_add(r, &b, &indent)) || !builder_add(r, &b, &line) ||
            !runtime_charge(r, 1))
            return false;
        if (!end)
            break;
        start = stop;
    }
    return give(out, builder_text(&b));
}

static bool filter_wordcount(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t;
    int64_t n = 0;
    if (!value_string(r, &c->self, &t) || !runtime_charge_bytes(r, t.length))
        return false;
    bool inside = false;
    for (size_t i = 0; i < t.length;) {
        uint32_t code;
        i += character_read(t.bytes + i, t.length - i, &code);
        bool word = code == '_' || character_is_alpha(code) || (code >= '0' && code <= '9');
        n += word && !inside;
        inside = word;
    }
    *out = value_int(n, text_common_mark(&t));
    return true;
}

static bool filter_format(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t;
    if (!value_string(r, &c->self, &t))
        return false;
    struct builder b = {0};
    size_t used = 0, from = 0;
    for (size_t i = 0; i + 1 < t.length; i++) {
        if (t.bytes[i] != '%')
            continue;
        struct text plain = text_cut(&t, from, i), piece = text_cut(&t, i, i + 1);
        char kind = t.bytes[i + 1];
        if (kind != '%' && kind != 's' && kind != 'd' && kind != 'r')
            return runtime_fail(r, "format knows %%s, %%d, %%r and %%%% only");
        if (kind != '%') {
            if (used == c->raw->n_positional)
                return runtime_fail(r, "not enough arguments for format string");
            const struct value *v = &c->raw->positional[used++];
            if (kind == 'd' && !value_is_number(v))
                return runtime_fail(r, "%%d format: a number is required, not %s",
                                    value_type_name(v));
            struct value whole = *v;
            if (kind == 'd' && v->kind == VALUE_FLOAT) {
                if (!(v->number > -9e18 && v->number < 9e18))
                    return runtime_fail(r, "an integer does not fit into 64 bits");
                whole = value_int((int64_t)v->number, v->mark);
            } else if (kind == 'd') {
                whole = value_int(value_integer(v), v->mark);
            }
            if (!(kind == 'r' ? value_repr(r, v, &piece) : value_string(r, &whole, &piece)))
                return false;
        }
        if (!builder_add(r, &b, &plain) || !builder_add(r, &b, &piece))
            return false;
        from = ++i + 1;
    }
    if (used < c->raw->n_positional)
        return runtime_fail(r, "not all arguments converted during string formatting");
    struct text rest = text_cut(&t, from, t.length);
    return builder_add(r, &b, &rest) && give(out, builder_text(&b));
}

/* ---- tojson */

static bool read_separators(struct runtime *r, const struct value *v, struct json_style *style)
{
    if (v->kind == VALUE_ABSENT || v->kind == VALUE_NONE)
        return true;
    if (!value_is_sequence(v) || v->list->count != 2 || v->list->items[0].kind != VALUE_STRING ||
        v->list->items[1].kind != VALUE_STRING)
        return runtime_fail(r, "tojson: separators must be a pair of strings");
    style->item_separator = v->list->items[0].text.bytes;
    style->item_separator_length = v->list->items[0].text.length;
    style->key_separator = v->list->items[1].text.bytes;
    style->key_separator_length = v->list->items[1].text.length;
    return true;
}

/* The parameters and their order are those of transformers. */
static bool filter_tojson(struct runtime *r, const struct call *c, struct value *out)
{
    struct json_style style = {.item_separator = ", ",
                               .item_separator_length = 2,
                               .key_separator = ": ",
                               .key_separator_length = 2};
    struct text t, indent;
    const struct value *width = &c->argument[1];
    if (!argument_bool(r, c, 0, false, &style.ensure_ascii) ||
        !argument_bool(r, c, 3, false, &style.sort_keys))
        return false;
    if (width->kind != VALUE_ABSENT && width->kind != VALUE_NONE) {
        style.item_separator_length = 1; /* the newline follows */
        if (width->kind == VALUE_STRING) {
            indent = width->text;
        } else {
            int64_t n;
            struct text space = TEXT_LITERAL(" ");
            if (!argument_int(r, c, 1, 0, &n) || !text_repeat(r, &space, n, &indent))
                return false;
        }
        style.indent = indent.bytes;
        style.indent_length = indent.length;
    }
    return read_separators(r, &c->argument[2], &style) && value_to_json(r, &c->self, &style, &t) &&
           give(out, t);
}

const struct native native_text_filters[] = {
    {"trim", "chars", 0, filter_trim, 0},
    {"upper", "", 0, filter_case, CASE_UPPER},
    {"lower", "", 0, filter_case, CASE_LOWER},
    {"capitalize", "", 0, filter_case, CASE_CAPITALIZE},
    {"title", "", 0, filter_case, CASE_TITLE_WORDS},
    {"string", "", 0, filter_string, 0},
    {"safe", "", 0, filter_string, 0},
    {"replace", "old new count", 2, filter_replace, 0},
    {"escape", "", 0, filter_escape, 0},
    {"e", "", 0, filter_escape, 0},
    {"indent", "width first blank", 0, filter_indent, 0},
    {"wordcount", "", 0, filter_wordcount, 0},
    {"format", NULL, 0, filter_format, 0},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, filter_tojson, 0},
    {0},
};
