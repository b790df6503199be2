/* Statements: the blocks {% ... %} and the text between them. */
#include <string.h>

#include "engine/jinja/parser.h"

static struct node *parse_body(struct parser *p, const char *const *ends);

/* ---- names */

static uint32_t name_hash(const char *bytes, size_t length)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)bytes[i]) * 16777619u;
    return h;
}

/* The slot where the name is or would be. */
static uint32_t *name_slot(const struct program *p, const char *bytes, size_t length)
{
    uint32_t mask = p->n_name_slots - 1;
    for (uint32_t i = name_hash(bytes, length) & mask;; i = (i + 1) & mask) {
        uint32_t *slot = &p->name_slots[i];
        if (*slot == 0)
            return slot;
        const struct text *name = &p->names[*slot - 1];
        if (name->length == length && memcmp(name->bytes, bytes, length) == 0)
            return slot;
    }
}

uint32_t program_find_name(const struct program *p, const char *bytes, size_t length)
{
    uint32_t *slot = name_slot(p, bytes, length);
    return *slot ? *slot - 1 : NO_NAME;
}

/* Room for twice as many names; the table stays at most half full. */
static bool grow_names(struct program *p)
{
    uint32_t capacity = p->names_capacity ? p->names_capacity * 2 : 64;
    struct text *names = arena_take(&p->memory, capacity * sizeof *names);
    uint32_t *slots = arena_take(&p->memory, 2 * capacity * sizeof *slots);
    if (!names || !slots)
        return false;
    if (p->n_names)
        memcpy(names, p->names, p->n_names * sizeof *names);
    memset(slots, 0, 2 * capacity * sizeof *slots);
    p->names = names;
    p->names_capacity = capacity;
    p->name_slots = slots;
    p->n_name_slots = 2 * capacity;
    for (uint32_t i = 0; i < p->n_names; i++)
        *name_slot(p, names[i].bytes, names[i].length) = i + 1;
    return true;
}

static bool name_number(struct program *p, const char *bytes, size_t length, uint32_t *name)
{
    if (p->n_names == p->names_capacity && !grow_names(p))
        return false;
    uint32_t *slot = name_slot(p, bytes, length);
    if (*slot == 0) {
        p->names[p->n_names++] = text_of(bytes, length, JINJA_MARK_TEMPLATE);
        *slot = p->n_names;
    }
    *name = *slot - 1;
    return true;
}

bool parser_name(struct parser *p, const struct token *t, uint32_t *name)
{
    return name_number(p->program, t->bytes, t->length, name) ||
           parser_fail(p, "the template is too large to compile");
}

/* ---- pieces */

static bool expect_close(struct parser *p)
{
    if (parser_now(p)->kind != TOKEN_BLOCK_CLOSE)
        return parser_fail(p, "expected the end of the block, %}");
    p->at++;
    return true;
}

/* The body up to `{% end %}`, which is skipped whole. */
static struct node *parse_body_to(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    struct node *body = expect_close(p) ? parse_body(p, ends) : NULL;
    if (!body)
        return NULL;
    p->at++; /* the end word, where parse_body stopped */
    return expect_close(p) ? body : NULL;
}

static struct node *new_filtered(struct parser *p)
{
    struct node *n = node_new(p, NODE_FILTERED, parser_now(p));
    return n ? node_finish(p, n) : NULL;
}

/* ---- the statements; `at` is the keyword, already skipped */

static struct node *parse_if(struct parser *p, const struct token *at)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    struct node_list list = {0};
    struct node *n = node_new(p, NODE_IF, at);
    if (!n)
        return NULL;
    do {
        struct node *condition = parse_tuple(p, false);
        if (!condition || !expect_close(p))
            return NULL;
        struct node *body = parse_body(p, ends);
        if (!body || !node_list_add(p, &list, condition) || !node_list_add(p, &list, body))
            return NULL;
    } while (parser_skip_word(p, "elif"));
    if (parser_skip_word(p, "else")) {
        if (!expect_close(p) || !(n->c = parse_body(p, last)))
            return NULL;
    }
    p->at++; /* endif */
    n->items = list.items;
    n->n_items = list.count;
    return expect_close(p) ? node_finish(p, n) : NULL;
}

static struct node *parse_for(struct parser *p, const struct token *at)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    static const char *const last[] = {"endfor", NULL};
    struct node *n = node_new(p, NODE_FOR, at);
    struct node **bodies = n ? arena_take(&p->program->memory, 2 * sizeof *bodies) : NULL;
    if (!bodies)
        return NULL;
    bodies[0] = bodies[1] = NULL;
    n->a = parse_target(p, false);
    if (!n->a)
        return NULL;
    if (!parser_skip_word(p, "in")) {
        parser_fail(p, "expected 'in'");
        return NULL;
    }
    n->b = parse_tuple(p, false);
    if (!n->b || (parser_skip_word(p, "if") && !(n->c = parse_expression(p))))
        return NULL;
    if (parser_is_word(p, "recursive")) {
        parser_fail(p, "recursive loops are not supported");
        return NULL;
    }
    p->loops++;
    bodies[0] = expect_close(p) ? parse_body(p, ends) : NULL;
    p->loops--;
    if (!bodies[0])
        return NULL;
    if (parser_skip_word(p, "else") && (!expect_close(p) || !(bodies[1] = parse_body(p, last))))
        return NULL;
    p->at++; /* endfor */
    n->items = bodies;
    n->n_items = 2;
    return expect_close(p) ? node_finish(p, n) : NULL;
}

static struct node *parse_set(struct parser *p, const struct token *at)
{
    struct node *target = parse_target(p, true);
    if (!target)
        return NULL;
    if (parser_skip(p, '=')) {
        struct node *n = node_new(p, NODE_SET, at);
        if (!n)
            return NULL;
        n->a = target;
        n->b = parse_tuple(p, true);
        return n->b && expect_close(p) ? node_finish(p, n) : NULL;
    }
    struct node *n = node_new(p, NODE_SET_BLOCK, at);
    if (!n)
        return NULL;
    n->a = target;
    if (parser_is(p, '|')) {
        n->c = parse_filters(p, new_filtered(p));
        if (!n->c)
            return NULL;
    }
    n->b = parse_body_to(p, "endset");
    return n->b ? node_finish(p, n) : NULL;
}

static struct node *parse_parameter(struct parser *p, bool *had_default)
{
    struct node *parameter = parse_target(p, false);
    if (!parameter || parameter->kind != NODE_NAME) {
        if (parameter)
            parser_fail(p, "expected the name of a parameter");
        return NULL;
    }
    if (parser_skip(p, '=')) {
        *had_default = true;
        parameter->a = parse_expression(p);
        return parameter->a ? node_finish(p, parameter) : NULL;
    }
    if (*had_default) {
        parser_fail(p, "a parameter without a default follows one with a default");
        return NULL;
    }
    return parameter;
}

static struct node *parse_macro_parameter(struct parser *p, bool *had_default)
{
    /* parse_target would take `a, b` for a tuple, so each name is read alone. */
    const struct token *t = parser_now(p);
    if (t->kind == TOKEN_NAME && t[1].kind == TOKEN_OPERATOR && t[1].op == ',') {
        struct node *n = node_new(p, NODE_NAME, t);
        if (!n || !parser_name(p, t, &n->name))
            return NULL;
        if (*had_default) {
            parser_fail(p, "a parameter without a default follows one with a default");
            return NULL;
        }
        p->at++;
        n->constant = value_text(text_of(t->bytes, t->length, JINJA_MARK_TEMPLATE));
        return node_finish(p, n);
    }
    return parse_parameter(p, had_default);
}

static struct node *parse_macro(struct parser *p, const struct token *at)
{
    struct node_list list = {0};
    struct node *n = node_new(p, NODE_MACRO, at);
    bool had_default = false;
    if (!n)
        return NULL;
    if (parser_now(p)->kind != TOKEN_NAME) {
        parser_fail(p, "expected the name of the macro");
        return NULL;
    }
    n->constant =
        value_text(text_of(parser_now(p)->bytes, parser_now(p)->length, JINJA_MARK_TEMPLATE));
    if (!parser_name(p, parser_now(p), &n->name))
        return NULL;
    p->at++;
    if (!parser_expect(p, '(', "expected '('"))
        return NULL;
    while (!parser_is(p, ')')) {
        if (list.count && !parser_expect(p, ',', "expected ',' or ')'"))
            return NULL;
        struct node *parameter = parse_macro_parameter(p, &had_default);
        if (!parameter || !node_list_add(p, &list, parameter))
            return NULL;
    }
    p->at++;
    unsigned loops = p->loops;
    p->loops = 0;
    n->b = parse_body_to(p, "endmacro");
    p->loops = loops;
    n->items = list.items;
    n->n_items = list.count;
    return n->b ? node_finish(p, n) : NULL;
}

static struct node *parse_with(struct parser *p, const struct token *at)
{
    struct node_list list = {0};
    struct node *n = node_new(p, NODE_SCOPE, at);
    if (!n)
        return NULL;
    while (parser_now(p)->kind != TOKEN_BLOCK_CLOSE) {
        if (list.count && !parser_expect(p, ',', "expected ','"))
            return NULL;
        struct node *target = parse_target(p, false);
        if (!target || !parser_expect(p, '=', "expected '='"))
            return NULL;
        struct node *value = parse_expression(p);
        if (!value || !node_list_add(p, &list, target) || !node_list_add(p, &list, value))
            return NULL;
    }
    n->b = parse_body_to(p, "endwith");
    n->items = list.items;
    n->n_items = list.count;
    return n->b ? node_finish(p, n) : NULL;
}

/* `generation` marks the assistant's text for training; rendering only opens a scope. */
static struct node *parse_generation(struct parser *p, const struct token *at)
{
    struct node *n = node_new(p, NODE_SCOPE, at);
    if (!n)
        return NULL;
    n->b = parse_body_to(p, "endgeneration");
    return n->b ? node_finish(p, n) : NULL;
}

static struct node *parse_filter_block(struct parser *p, const struct token *at)
{
    struct node *n = node_new(p, NODE_FILTER_BLOCK, at);
    if (!n)
        return NULL;
    n->c = new_filtered(p);
    n->c = n->c ? parse_filter_name(p, n->c) : NULL;
    n->c = parse_filters(p, n->c);
    n->b = n->c ? parse_body_to(p, "endfilter") : NULL;
    return n->b ? node_finish(p, n) : NULL;
}

static struct node *parse_do(struct parser *p, const struct token *at)
{
    struct node *n = node_new(p, NODE_DO, at);
    if (!n)
        return NULL;
    n->a = parse_tuple(p, true);
    return n->a && expect_close(p) ? node_finish(p, n) : NULL;
}

static struct node *parse_jump(struct parser *p, const struct token *at)
{
    if (p->loops == 0) {
        parser_fail(p, "break and continue belong into a for loop");
        return NULL;
    }
    struct node *n = node_new(p, at->bytes[0] == 'b' ? NODE_BREAK : NODE_CONTINUE, at);
    return n && expect_close(p) ? node_finish(p, n) : NULL;
}

static const struct {
    const char *word;
    struct node *(*parse)(struct parser *p, const struct token *at);
} statements[] = {
    {"if", parse_if},      {"for", parse_for},
    {"set", parse_set},    {"macro", parse_macro},
    {"with", parse_with},  {"generation", parse_generation},
    {"do", parse_do},      {"filter", parse_filter_block},
    {"break", parse_jump}, {"continue", parse_jump},
};

static struct node *parse_block(struct parser *p)
{
    const struct token *at = parser_now(p);
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (!parser_skip_word(p, statements[i].word))
            continue;
        if (!parser_enter(p))
            return NULL;
        struct node *n = statements[i].parse(p, at);
        p->nesting--;
        return n;
    }
    if (at->kind != TOKEN_NAME) {
        parser_fail(p, "expected the name of a statement");
        return NULL;
    }
    char word[80];
    error_excerpt(word, at->bytes, at->length);
    template_syntax_error(p->error, at->line, at->column,
                          "the statement '%s' is unknown, not supported, or closes nothing", word);
    return NULL;
}

static struct node *parse_output(struct parser *p)
{
    struct node *n = node_new(p, NODE_OUTPUT, parser_now(p));
    if (!n)
        return NULL;
    n->a = parse_tuple(p, true);
    if (!n->a)
        return NULL;
    if (parser_now(p)->kind != TOKEN_OUTPUT_CLOSE) {
        parser_fail(p, "expected }}");
        return NULL;
    }
    p->at++;
    return node_finish(p, n);
}

static struct node *parse_text(struct parser *p)
{
    const struct token *t = parser_now(p);
    struct node *n = node_new(p, NODE_TEXT, t);
    if (!n)
        return NULL;
    n->constant = value_text(text_of(t->bytes, t->length, JINJA_MARK_TEMPLATE));
    p->at++;
    return node_finish(p, n);
}

static bool is_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (parser_is_word(p, *ends))
            return true;
    return false;
}

/* Statements until one of the words of `ends` opens a block; stops at that word. NULL `ends`: the
 * whole template. */
static struct node *parse_body(struct parser *p, const char *const *ends)
{
    struct node_list list = {0};
    struct node *body = node_new(p, NODE_BODY, parser_now(p));
    while (body) {
        const struct token *t = parser_now(p);
        struct node *n = NULL;
        if (t->kind == TOKEN_END) {
            if (!ends)
                break;
            parser_fail(p, "the template ends inside of a block");
        } else if (t->kind == TOKEN_TEXT) {
            n = parse_text(p);
        } else {
            p->at++;
            if (t->kind == TOKEN_BLOCK_OPEN && is_end(p, ends))
                break;
            n = t->kind == TOKEN_BLOCK_OPEN ? parse_block(p) : parse_output(p);
        }
        if (!n || !node_list_add(p, &list, n))
            return NULL;
    }
    if (!body)
        return NULL;
    body->items = list.items;
    body->n_items = list.count;
    return node_finish(p, body);
}

bool parse_program(struct program *program, const char *source, size_t length, struct error *e)
{
    struct parser p = {.program = program, .error = e};
    size_t n_tokens;
    if (!grow_names(program) || !name_number(program, "loop", 4, &program->name_loop))
        return error_set_memory(e, "a chat template", 0);
    p.tokens = lexer_run(&program->memory, source, length, &n_tokens, e);
    if (!p.tokens)
        return false;
    program->body = parse_body(&p, NULL);
    return program->body != NULL;
}
