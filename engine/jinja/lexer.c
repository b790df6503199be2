/* Template source to tokens, with Jinja's rules for white space under trim_blocks and
 * lstrip_blocks:
 *
 *   - the first newline after a block or comment is removed;
 *   - blanks between the start of a line and a block or comment are removed;
 *   - a minus sign inside a tag removes all white space on that side, a plus sign disables the two
 *     rules above. */
#include "engine/jinja/lexer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja/ast.h"
#include "engine/jinja/character.h"
#include "engine/jinja/jinja.h"
#include "engine/jinja/literal.h"

struct lexer {
    struct arena *memory;
    const char *source;
    size_t length, at;
    size_t counted;     /* offset up to which lines were counted */
    int32_t line;       /* there */
    size_t line_start;  /* offset of that line */
    bool line_starting; /* the last thing read ended with a newline */
    struct token *tokens;
    size_t n_tokens, capacity;
    struct error *error;
};

bool template_syntax_error(struct error *e, int32_t line, int32_t column, const char *format, ...)
{
    char message[400], where[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    snprintf(where, sizeof where, "line %d, column %d", (int)line, (int)column);
    return error_set(e, "template_error", where, "%s (line %d, column %d of the template)", message,
                     (int)line, (int)column);
}

static void locate(struct lexer *l, size_t offset)
{
    for (; l->counted < offset; l->counted++)
        if (l->source[l->counted] == '\n') {
            l->line++;
            l->line_start = l->counted + 1;
        }
}

static bool fail(struct lexer *l, size_t offset, const char *message)
{
    locate(l, offset);
    return template_syntax_error(l->error, l->line, (int32_t)(offset - l->line_start) + 1, "%s",
                                 message);
}

/* The token is placed at `offset`, which never goes backwards. NULL when memory is short. */
static struct token *add(struct lexer *l, enum token_kind kind, size_t offset)
{
    if (l->n_tokens == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 256;
        struct token *tokens = arena_take(l->memory, capacity * sizeof *tokens);
        if (!tokens) {
            fail(l, offset, "the template is too large to compile");
            return NULL;
        }
        if (l->n_tokens)
            memcpy(tokens, l->tokens, l->n_tokens * sizeof *tokens);
        l->tokens = tokens;
        l->capacity = capacity;
    }
    locate(l, offset);
    struct token *t = &l->tokens[l->n_tokens++];
    *t = (struct token){.kind = (uint8_t)kind,
                        .line = l->line,
                        .column = (int32_t)(offset - l->line_start) + 1,
                        .bytes = l->source + offset};
    return t;
}

static bool starts(const struct lexer *l, size_t at, const char *word)
{
    size_t n = strlen(word);
    return l->length - at >= n && memcmp(l->source + at, word, n) == 0;
}

static size_t skip_space(const struct lexer *l, size_t at)
{
    uint32_t code;
    while (at < l->length) {
        size_t n = character_read(l->source + at, l->length - at, &code);
        if (!character_is_space(code))
            break;
        at += n;
    }
    return at;
}

static size_t end_of_text(const struct lexer *l, size_t start, size_t end)
{
    uint32_t code;
    while (end > start) {
        size_t n = character_read_back(l->source + start, end - start, &code);
        if (!character_is_space(code))
            break;
        end -= n;
    }
    return end;
}

/* Adds the text [start, end) before a tag; `sign` is the character after the tag's opening. */
static bool add_text(struct lexer *l, size_t start, size_t end, char sign, bool is_output)
{
    if (sign == '-') {
        end = end_of_text(l, start, end);
    } else if (sign != '+' && !is_output) {
        size_t line = end;
        while (line > start && l->source[line - 1] != '\n')
            line--;
        if ((line > start || l->line_starting) && end_of_text(l, line, end) == line)
            end = line;
    }
    if (end == start)
        return true;
    struct token *t = add(l, TOKEN_TEXT, start);
    if (!t)
        return false;
    t->length = end - start;
    return true;
}

/* Skips white space after a block or comment; `sign` is the character before its closing. */
static void after_tag(struct lexer *l, char sign)
{
    if (sign == '-')
        l->at = skip_space(l, l->at);
    else if (sign != '+' && starts(l, l->at, "\n"))
        l->at++;
    l->line_starting = l->source[l->at - 1] == '\n';
}

static bool read_comment(struct lexer *l, size_t open)
{
    const char *close = memmem(l->source + l->at, l->length - l->at, "#}", 2);
    if (!close)
        return fail(l, open, "a comment {# has no end #}");
    size_t at = (size_t)(close - l->source);
    char sign = at > l->at ? l->source[at - 1] : 0;
    l->at = at + 2;
    after_tag(l, sign);
    return true;
}

/* Matches `{% word %}` at `at` (behind the `{%` and its sign): the offset behind the closing, or 0.
 */
static size_t match_word_tag(const struct lexer *l, size_t at, const char *word, char *sign)
{
    at = skip_space(l, at);
    if (!starts(l, at, word))
        return 0;
    at = skip_space(l, at + strlen(word));
    *sign = 0;
    if (at < l->length && (l->source[at] == '-' || l->source[at] == '+'))
        *sign = l->source[at++];
    return starts(l, at, "%}") ? at + 2 : 0;
}

static bool read_raw(struct lexer *l, size_t open, size_t body, char sign)
{
    if (sign == '-')
        body = skip_space(l, body);
    l->line_starting = sign == '-' && l->source[body - 1] == '\n';
    for (size_t at = body; at + 1 < l->length; at++) {
        if (!starts(l, at, "{%"))
            continue;
        size_t inside = at + 2;
        char left = inside < l->length ? l->source[inside] : 0, right;
        if (left == '-' || left == '+')
            inside++;
        size_t behind = match_word_tag(l, inside, "endraw", &right);
        if (!behind)
            continue;
        if (!add_text(l, body, at, left, false))
            return false;
        l->at = behind;
        after_tag(l, right);
        return true;
    }
    return fail(l, open, "a {% raw %} has no {% endraw %}");
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

static bool read_string(struct lexer *l)
{
    size_t start = l->at;
    char quote = l->source[start];
    size_t end = start + 1;
    bool escaped = false;
    while (end < l->length && l->source[end] != quote) {
        if (l->source[end] == '\\') {
            escaped = true;
            end++;
        }
        end++;
    }
    if (end >= l->length)
        return fail(l, start, "a string has no closing quote");
    struct token *t = add(l, TOKEN_STRING, start);
    if (!t)
        return false;
    t->bytes = l->source + start + 1;
    t->length = end - start - 1;
    l->at = end + 1;
    if (!escaped)
        return true;
    char *decoded = arena_take(l->memory, t->length);
    if (!decoded)
        return fail(l, start, "the template is too large to compile");
    if (!literal_string(t->bytes, t->length, decoded, &t->length))
        return fail(l, start, "a string has an escape that is not valid");
    t->bytes = decoded;
    return true;
}

static bool read_number(struct lexer *l)
{
    size_t start = l->at;
    struct literal_number number;
    bool after_dot = start > 0 && l->source[start - 1] == '.';
    size_t n = literal_number_read(l->source + start, l->length - start, !after_dot, &number);
    if (n == 0)
        return fail(l, start, "an integer is too large (64 bits)");
    struct token *t = add(l, number.is_float ? TOKEN_FLOAT : TOKEN_INTEGER, start);
    if (!t)
        return false;
    t->length = n;
    if (number.is_float)
        t->number = number.number;
    else
        t->integer = number.integer;
    l->at += n;
    return true;
}

static bool read_operator(struct lexer *l, char *brackets, size_t *n_open)
{
    static const char two[][3] = {"**", "//", "==", "!=", ">=", "<="};
    char c = l->source[l->at];
    unsigned op = 0;
    for (size_t i = 0; i < sizeof two / sizeof two[0] && !op; i++)
        if (starts(l, l->at, two[i]))
            op = OPERATOR(two[i][0], two[i][1]);
    if (!op && c && strchr("+-/*%~[](){}><=.:|,;", c))
        op = (unsigned char)c;
    if (!op)
        return fail(l, l->at, "this character has no meaning here");
    if (op == '(' || op == '[' || op == '{') {
        if (*n_open == JINJA_MAX_NESTING)
            return fail(l, l->at, "brackets are nested too deeply");
        brackets[(*n_open)++] = op == '(' ? ')' : op == '[' ? ']' : '}';
    } else if (op == ')' || op == ']' || op == '}') {
        if (*n_open == 0 || brackets[--*n_open] != c)
            return fail(l, l->at, "a closing bracket does not fit its opening");
    }
    struct token *t = add(l, TOKEN_OPERATOR, l->at);
    if (!t)
        return false;
    t->op = (uint16_t)op;
    t->length = op > 0xFF ? 2 : 1;
    l->at += t->length;
    return true;
}

/* The closing of a tag at l->at, if it is one: adds its token and goes behind it. */
static bool read_closing(struct lexer *l, bool is_output, bool *closed)
{
    const char *closing = is_output ? "}}" : "%}";
    size_t at = l->at;
    char sign = 0;
    if (l->source[at] == '-' || (l->source[at] == '+' && !is_output))
        sign = l->source[at++];
    *closed = starts(l, at, closing);
    if (!*closed)
        return true;
    if (!add(l, is_output ? TOKEN_OUTPUT_CLOSE : TOKEN_BLOCK_CLOSE, l->at))
        return false;
    l->at = at + 2;
    if (!is_output) {
        after_tag(l, sign);
        return true;
    }
    if (sign == '-')
        l->at = skip_space(l, l->at);
    l->line_starting = l->source[l->at - 1] == '\n';
    return true;
}

/* From behind `{{` or `{%` to behind its closing. */
static bool read_tag(struct lexer *l, size_t open, bool is_output)
{
    char brackets[JINJA_MAX_NESTING];
    size_t n_open = 0;
    if (!add(l, is_output ? TOKEN_OUTPUT_OPEN : TOKEN_BLOCK_OPEN, open))
        return false;
    for (;;) {
        l->at = skip_space(l, l->at);
        if (l->at == l->length)
            return fail(l, open, is_output ? "a {{ has no }}" : "a {% has no %}");
        bool closed = false;
        if (n_open == 0 && !read_closing(l, is_output, &closed))
            return false;
        if (closed)
            return true;
        char c = l->source[l->at];
        bool ok;
        if (is_name_start(c)) {
            struct token *t = add(l, TOKEN_NAME, l->at);
            while (t && l->at < l->length &&
                   (is_name_start(l->source[l->at]) ||
                    (l->source[l->at] >= '0' && l->source[l->at] <= '9'))) {
                l->at++;
                t->length++;
            }
            ok = t != NULL;
        } else if (c >= '0' && c <= '9') {
            ok = read_number(l);
        } else if (c == '"' || c == '\'') {
            ok = read_string(l);
        } else {
            ok = read_operator(l, brackets, &n_open);
        }
        if (!ok)
            return false;
    }
}

/* Text up to the next tag, and the tag. */
static bool read_part(struct lexer *l)
{
    size_t open = l->at;
    while (open + 1 < l->length &&
           !(l->source[open] == '{' && (l->source[open + 1] == '{' || l->source[open + 1] == '%' ||
                                        l->source[open + 1] == '#')))
        open++;
    if (open + 1 >= l->length) {
        bool ok = add_text(l, l->at, l->length, '+', false);
        l->at = l->length;
        return ok;
    }
    char kind = l->source[open + 1];
    size_t behind = open + 2;
    char sign = behind < l->length ? l->source[behind] : 0;
    if (sign == '-' || sign == '+')
        behind++;
    if (!add_text(l, l->at, open, sign, kind == '{'))
        return false;
    l->at = behind;
    l->line_starting = false;
    if (kind == '#')
        return read_comment(l, open);
    char raw_sign;
    size_t raw = kind == '%' ? match_word_tag(l, behind, "raw", &raw_sign) : 0;
    if (raw && raw_sign != '+')
        return read_raw(l, open, raw, raw_sign);
    return read_tag(l, open, kind == '{');
}

struct token *lexer_run(struct arena *memory, const char *source, size_t length, size_t *n_tokens,
                        struct error *e)
{
    struct lexer l = {.memory = memory,
                      .source = source,
                      .length = length,
                      .line = 1,
                      .line_starting = true,
                      .error = e};
    while (l.at < l.length)
        if (!read_part(&l))
            return NULL;
    if (!add(&l, TOKEN_END, length))
        return NULL;
    *n_tokens = l.n_tokens;
    return l.tokens;
}
