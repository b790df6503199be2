/* See utf8.h. */
#include "config/base/utf8.h"

size_t utf8_length_by_first(uint8_t first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    return first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
}

/* The second byte's range rules out overlong forms, surrogates and code points above 0x10FFFF. */
bool utf8_may_follow(uint8_t first, uint8_t second)
{
    uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    return second >= low && second <= high;
}

size_t utf8_length(const char *s, size_t left)
{
    const uint8_t *at = (const uint8_t *)s;
    size_t n = utf8_length_by_first(at[0]);
    if (n <= 1)
        return n;
    if (n > left || !utf8_may_follow(at[0], at[1]))
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

size_t utf8_printable_length(const char *s, size_t left)
{
    size_t n = utf8_length(s, left);
    uint32_t code = n == 0 ? 0 : utf8_code(s, n);
    return code < 0x20 || (code >= 0x7F && code < 0xA0) ? 0 : n;
}

uint32_t utf8_code(const char *s, size_t n)
{
    const uint8_t *at = (const uint8_t *)s;
    uint32_t code = n == 1 ? at[0] : at[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++)
        code = code << 6 | (at[i] & 0x3Fu);
    return code;
}

bool utf8_valid(const char *text, size_t length)
{
    for (size_t i = 0, n; i < length; i += n)
        if ((n = utf8_length(text + i, length - i)) == 0)
            return false;
    return true;
}
