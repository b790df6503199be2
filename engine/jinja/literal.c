/* Numbers and strings as Python writes and reads them: see literal.h. */
#include "engine/jinja/literal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja/character.h"

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'Z')
        return c - 'A' + 10;
    return 99;
}

/* ---- strings */

/* `\x41`, `\u0041`, `\U00000041`: `*at` is after the letter and moves past the digits. */
static bool read_hex(const char *text, size_t length, size_t *at, size_t n_digits, uint32_t *code)
{
    *code = 0;
    if (length - *at < n_digits)
        return false;
    for (size_t i = 0; i < n_digits; i++) {
        int digit = digit_value(text[(*at)++]);
        if (digit > 15)
            return false;
        *code = *code << 4 | (uint32_t)digit;
    }
    return *code <= 0x10FFFF && !(*code >= 0xD800 && *code < 0xE000);
}

/* The escape after the backslash at text[*at - 1]. `*code` is UINT32_MAX when it means no
 * character. */
static bool read_escape(const char *text, size_t length, size_t *at, uint32_t *code)
{
    static const char letters[] = "abfnrtv\\'\"", meanings[] = "\a\b\f\n\r\t\v\\'\"";
    char c = text[(*at)++];
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        *code = (unsigned char)meanings[letter - letters];
        return true;
    }
    switch (c) {
    case '\n':
        *code = UINT32_MAX;
        return true;
    case 'x':
        return read_hex(text, length, at, 2, code);
    case 'u':
        return read_hex(text, length, at, 4, code);
    case 'U':
        return read_hex(text, length, at, 8, code);
    case 'N':
        return false;
    }
    if (c < '0' || c > '7')
        return false;
    *code = (uint32_t)(c - '0');
    for (int i = 0; i < 2 && *at < length && text[*at] >= '0' && text[*at] <= '7'; i++)
        *code = *code * 8 + (uint32_t)(text[(*at)++] - '0');
    return true;
}

bool literal_string(const char *text, size_t length, char *out, size_t *out_length)
{
    size_t used = 0;
    for (size_t i = 0; i < length;) {
        if (text[i] != '\\') {
            out[used++] = text[i++];
            continue;
        }
        size_t start = i++;
        if (i >= length)
            return false;
        if (!strchr("abfnrtv\\'\"\nxuUN01234567", text[i])) {
            out[used++] = text[start]; /* not an escape: the backslash stays */
            continue;
        }
        uint32_t code;
        if (!read_escape(text, length, &i, &code))
            return false;
        if (code != UINT32_MAX)
            used += character_write(out + used, code);
    }
    *out_length = used;
    return true;
}

/* ---- reading numbers */

/* The offset after digits with single underscores between them; `at` if there are none. */
static size_t skip_digits(const char *text, size_t length, size_t at)
{
    while (at < length && ((text[at] >= '0' && text[at] <= '9') ||
                           (text[at] == '_' && at + 1 < length && text[at + 1] >= '0' &&
                            text[at + 1] <= '9' && at > 0 && text[at - 1] != '_')))
        at++;
    return at;
}

static bool add_digit(int64_t *value, int digit, int base)
{
    return !__builtin_mul_overflow(*value, base, value) &&
           !__builtin_add_overflow(*value, digit, value);
}

static size_t read_float(const char *text, size_t length)
{
    size_t end = skip_digits(text, length, 0), point = end;
    if (end + 1 < length && text[end] == '.' && text[end + 1] >= '0' && text[end + 1] <= '9')
        end = skip_digits(text, length, end + 1);
    if (end < length && (text[end] == 'e' || text[end] == 'E')) {
        size_t exponent = end + 1;
        if (exponent < length && (text[exponent] == '+' || text[exponent] == '-'))
            exponent++;
        if (exponent < length && text[exponent] >= '0' && text[exponent] <= '9')
            end = skip_digits(text, length, exponent);
    }
    return end == point ? 0 : end;
}

size_t literal_number_read(const char *text, size_t length, bool allow_float,
                           struct literal_number *out)
{
    size_t n = allow_float ? read_float(text, length) : 0;
    *out = (struct literal_number){.is_float = n > 0};
    if (n > 0)
        return literal_parse_float(text, n, &out->number) ? n : 0;
    int base = 10;
    char letter = length > 2 && text[0] == '0' ? text[1] | 0x20 : 0;
    if (letter == 'x' || letter == 'o' || letter == 'b')
        base = letter == 'x' ? 16 : letter == 'o' ? 8 : 2;
    if (base != 10 && digit_value(text[2]) < base)
        n = 2;
    else
        base = 10;
    bool zero = base == 10 && text[0] == '0'; /* 007 is not a number in Python */
    for (; n < length; n++) {
        if (text[n] == '_' && n + 1 < length && digit_value(text[n + 1]) < base)
            continue;
        int digit = digit_value(text[n]);
        if (digit >= base || (zero && digit != 0))
            break;
        if (!add_digit(&out->integer, digit, base))
            return 0;
    }
    return n;
}

static void trim(const char **text, size_t *length)
{
    uint32_t code;
    while (*length > 0) {
        size_t n = character_read(*text, *length, &code);
        if (!character_is_space(code))
            break;
        *text += n;
        *length -= n;
    }
    while (*length > 0) {
        size_t n = character_read_back(*text, *length, &code);
        if (!character_is_space(code))
            break;
        *length -= n;
    }
}

bool literal_parse_int(const char *text, size_t length, int base, int64_t *out)
{
    trim(&text, &length);
    bool negative = length > 0 && text[0] == '-';
    if (length > 0 && (text[0] == '-' || text[0] == '+')) {
        text++;
        length--;
    }
    if (length > 2 && text[0] == '0') {
        char letter = text[1] | 0x20;
        int named = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
        if (named && (base == named || base == 0)) {
            base = named;
            text += 2;
            length -= 2;
        }
    }
    if (base == 0)
        base = 10;
    int64_t value = 0;
    bool any = false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '_' && any && i + 1 < length && text[i - 1] != '_')
            continue;
        int digit = digit_value(text[i]);
        if (digit >= base || !add_digit(&value, negative ? -digit : digit, base))
            return false;
        any = true;
    }
    *out = value;
    return any;
}

static bool parse_special(const char *text, size_t length, double *out)
{
    bool negative = length > 0 && text[0] == '-';
    if (length > 0 && (text[0] == '-' || text[0] == '+')) {
        text++;
        length--;
    }
    if ((length == 3 && strncasecmp(text, "inf", 3) == 0) ||
        (length == 8 && strncasecmp(text, "infinity", 8) == 0))
        *out = negative ? -INFINITY : INFINITY;
    else if (length == 3 && strncasecmp(text, "nan", 3) == 0)
        *out = NAN;
    else
        return false;
    return true;
}

bool literal_parse_float(const char *text, size_t length, double *out)
{
    trim(&text, &length);
    if (parse_special(text, length, out))
        return true;
    /* strtod also reads hexadecimal and more; only digits, signs, points and exponents are
     * Python's. Longer texts than this add no precision that anybody writes. */
    char digits[512];
    size_t used = 0;
    if (length == 0 || length >= sizeof digits)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '_' && i > 0 && i + 1 < length && digit_value(text[i - 1]) < 10 &&
            digit_value(text[i + 1]) < 10)
            continue;
        if (!text[i] || !strchr("0123456789+-.eE", text[i]))
            return false;
        digits[used++] = text[i];
    }
    digits[used] = 0;
    char *end;
    *out = strtod(digits, &end);
    return end == digits + used && used > 0;
}

/* ---- writing floats */

size_t literal_write_float(char out[LITERAL_FLOAT_BYTES], double d)
{
    if (isnan(d) || isinf(d))
        return (size_t)snprintf(out, LITERAL_FLOAT_BYTES, "%s",
                                isnan(d) ? "nan"
                                : d < 0  ? "-inf"
                                         : "inf");
    char digits[32]; /* d.ddde-xxx */
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, d);
    while (strtod(digits, NULL) != d && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16)
        return (size_t)snprintf(out, LITERAL_FLOAT_BYTES, "%.*se%c%02d",
                                (int)(strchr(digits, 'e') - digits), digits,
                                exponent < 0 ? '-' : '+', abs(exponent));
    int decimals = precision - exponent;
    return (size_t)snprintf(out, LITERAL_FLOAT_BYTES, "%.*f", decimals > 0 ? decimals : 1, d);
}
