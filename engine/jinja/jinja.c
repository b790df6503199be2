/* Compiling and rendering: see jinja.h. */
#include "engine/jinja/jinja.h"

#include <stdlib.h>
#include <string.h>

#include "config/base/utf8.h"
#include "engine/jinja/character.h"
#include "engine/jinja/parser.h"
#include "engine/jinja/runtime.h"
#include "engine/jinja/text.h"

struct jinja_program {
    struct program program;
    char source[]; /* line ends are "\n" */
};

/* "\r\n" and "\r" become "\n"; one newline at the end is removed. */
static size_t normalise(char *out, const char *source, size_t length)
{
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        bool pair = source[i] == '\r' && i + 1 < length && source[i + 1] == '\n';
        out[used++] = source[i] == '\r' ? '\n' : source[i];
        i += pair;
    }
    return used > 0 && out[used - 1] == '\n' ? used - 1 : used;
}

struct jinja_program *jinja_compile(const char *source, size_t length, struct error *e)
{
    struct error why = {0};
    if (length > JINJA_MAX_SOURCE_BYTES) {
        error_set(e, "template_error", "", "the template has %zu bytes, more than the %d allowed",
                  length, JINJA_MAX_SOURCE_BYTES);
        return NULL;
    }
    if (!utf8_valid(source, length)) {
        error_set(e, "template_error", "", "the template is not valid UTF-8");
        return NULL;
    }
    struct jinja_program *p = malloc(sizeof *p + length + 1);
    if (!p) {
        error_set_memory(e, "a chat template", length);
        return NULL;
    }
    memset(&p->program, 0, sizeof p->program);
    arena_init(&p->program.memory, JINJA_MAX_COMPILED_BYTES);
    size_t used = normalise(p->source, source, length);
    p->source[used] = 0;
    if (parse_program(&p->program, p->source, used, &why))
        return p;
    if (p->program.memory.is_short)
        error_set_memory(e, "a chat template", length);
    else if (e && why.code[0])
        *e = why;
    else
        error_set(e, "template_error", "", "the template is too large to compile");
    jinja_free(p);
    return NULL;
}

void jinja_free(struct jinja_program *p)
{
    if (!p)
        return;
    arena_free(&p->program.memory);
    free(p);
}

/* ---- rendering */

/* About the size of the JSON text in bytes; the limits grow with it. Nesting is bounded as in
 * value_from_json. */
static size_t json_bytes(const json_t *json, unsigned depth)
{
    size_t total = 4;
    if (!json || depth > JINJA_MAX_VALUE_DEPTH)
        return 0;
    if (json_is_string(json))
        return total + json_string_length(json);
    for (size_t i = 0; i < json_array_size(json); i++)
        total += json_bytes(json_array_get(json, i), depth + 1);
    json_t *object = (json_t *)json; /* jansson's iterators take no const */
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i))
        total +=
            strlen(json_object_iter_key(i)) + 4 + json_bytes(json_object_iter_value(i), depth + 1);
    return total;
}

/* Variables whose name the template does not contain are not converted. */
static bool bind_json(struct runtime *r, const char *name, const json_t *json,
                      jinja_string_hook *hook, void *context)
{
    struct value v = value_none();
    uint32_t number = program_find_name(r->program, name, strlen(name));
    if (number == NO_NAME)
        return true;
    if (json && !value_from_json(r, name, json, hook, context, &v))
        return false;
    return scope_set(r, r->scope, number, &v);
}

static bool bind_variables(struct runtime *r, const struct jinja_input *in)
{
    json_t *more = (json_t *)in->more;
    for (void *i = json_object_iter(more); i; i = json_object_iter_next(more, i))
        if (!bind_json(r, json_object_iter_key(i), json_object_iter_value(i), NULL, NULL))
            return false;
    for (size_t i = 0; i < in->n_variables; i++) {
        const struct jinja_variable *variable = &in->variables[i];
        if (!variable->text) {
            if (!bind_json(r, variable->name, variable->json, in->string_hook, in->hook_context))
                return false;
            continue;
        }
        uint32_t number = program_find_name(r->program, variable->name, strlen(variable->name));
        struct value v =
            value_text(text_of(variable->text, strlen(variable->text), JINJA_MARK_TEMPLATE));
        if (number != NO_NAME && !scope_set(r, r->scope, number, &v))
            return false;
    }
    return true;
}

static bool give_output(struct runtime *r, struct jinja_output *out)
{
    struct output *o = &r->output;
    if (!o->bytes) { /* nothing was written */
        o->bytes = malloc(1);
        o->marks = malloc(1);
        if (!o->bytes || !o->marks)
            return error_set_memory(r->error, "a rendered chat template", 1);
    }
    o->bytes[o->used] = 0;
    *out = (struct jinja_output){o->bytes, o->marks, o->used};
    *o = (struct output){0};
    return true;
}

bool jinja_render(const struct jinja_program *p, const struct jinja_input *in,
                  struct jinja_output *out, struct error *e)
{
    struct error ignored = {0};
    struct runtime r = {
        .program = &p->program, .now_unix = in->now_unix, .error = e ? e : &ignored, .line = 1};
    size_t input = json_bytes(in->more, 0);
    for (size_t i = 0; i < in->n_variables; i++)
        input += in->variables[i].text ? strlen(in->variables[i].text)
                                       : json_bytes(in->variables[i].json, 0);
    arena_init(&r.memory, JINJA_MEMORY_BYTES + JINJA_MEMORY_PER_INPUT_BYTE * input);
    r.output.limit = JINJA_OUTPUT_BYTES + JINJA_OUTPUT_PER_INPUT_BYTE * input;
    r.filtered = value_none();
    *out = (struct jinja_output){0};
    r.scope = scope_new(&r, NULL);
    bool ok = r.scope && bind_variables(&r, in) && execute(&r, p->program.body) != FLOW_FAILED &&
              give_output(&r, out);
    free(r.output.bytes);
    free(r.output.marks);
    arena_free(&r.memory);
    return ok;
}
