/* Expressions, by recursive descent in Jinja's precedence:
 *
 *      a if c else b  <  or  <  and  <  not  <  == in is-less-than ...  <  + -  <  ~
 *                     <  * / // %  <  **  <  - +  <  . [] ()  <  | is */
#include <string.h>

#include "engine/jinja/parser.h"
#include "engine/jinja/text.h"

static struct node *parse_or(struct parser *p);
static struct node *parse_unary(struct parser *p, bool with_filters);

/* ---- tokens */

bool parser_is(const struct parser *p, unsigned op)
{
    return parser_now(p)->kind == TOKEN_OPERATOR && parser_now(p)->op == op;
}

bool parser_is_word(const struct parser *p, const char *word)
{
    const struct token *t = parser_now(p);
    size_t n = strlen(word);
    return t->kind == TOKEN_NAME && t->length == n && memcmp(t->bytes, word, n) == 0;
}

bool parser_skip(struct parser *p, unsigned op)
{
    bool is = parser_is(p, op);
    p->at += is;
    return is;
}

bool parser_skip_word(struct parser *p, const char *word)
{
    bool is = parser_is_word(p, word);
    p->at += is;
    return is;
}

bool parser_fail(struct parser *p, const char *message)
{
    const struct token *t = parser_now(p);
    return template_syntax_error(p->error, t->line, t->column, "%s", message);
}

bool parser_expect(struct parser *p, unsigned op, const char *message)
{
    return parser_skip(p, op) || parser_fail(p, message);
}

bool parser_enter(struct parser *p)
{
    if (p->nesting == JINJA_MAX_NESTING)
        return parser_fail(p, "the template is nested too deeply");
    p->nesting++;
    return true;
}

/* ---- nodes */

struct node *node_new(struct parser *p, enum node_kind kind, const struct token *at)
{
    struct node *n = arena_take(&p->program->memory, sizeof *n);
    if (!n) {
        parser_fail(p, "the template is too large to compile");
        return NULL;
    }
    memset(n, 0, sizeof *n);
    n->kind = (uint8_t)kind;
    n->line = at->line;
    return n;
}

static void deepen(struct node *n, const struct node *child)
{
    if (child && child->depth >= n->depth)
        n->depth = (uint16_t)(child->depth + 1);
}

struct node *node_finish(struct parser *p, struct node *n)
{
    n->depth = 1;
    deepen(n, n->a);
    deepen(n, n->b);
    deepen(n, n->c);
    for (uint32_t i = 0; i < n->n_items; i++)
        deepen(n, n->items[i]);
    for (uint32_t i = 0; i < n->n_keywords; i++)
        deepen(n, n->keywords[i].value);
    if (n->depth <= JINJA_MAX_TREE_DEPTH)
        return n;
    parser_fail(p, "an expression is too long or nested too deeply");
    return NULL;
}

bool node_list_add(struct parser *p, struct node_list *list, struct node *n)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 4;
        struct node **items = arena_take(&p->program->memory, capacity * sizeof *items);
        if (!items)
            return parser_fail(p, "the template is too large to compile");
        if (list->count)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = n;
    return true;
}

static struct node *with_items(struct parser *p, struct node *n, const struct node_list *list)
{
    n->items = list->items;
    n->n_items = list->count;
    return node_finish(p, n);
}

static struct node *binary(struct parser *p, enum node_kind kind, unsigned op, struct node *a,
                           struct node *b, const struct token *at)
{
    struct node *n = b ? node_new(p, kind, at) : NULL;
    if (!n)
        return NULL;
    n->op = (uint16_t)op;
    n->a = a;
    n->b = b;
    return node_finish(p, n);
}

static struct node *unary(struct parser *p, enum node_kind kind, struct node *a,
                          const struct token *at)
{
    struct node *n = a ? node_new(p, kind, at) : NULL;
    if (!n)
        return NULL;
    n->a = a;
    return node_finish(p, n);
}

static struct node *constant(struct parser *p, struct value v, const struct token *at)
{
    struct node *n = node_new(p, NODE_CONSTANT, at);
    if (!n)
        return NULL;
    n->constant = v;
    return node_finish(p, n);
}

/* ---- calls */

static bool add_keyword(struct parser *p, struct node *n, const struct token *name)
{
    struct node *value = parse_expression(p);
    if (!value)
        return false;
    if ((n->n_keywords & (n->n_keywords - 1)) == 0) { /* full at 0, 1, 2, 4, 8, ... */
        uint32_t capacity = n->n_keywords ? n->n_keywords * 2 : 1;
        struct keyword_node *more = arena_take(&p->program->memory, capacity * sizeof *more);
        if (!more)
            return parser_fail(p, "the template is too large to compile");
        if (n->n_keywords)
            memcpy(more, n->keywords, n->n_keywords * sizeof *more);
        n->keywords = more;
    }
    n->keywords[n->n_keywords++] = (struct keyword_node){
        .name = text_of(name->bytes, name->length, JINJA_MARK_TEMPLATE), .value = value};
    return true;
}

/* `( a, b, c=d )` into items and keywords of `n`. */
static bool parse_arguments(struct parser *p, struct node *n)
{
    struct node_list list = {0};
    if (!parser_expect(p, '(', "expected '('"))
        return false;
    while (!parser_is(p, ')')) {
        if ((list.count || n->n_keywords) && !parser_expect(p, ',', "expected ',' or ')'"))
            return false;
        if (parser_is(p, ')'))
            break;
        if (parser_is(p, '*') || parser_is(p, OPERATOR('*', '*')))
            return parser_fail(p, "calls with * and ** are not supported");
        const struct token *name = parser_now(p);
        const struct token *next = name->kind == TOKEN_NAME ? name + 1 : name;
        if (name->kind == TOKEN_NAME && next->kind == TOKEN_OPERATOR && next->op == '=') {
            p->at += 2;
            if (!add_keyword(p, n, name))
                return false;
            continue;
        }
        if (n->n_keywords)
            return parser_fail(p, "a positional argument follows a keyword argument");
        struct node *item = parse_expression(p);
        if (!item || !node_list_add(p, &list, item))
            return false;
    }
    n->items = list.items;
    n->n_items = list.count;
    return parser_expect(p, ')', "expected ')'");
}

/* A filter or test of `input`, whose name comes next. */
static struct node *new_named(struct parser *p, enum node_kind kind, const char *missing,
                              struct node *input)
{
    const struct token *name = parser_now(p);
    if (name->kind != TOKEN_NAME) {
        parser_fail(p, missing);
        return NULL;
    }
    p->at++;
    struct node *n = node_new(p, kind, name);
    if (!n)
        return NULL;
    n->a = input;
    n->constant = value_text(text_of(name->bytes, name->length, JINJA_MARK_TEMPLATE));
    return n;
}

struct node *parse_filter_name(struct parser *p, struct node *input)
{
    const struct token *name = parser_now(p);
    struct node *n = new_named(p, NODE_FILTER, "expected the name of a filter", input);
    if (!n)
        return NULL;
    n->native = filter_find(name->bytes, name->length);
    if (parser_is(p, '(') && !parse_arguments(p, n))
        return NULL;
    return node_finish(p, n);
}

static struct node *parse_test(struct parser *p, struct node *input)
{
    bool negated = parser_skip_word(p, "not");
    const struct token *name = parser_now(p);
    struct node *n = new_named(p, NODE_TEST, "expected the name of a test", input);
    if (!n)
        return NULL;
    n->native = native_find(native_tests, name->bytes, name->length);
    const struct token *t = parser_now(p);
    bool word = t->kind == TOKEN_NAME && !parser_is_word(p, "else") && !parser_is_word(p, "or") &&
                !parser_is_word(p, "and");
    if (parser_is(p, '(')) {
        if (!parse_arguments(p, n))
            return NULL;
    } else if (word || t->kind == TOKEN_STRING || t->kind == TOKEN_INTEGER ||
               t->kind == TOKEN_FLOAT || parser_is(p, '[') || parser_is(p, '{')) {
        if (parser_is_word(p, "is")) {
            parser_fail(p, "tests with 'is' cannot be chained");
            return NULL;
        }
        /* `x is divisibleby 3`: one argument without brackets. */
        struct node_list list = {0};
        struct node *argument = parse_unary(p, false);
        if (!argument || !node_list_add(p, &list, argument))
            return NULL;
        n->items = list.items;
        n->n_items = list.count;
    }
    n = node_finish(p, n);
    return negated && n ? unary(p, NODE_NOT, n, name) : n;
}

static struct node *parse_call(struct parser *p, struct node *callee)
{
    struct node *n = node_new(p, NODE_CALL, parser_now(p));
    if (!n)
        return NULL;
    n->a = callee;
    return parse_arguments(p, n) ? node_finish(p, n) : NULL;
}

struct node *parse_filters(struct parser *p, struct node *input)
{
    while (input) {
        if (parser_skip(p, '|'))
            input = parse_filter_name(p, input);
        else if (parser_skip_word(p, "is"))
            input = parse_test(p, input);
        else if (parser_is(p, '('))
            input = parse_call(p, input);
        else
            break;
    }
    return input;
}

/* ---- subscripts */

static struct node *parse_slice(struct parser *p, struct node *object, struct node *start)
{
    struct node *n = node_new(p, NODE_SLICE, parser_now(p));
    struct node **parts = n ? arena_take(&p->program->memory, 3 * sizeof *parts) : NULL;
    if (!parts)
        return NULL;
    memset(parts, 0, 3 * sizeof *parts);
    parts[0] = start;
    for (int i = 1; i < 3 && parser_skip(p, ':'); i++) {
        if (parser_is(p, ':') || parser_is(p, ']'))
            continue;
        parts[i] = parse_expression(p);
        if (!parts[i])
            return NULL;
    }
    n->a = object;
    n->items = parts;
    n->n_items = 3;
    return node_finish(p, n);
}

static struct node *parse_subscript(struct parser *p, struct node *object)
{
    const struct token *at = parser_now(p);
    struct node *start = NULL, *n;
    if (!parser_is(p, ':')) {
        start = parse_tuple(p, true);
        if (!start)
            return NULL;
    }
    if (parser_is(p, ':'))
        n = parse_slice(p, object, start);
    else
        n = binary(p, NODE_ITEM, 0, object, start, at);
    return n && parser_expect(p, ']', "expected ']'") ? n : NULL;
}

static struct node *parse_attribute(struct parser *p, struct node *object)
{
    const struct token *t = parser_now(p);
    if (t->kind == TOKEN_INTEGER) {
        p->at++;
        return binary(p, NODE_ITEM, 0, object,
                      constant(p, value_int(t->integer, JINJA_MARK_TEMPLATE), t), t);
    }
    if (t->kind != TOKEN_NAME) {
        parser_fail(p, "expected a name or number behind the dot");
        return NULL;
    }
    p->at++;
    struct node *n = node_new(p, NODE_ATTRIBUTE, t);
    if (!n)
        return NULL;
    n->a = object;
    n->constant = value_text(text_of(t->bytes, t->length, JINJA_MARK_TEMPLATE));
    return node_finish(p, n);
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
    while (n) {
        if (parser_skip(p, '.'))
            n = parse_attribute(p, n);
        else if (parser_skip(p, '['))
            n = parse_subscript(p, n);
        else if (parser_is(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* ---- primaries */

static struct node *parse_name(struct parser *p)
{
    const struct token *t = parser_now(p);
    p->at++;
    if (text_is(&(struct text){.bytes = t->bytes, .length = t->length}, "not", 3)) {
        p->at--;
        parser_fail(p, "'not' cannot stand here");
        return NULL;
    }
    struct text name = text_of(t->bytes, t->length, JINJA_MARK_TEMPLATE);
    bool is_true = text_is(&name, "true", 4) || text_is(&name, "True", 4);
    if (is_true || text_is(&name, "false", 5) || text_is(&name, "False", 5))
        return constant(p, value_bool(is_true, JINJA_MARK_TEMPLATE), t);
    if (text_is(&name, "none", 4) || text_is(&name, "None", 4))
        return constant(p, value_none(), t);
    struct node *n = node_new(p, NODE_NAME, t);
    if (!n || !parser_name(p, t, &n->name))
        return NULL;
    n->constant = value_text(name);
    return node_finish(p, n);
}

/* 'a' 'b' is one string, as in Python. */
static struct node *parse_string(struct parser *p)
{
    const struct token *first = parser_now(p);
    size_t length = 0, n = 0;
    while (first[n].kind == TOKEN_STRING)
        length += first[n++].length;
    p->at += n;
    if (n == 1)
        return constant(p, value_text(text_of(first->bytes, first->length, JINJA_MARK_TEMPLATE)),
                        first);
    char *joined = arena_take(&p->program->memory, length);
    if (!joined) {
        parser_fail(p, "the template is too large to compile");
        return NULL;
    }
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(joined + used, first[i].bytes, first[i].length);
        used += first[i].length;
    }
    return constant(p, value_text(text_of(joined, length, JINJA_MARK_TEMPLATE)), first);
}

static struct node *parse_list(struct parser *p, const struct token *at)
{
    struct node_list list = {0};
    struct node *n = node_new(p, NODE_LIST, at);
    while (n && !parser_is(p, ']')) {
        if (list.count && !parser_expect(p, ',', "expected ',' or ']'"))
            return NULL;
        if (parser_is(p, ']'))
            break;
        struct node *item = parse_expression(p);
        if (!item || !node_list_add(p, &list, item))
            return NULL;
    }
    if (!n || !parser_expect(p, ']', "expected ']'"))
        return NULL;
    return with_items(p, n, &list);
}

static struct node *parse_dict(struct parser *p, const struct token *at)
{
    struct node_list list = {0};
    struct node *n = node_new(p, NODE_DICT, at);
    while (n && !parser_is(p, '}')) {
        if (list.count && !parser_expect(p, ',', "expected ',' or '}'"))
            return NULL;
        if (parser_is(p, '}'))
            break;
        struct node *key = parse_expression(p);
        if (!key || !parser_expect(p, ':', "expected ':'"))
            return NULL;
        struct node *value = parse_expression(p);
        if (!value || !node_list_add(p, &list, key) || !node_list_add(p, &list, value))
            return NULL;
    }
    if (!n || !parser_expect(p, '}', "expected '}'"))
        return NULL;
    return with_items(p, n, &list);
}

static struct node *parse_brackets(struct parser *p, const struct token *at)
{
    if (parser_skip(p, ')')) {
        struct node *n = node_new(p, NODE_TUPLE, at);
        return n ? node_finish(p, n) : NULL;
    }
    struct node *inside = parse_tuple(p, true);
    return inside && parser_expect(p, ')', "expected ')'") ? inside : NULL;
}

static struct node *parse_primary(struct parser *p)
{
    const struct token *t = parser_now(p);
    switch (t->kind) {
    case TOKEN_NAME:
        return parse_name(p);
    case TOKEN_STRING:
        return parse_string(p);
    case TOKEN_INTEGER:
        p->at++;
        return constant(p, value_int(t->integer, JINJA_MARK_TEMPLATE), t);
    case TOKEN_FLOAT:
        p->at++;
        return constant(p, value_float(t->number, JINJA_MARK_TEMPLATE), t);
    default:
        break;
    }
    if (parser_skip(p, '('))
        return parse_brackets(p, t);
    if (parser_skip(p, '['))
        return parse_list(p, t);
    if (parser_skip(p, '{'))
        return parse_dict(p, t);
    parser_fail(p, t->kind == TOKEN_END ? "the template ends inside of an expression"
                                        : "expected an expression");
    return NULL;
}

/* ---- operators */

static struct node *parse_unary(struct parser *p, bool with_filters)
{
    const struct token *t = parser_now(p);
    struct node *n;
    if (!parser_enter(p))
        return NULL;
    if (parser_skip(p, '-'))
        n = unary(p, NODE_NEGATE, parse_unary(p, false), t);
    else if (parser_skip(p, '+'))
        n = unary(p, NODE_POSITIVE, parse_unary(p, false), t);
    else
        n = parse_primary(p);
    n = parse_postfix(p, n);
    if (with_filters)
        n = parse_filters(p, n);
    p->nesting--;
    return n;
}

static unsigned level_of(unsigned op)
{
    switch (op) {
    case '+':
    case '-':
        return 1;
    case '~':
        return 2;
    case '*':
    case '/':
    case '%':
    case OPERATOR('/', '/'):
        return 3;
    case OPERATOR('*', '*'):
        return 4;
    default:
        return 0;
    }
}

/* All of them associate to the left, the power too. */
static struct node *parse_binary(struct parser *p, unsigned level)
{
    struct node *left = level > 4 ? parse_unary(p, true) : parse_binary(p, level + 1);
    while (level <= 4 && left) {
        const struct token *t = parser_now(p);
        if (t->kind != TOKEN_OPERATOR || level_of(t->op) != level)
            break;
        p->at++;
        left = binary(p, NODE_BINARY, t->op, left, parse_binary(p, level + 1), t);
    }
    return left;
}

/* The comparison operator here, skipped; 0 if there is none. */
static unsigned skip_comparison(struct parser *p)
{
    static const unsigned ops[] = {
        OPERATOR('=', '='), OPERATOR('!', '='), OPERATOR('<', '='), OPERATOR('>', '='), '<', '>'};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (parser_skip(p, ops[i]))
            return ops[i];
    if (parser_skip_word(p, "in"))
        return OPERATOR_IN;
    if (parser_is_word(p, "not") && parser_now(p)[1].kind == TOKEN_NAME) {
        p->at++;
        if (parser_skip_word(p, "in"))
            return OPERATOR_NOT_IN;
        p->at--;
    }
    return 0;
}

static struct node *parse_compare(struct parser *p)
{
    const struct token *at = parser_now(p);
    struct node *first = parse_binary(p, 1);
    unsigned op = first ? skip_comparison(p) : 0;
    if (!op)
        return first;
    struct node_list list = {0};
    struct node *n = node_new(p, NODE_COMPARE, at);
    uint16_t *ops = NULL;
    uint32_t capacity = 0;
    for (; n && op; op = skip_comparison(p)) {
        if (list.count == capacity) {
            capacity = capacity ? capacity * 2 : 2;
            uint16_t *more = arena_take(&p->program->memory, capacity * sizeof *more);
            if (!more)
                return NULL;
            if (list.count)
                memcpy(more, ops, list.count * sizeof *more);
            ops = more;
        }
        ops[list.count] = (uint16_t)op;
        struct node *operand = parse_binary(p, 1);
        if (!operand || !node_list_add(p, &list, operand))
            return NULL;
    }
    if (!n)
        return NULL;
    n->a = first;
    n->ops = ops;
    return with_items(p, n, &list);
}

static struct node *parse_not(struct parser *p)
{
    const struct token *t = parser_now(p);
    if (!parser_is_word(p, "not"))
        return parse_compare(p);
    if (!parser_enter(p))
        return NULL;
    p->at++;
    struct node *n = unary(p, NODE_NOT, parse_not(p), t);
    p->nesting--;
    return n;
}

static struct node *parse_and(struct parser *p)
{
    struct node *left = parse_not(p);
    for (const struct token *t = parser_now(p); left && parser_skip_word(p, "and");
         t = parser_now(p))
        left = binary(p, NODE_AND, 0, left, parse_not(p), t);
    return left;
}

static struct node *parse_or(struct parser *p)
{
    struct node *left = parse_and(p);
    for (const struct token *t = parser_now(p); left && parser_skip_word(p, "or");
         t = parser_now(p))
        left = binary(p, NODE_OR, 0, left, parse_and(p), t);
    return left;
}

struct node *parse_expression_no_choice(struct parser *p)
{
    return parse_or(p);
}

struct node *parse_expression(struct parser *p)
{
    if (!parser_enter(p))
        return NULL;
    struct node *value = parse_or(p);
    const struct token *t = parser_now(p);
    while (value && parser_skip_word(p, "if")) {
        struct node *n = node_new(p, NODE_CHOICE, t);
        if (!n)
            return NULL;
        n->a = value;
        n->b = parse_or(p);
        if (!n->b)
            return NULL;
        if (parser_skip_word(p, "else") && !(n->c = parse_expression(p)))
            return NULL;
        value = node_finish(p, n);
        t = parser_now(p);
    }
    p->nesting--;
    return value;
}

static bool ends_tuple(const struct parser *p)
{
    unsigned kind = parser_now(p)->kind;
    return kind == TOKEN_OUTPUT_CLOSE || kind == TOKEN_BLOCK_CLOSE || parser_is(p, ')') ||
           parser_is(p, ']') || parser_is(p, '=') || parser_is_word(p, "in");
}

struct node *parse_tuple(struct parser *p, bool with_choice)
{
    const struct token *at = parser_now(p);
    struct node *first = with_choice ? parse_expression(p) : parse_or(p);
    if (!first || !parser_is(p, ','))
        return first;
    struct node_list list = {0};
    struct node *n = node_new(p, NODE_TUPLE, at);
    if (!n || !node_list_add(p, &list, first))
        return NULL;
    while (parser_skip(p, ',') && !ends_tuple(p)) {
        struct node *item = with_choice ? parse_expression(p) : parse_or(p);
        if (!item || !node_list_add(p, &list, item))
            return NULL;
    }
    return with_items(p, n, &list);
}

static struct node *parse_target_name(struct parser *p, bool with_attribute)
{
    static const char *const reserved[] = {"true",  "false", "none", "True",
                                           "False", "None",  "not",  NULL};
    const struct token *t = parser_now(p);
    for (int i = 0; reserved[i]; i++)
        if (parser_is_word(p, reserved[i])) {
            parser_fail(p, "a value cannot be assigned to this name");
            return NULL;
        }
    if (t->kind != TOKEN_NAME) {
        parser_fail(p, "expected a name to assign to");
        return NULL;
    }
    struct node *n = parse_name(p);
    if (n && with_attribute && parser_skip(p, '.')) {
        if (parser_now(p)->kind != TOKEN_NAME) {
            parser_fail(p, "expected the name of an attribute");
            return NULL;
        }
        n = parse_attribute(p, n);
    }
    return n;
}

struct node *parse_target(struct parser *p, bool with_attribute)
{
    const struct token *at = parser_now(p);
    bool brackets = parser_skip(p, '(');
    struct node_list list = {0};
    struct node *first = parse_target_name(p, with_attribute);
    if (!first)
        return NULL;
    bool tuple = parser_is(p, ',');
    if (tuple) {
        if (!node_list_add(p, &list, first))
            return NULL;
        while (parser_skip(p, ',') && !ends_tuple(p)) {
            struct node *n = parse_target_name(p, with_attribute);
            if (!n || !node_list_add(p, &list, n))
                return NULL;
        }
    }
    if (brackets && !parser_expect(p, ')', "expected ')'"))
        return NULL;
    if (!tuple)
        return first;
    struct node *n = node_new(p, NODE_TUPLE, at);
    return n ? with_items(p, n, &list) : NULL;
}
