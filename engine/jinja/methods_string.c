/* Methods of strings. */
#include <string.h>

#include "engine/jinja/character.h"
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

/* Which end a method begins at. */
enum { FROM_LEFT, FROM_RIGHT };

static bool give(struct value *out, struct text t)
{
    *out = value_text(t);
    return true;
}
static bool answer(struct value *out, bool yes)
{
    *out = value_bool(yes, JINJA_MARK_TEMPLATE);
    return true;
}

static bool method_strip(struct runtime *r, const struct call *c, struct value *out)
{
    struct text characters;
    bool given = c->argument[0].kind != VALUE_ABSENT && c->argument[0].kind != VALUE_NONE;
    if (given && !argument_text(r, c, 0, "", &characters))
        return false;
    struct text t;
    return text_strip_paid(r, &c->self.text, given ? &characters : NULL, (int)c->which, &t) &&
           give(out, t);
}

static bool method_case(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t;
    return text_change_case(r, &c->self.text, c->which, &t) && give(out, t);
}

/* ---- splitting */

static bool push_cut(struct runtime *r, struct list *list, const struct text *t, size_t start,
                     size_t end)
{
    struct value v = value_text(text_cut(t, start, end));
    return list_push(r, list, &v);
}

/* Splits at runs of white space, which are dropped. */
static bool split_words(struct runtime *r, const struct text *whole, int64_t max, struct list *list)
{
    struct text rest = text_strip(whole, NULL, STRIP_LEFT);
    while (rest.length > 0) {
        size_t end = 0;
        uint32_t code;
        while (end < rest.length) {
            size_t n = character_read(rest.bytes + end, rest.length - end, &code);
            if (character_is_space(code))
                break;
            end += n;
        }
        if (max-- == 0)
            end = rest.length;
        if (!push_cut(r, list, &rest, 0, end))
            return false;
        rest = text_cut(&rest, end, rest.length);
        rest = text_strip(&rest, NULL, STRIP_LEFT);
    }
    return true;
}

static bool split_words_last(struct runtime *r, const struct text *whole, int64_t max,
                             struct list *list)
{
    struct text rest = text_strip(whole, NULL, STRIP_RIGHT);
    while (rest.length > 0) {
        size_t start = rest.length;
        uint32_t code;
        while (start > 0) {
            size_t n = character_read_back(rest.bytes, start, &code);
            if (character_is_space(code))
                break;
            start -= n;
        }
        if (max-- == 0)
            start = 0;
        if (!push_cut(r, list, &rest, start, rest.length))
            return false;
        rest = text_cut(&rest, 0, start);
        rest = text_strip(&rest, NULL, STRIP_RIGHT);
    }
    return true;
}

static bool split_at(struct runtime *r, const struct text *t, const struct text *separator,
                     int64_t max, struct list *list)
{
    size_t start = 0;
    while (max-- != 0) {
        size_t found = text_find(t, separator, start, t->length);
        if (found == SIZE_MAX)
            break;
        if (!push_cut(r, list, t, start, found))
            return false;
        start = found + separator->length;
    }
    return push_cut(r, list, t, start, t->length);
}

static bool split_at_last(struct runtime *r, const struct text *t, const struct text *separator,
                          int64_t max, struct list *list)
{
    size_t end = t->length;
    while (max-- != 0) {
        size_t found = text_find_last(r, t, separator, 0, end);
        if (found == SIZE_MAX)
            break;
        if (!push_cut(r, list, t, found + separator->length, end))
            return false;
        end = found;
    }
    return !r->failed && push_cut(r, list, t, 0, end);
}

static void reverse(struct list *list)
{
    for (size_t i = 0; i < list->count / 2; i++) {
        struct value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
}

static bool method_split(struct runtime *r, const struct call *c, struct value *out)
{
    const bool last = c->which == FROM_RIGHT;
    struct text separator;
    int64_t max;
    struct list *list = list_new(r, 0);
    const struct text *t = &c->self.text;
    bool words = c->argument[0].kind == VALUE_ABSENT || c->argument[0].kind == VALUE_NONE;
    if (!list || (!words && !argument_text(r, c, 0, "", &separator)) ||
        !argument_int(r, c, 1, -1, &max) || !runtime_charge_bytes(r, 4 * t->length))
        return false;
    if (!words && separator.length == 0)
        return runtime_fail(r, "empty separator");
    bool ok = words  ? (last ? split_words_last : split_words)(r, t, max, list)
              : last ? split_at_last(r, t, &separator, max, list)
                     : split_at(r, t, &separator, max, list);
    if (last)
        reverse(list);
    *out = value_list(list);
    return ok;
}

static bool ends_line(uint32_t code)
{
    return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

static bool method_splitlines(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *list = list_new(r, 0);
    const struct text *t = &c->self.text;
    bool keep;
    argument_bool(r, c, 0, false, &keep);
    size_t start = 0;
    for (size_t i = 0; list && i < t->length;) {
        uint32_t code;
        size_t n = character_read(t->bytes + i, t->length - i, &code), end = i;
        i += n;
        if (!ends_line(code))
            continue;
        if (code == '\r' && i < t->length && t->bytes[i] == '\n')
            i++;
        if (!push_cut(r, list, t, start, keep ? i : end))
            return false;
        start = i;
    }
    if (!list || !runtime_charge_bytes(r, t->length) ||
        (start < t->length && !push_cut(r, list, t, start, t->length)))
        return false;
    *out = value_list(list);
    return true;
}

static bool method_partition(struct runtime *r, const struct call *c, struct value *out)
{
    const bool last = c->which == FROM_RIGHT;
    struct text separator;
    const struct text *t = &c->self.text;
    struct list *list = list_new(r, 3);
    if (!list || !argument_text(r, c, 0, "", &separator) || !runtime_charge_bytes(r, 4 * t->length))
        return false;
    if (separator.length == 0)
        return runtime_fail(r, "empty separator");
    size_t at = last ? text_find_last(r, t, &separator, 0, t->length)
                     : text_find(t, &separator, 0, t->length);
    if (r->failed)
        return false;
    size_t cut[4] = {0, at, at + separator.length, t->length};
    if (at == SIZE_MAX) {
        cut[1] = cut[2] = last ? 0 : t->length;
        cut[0] = 0;
    }
    *out = value_tuple(list);
    return push_cut(r, list, t, cut[0], cut[1]) && push_cut(r, list, t, cut[1], cut[2]) &&
           push_cut(r, list, t, cut[2], cut[3]);
}

/* ---- looking */

static bool has_affix(const struct text *t, const struct text *affix, bool end)
{
    return affix->length <= t->length && memcmp(t->bytes + (end ? t->length - affix->length : 0),
                                                affix->bytes, affix->length) == 0;
}

static bool method_has_affix(struct runtime *r, const struct call *c, struct value *out)
{
    const bool end = c->which == FROM_RIGHT;
    const struct value *v = &c->argument[0];
    if (v->kind == VALUE_STRING)
        return runtime_charge_bytes(r, v->text.length) &&
               answer(out, has_affix(&c->self.text, &v->text, end));
    if (v->kind != VALUE_TUPLE)
        return runtime_fail(r, "%s first arg must be str or a tuple of str, not %s",
                            end ? "endswith" : "startswith", value_type_name(v));
    bool any = false;
    for (size_t i = 0; i < v->list->count && !any; i++) {
        if (v->list->items[i].kind != VALUE_STRING)
            return runtime_fail(r, "a tuple of affixes must hold strings only");
        if (!runtime_charge_bytes(r, v->list->items[i].text.length))
            return false;
        any = has_affix(&c->self.text, &v->list->items[i].text, end);
    }
    return answer(out, any);
}

static bool method_remove_affix(struct runtime *r, const struct call *c, struct value *out)
{
    struct text affix;
    const struct text *t = &c->self.text;
    const bool end = c->which == FROM_RIGHT;
    if (!argument_text(r, c, 0, "", &affix) || !runtime_charge_bytes(r, affix.length))
        return false;
    size_t n = has_affix(t, &affix, end) ? affix.length : 0;
    return give(out, text_cut(t, end ? 0 : n, end ? t->length - n : t->length));
}

/* The byte range of the arguments start and end, which count characters. *valid: start is not after
 * end. */
static bool search_range(struct runtime *r, const struct call *c, size_t *start, size_t *end,
                         bool *valid)
{
    const struct text *t = &c->self.text;
    int64_t from, to;
    *start = 0;
    *end = t->length;
    *valid = true;
    if (!runtime_charge_bytes(r, 4 * t->length))
        return false;
    if (c->argument[1].kind == VALUE_ABSENT)
        return true;
    int64_t n = (int64_t)character_count(t->bytes, t->length);
    if (!argument_int(r, c, 1, 0, &from) || !argument_int(r, c, 2, n, &to))
        return false;
    from = from < -n ? 0 : from < 0 ? from + n : from;
    to = to < -n ? 0 : to < 0 ? to + n : to > n ? n : to;
    *valid = from <= to;
    if (*valid) {
        *start = character_offset(t->bytes, t->length, (size_t)from);
        *end = character_offset(t->bytes, t->length, (size_t)to);
    }
    return true;
}

/* find, rfind, index and rindex. */
enum { FIND_LAST = 1, FIND_MUST = 2 };

static bool method_find(struct runtime *r, const struct call *c, struct value *out)
{
    const bool last = c->which & FIND_LAST, must = c->which & FIND_MUST;
    struct text needle;
    const struct text *t = &c->self.text;
    size_t start, end, at = SIZE_MAX;
    bool valid;
    if (!argument_text(r, c, 0, "", &needle) || !search_range(r, c, &start, &end, &valid))
        return false;
    if (valid)
        at = last ? text_find_last(r, t, &needle, start, end) : text_find(t, &needle, start, end);
    if (r->failed || (at == SIZE_MAX && must))
        return runtime_fail(r, "substring not found");
    int64_t place = at == SIZE_MAX ? -1 : (int64_t)character_count(t->bytes, at);
    *out = value_int(place, JINJA_MARK_USER);
    return true;
}

static bool method_count(struct runtime *r, const struct call *c, struct value *out)
{
    struct text needle;
    const struct text *t = &c->self.text;
    size_t start, end;
    bool valid;
    int64_t n = 0;
    if (!argument_text(r, c, 0, "", &needle) || !search_range(r, c, &start, &end, &valid))
        return false;
    if (valid && needle.length == 0)
        n = (int64_t)character_count(t->bytes + start, end - start) + 1;
    else if (valid)
        for (size_t at;
             (at = text_find(t, &needle, start, end)) != SIZE_MAX && runtime_charge(r, 1); n++)
            start = at + needle.length;
    *out = value_int(n, JINJA_MARK_USER);
    return !r->failed;
}

/* ---- kinds of characters */

static bool is_digit(uint32_t c)
{
    return c >= '0' && c <= '9';
}
static bool is_alnum(uint32_t c)
{
    return is_digit(c) || character_is_alpha(c);
}

enum { ARE_DIGITS, ARE_LETTERS, ARE_EITHER, ARE_SPACES };

static bool method_all_are(struct runtime *r, const struct call *c, struct value *out)
{
    static bool (*const kinds[])(uint32_t) = {is_digit, character_is_alpha, is_alnum,
                                              character_is_space};
    bool (*is)(uint32_t) = kinds[c->which];
    const struct text *t = &c->self.text;
    bool all = t->length > 0;
    for (size_t i = 0; all && i < t->length;) {
        uint32_t code;
        i += character_read(t->bytes + i, t->length - i, &code);
        all = is(code);
    }
    return runtime_charge_bytes(r, t->length) && answer(out, all);
}

static bool method_has_case(struct runtime *r, const struct call *c, struct value *out)
{
    bool has;
    return text_has_case(r, &c->self.text, c->which, &has) && answer(out, has);
}

/* ---- building */

static bool method_replace(struct runtime *r, const struct call *c, struct value *out)
{
    struct text old, new, t;
    int64_t count;
    return argument_text(r, c, 0, "", &old) && argument_text(r, c, 1, "", &new) &&
           argument_int(r, c, 2, -1, &count) &&
           text_replace(r, &c->self.text, &old, &new, count, &t) && give(out, t);
}

static bool method_join(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *items;
    struct builder b = {0};
    if (!value_iterate(r, &c->argument[0], &items))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        if (items->items[i].kind != VALUE_STRING)
            return runtime_fail(r, "sequence item %zu: expected str instance, %s found", i,
                                value_type_name(&items->items[i]));
        if (!runtime_charge(r, 1) || (i > 0 && !builder_add(r, &b, &c->self.text)) ||
            !builder_add(r, &b, &items->items[i].text))
            return false;
    }
    return give(out, builder_text(&b));
}

/* The value that a field of str.format names: "", "0" or "name". */
static bool format_field(struct runtime *r, const struct arguments *arguments,
                         const struct text *field, size_t *next, struct value *out)
{
    size_t index = *next;
    if (field->length == 0) {
        (*next)++;
    } else if (is_digit((unsigned char)field->bytes[0])) {
        index = 0;
        for (size_t i = 0; i < field->length && index < 1000000; i++) {
            if (!is_digit((unsigned char)field->bytes[i]))
                return runtime_fail(r, "str.format knows {}, {0} and {name} only");
            index = index * 10 + (size_t)(field->bytes[i] - '0');
        }
    } else {
        for (size_t i = 0; i < arguments->n_keywords; i++)
            if (text_is(field, arguments->keywords[i].name.bytes,
                        arguments->keywords[i].name.length)) {
                *out = arguments->keywords[i].value;
                return true;
            }
        return runtime_fail(r, "str.format misses an argument, or has a field of another form than "
                               "{}, {0} and {name}");
    }
    if (index >= arguments->n_positional)
        return runtime_fail(r, "replacement index %zu out of range", index);
    *out = arguments->positional[index];
    return true;
}

static bool method_format(struct runtime *r, const struct call *c, struct value *out)
{
    const struct text *t = &c->self.text;
    struct builder b = {0};
    size_t from = 0, next = 0;
    for (size_t i = 0; i < t->length; i++) {
        char brace = t->bytes[i];
        if (brace != '{' && brace != '}')
            continue;
        struct text plain = text_cut(t, from, i), piece;
        bool doubled = i + 1 < t->length && t->bytes[i + 1] == brace;
        const char *end = doubled ? NULL : memchr(t->bytes + i, '}', t->length - i);
        if (!doubled && (brace == '}' || !end))
            return runtime_fail(r, "a single brace in a format string");
        if (doubled) {
            piece = text_cut(t, i, i + 1);
            i++;
        } else {
            size_t stop = (size_t)(end - t->bytes);
            struct text field = text_cut(t, i + 1, stop);
            struct value v;
            if (!format_field(r, c->raw, &field, &next, &v) || !value_string(r, &v, &piece))
                return false;
            i = stop;
        }
        if (!builder_add(r, &b, &plain) || !builder_add(r, &b, &piece))
            return false;
        from = i + 1;
    }
    struct text rest = text_cut(t, from, t->length);
    return builder_add(r, &b, &rest) && give(out, builder_text(&b));
}

const struct native native_string_methods[] = {
    {"strip", "chars", 0, method_strip, STRIP_BOTH},
    {"lstrip", "chars", 0, method_strip, STRIP_LEFT},
    {"rstrip", "chars", 0, method_strip, STRIP_RIGHT},
    {"upper", "", 0, method_case, CASE_UPPER},
    {"lower", "", 0, method_case, CASE_LOWER},
    {"title", "", 0, method_case, CASE_TITLE},
    {"capitalize", "", 0, method_case, CASE_CAPITALIZE},
    {"swapcase", "", 0, method_case, CASE_SWAP},
    {"split", "sep maxsplit", 0, method_split, FROM_LEFT},
    {"rsplit", "sep maxsplit", 0, method_split, FROM_RIGHT},
    {"splitlines", "keepends", 0, method_splitlines, 0},
    {"partition", "sep", 1, method_partition, FROM_LEFT},
    {"rpartition", "sep", 1, method_partition, FROM_RIGHT},
    {"startswith", "prefix", 1, method_has_affix, FROM_LEFT},
    {"endswith", "suffix", 1, method_has_affix, FROM_RIGHT},
    {"removeprefix", "prefix", 1, method_remove_affix, FROM_LEFT},
    {"removesuffix", "suffix", 1, method_remove_affix, FROM_RIGHT},
    {"find", "sub start end", 1, method_find, 0},
    {"rfind", "sub start end", 1, method_find, FIND_LAST},
    {"index", "sub start end", 1, method_find, FIND_MUST},
    {"rindex", "sub start end", 1, method_find, FIND_LAST | FIND_MUST},
    {"count", "sub start end", 1, method_count, 0},
    {"isdigit", "", 0, method_all_are, ARE_DIGITS},
    {"isdecimal", "", 0, method_all_are, ARE_DIGITS},
    {"isnumeric", "", 0, method_all_are, ARE_DIGITS},
    {"isalpha", "", 0, method_all_are, ARE_LETTERS},
    {"isalnum", "", 0, method_all_are, ARE_EITHER},
    {"isspace", "", 0, method_all_are, ARE_SPACES},
    {"isupper", "", 0, method_has_case, CASE_UPPER},
    {"islower", "", 0, method_has_case, CASE_LOWER},
    {"replace", "old new count", 2, method_replace, 0},
    {"join", "iterable", 1, method_join, 0},
    {"format", NULL, 0, method_format, 0},
    {0},
};
