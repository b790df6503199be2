/* UTF-8 walking, white space and letter case: see character.h. */
#include "engine/jinja/character.h"

#include "config/base/utf8.h"

size_t character_read(const char *text, size_t length, uint32_t *code)
{
    size_t n = (unsigned char)text[0] < 0x80 ? 1 : utf8_length(text, length);
    if (code)
        *code = n == 0 ? 0xFFFD : n == 1 ? (unsigned char)text[0] : utf8_code(text, n);
    return n > 0 ? n : 1;
}

static bool continues(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

size_t character_read_back(const char *text, size_t length, uint32_t *code)
{
    for (size_t n = 2; n <= 4 && n <= length && continues(text[length - n + 1]); n++)
        if (character_read(text + length - n, n, code) == n)
            return n;
    return character_read(text + length - 1, 1, code);
}

size_t character_write(char out[4], uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

size_t character_count(const char *text, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; n++)
        i += (unsigned char)text[i] < 0x80 ? 1 : character_read(text + i, length - i, NULL);
    return n;
}

size_t character_offset(const char *text, size_t length, size_t index)
{
    size_t i = 0;
    for (; index > 0 && i < length; index--)
        i += (unsigned char)text[i] < 0x80 ? 1 : character_read(text + i, length - i, NULL);
    return i;
}

bool character_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Outside ASCII all characters count as letters, except those in blocks of signs and symbols. */
bool character_is_alpha(uint32_t c)
{
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c < 0xC0)
        return c == 0xAA || c == 0xB5 || c == 0xBA;
    return c != 0xD7 && c != 0xF7 && !(c >= 0x2000 && c < 0x2C00) && !(c >= 0x3000 && c < 0x3005) &&
           !(c >= 0x300 && c < 0x370) && !(c >= 0xE000 && c < 0xF900) && c < 0x1F000 && c != 0xFFFD;
}

/* Runs in which capital and small letters alternate: {first capital, last capital}. */
static const uint16_t alternating[][2] = {
    {0x100, 0x12E}, {0x132, 0x136}, {0x139, 0x147},   {0x14A, 0x176},
    {0x179, 0x17D}, {0x1CD, 0x1DB}, {0x1DE, 0x1EE},   {0x1F8, 0x21E},
    {0x222, 0x232}, {0x3D8, 0x3EE}, {0x460, 0x480},   {0x48A, 0x4BE},
    {0x4C1, 0x4CD}, {0x4D0, 0x52E}, {0x1E00, 0x1E94}, {0x1EA0, 0x1EFE},
};

static bool alternates(uint32_t c, uint32_t *capital)
{
    for (size_t i = 0; i < sizeof alternating / sizeof alternating[0]; i++) {
        uint32_t first = alternating[i][0];
        if (c >= first && c <= alternating[i][1] + 1u) {
            *capital = first + (c - first) / 2 * 2;
            return true;
        }
    }
    return false;
}

uint32_t character_upper(uint32_t c)
{
    uint32_t capital;
    if (c < 0x80)
        return c >= 'a' && c <= 'z' ? c - 32 : c;
    if (c == 0xB5)
        return 0x39C;
    if (c == 0xFF)
        return 0x178;
    if (c >= 0xE0 && c < 0xFF)
        return c == 0xF7 ? c : c - 32;
    if (c == 0x131)
        return 'I';
    if (c == 0x17F)
        return 'S';
    if (c == 0x3AC)
        return 0x386;
    if (c >= 0x3AD && c <= 0x3AF)
        return c - 37;
    if (c == 0x3C2)
        return 0x3A3;
    if (c >= 0x3B1 && c <= 0x3CB)
        return c - 32;
    if (c == 0x3CC)
        return 0x38C;
    if (c == 0x3CD || c == 0x3CE)
        return c - 63;
    if (c >= 0x430 && c < 0x450)
        return c - 32;
    if (c >= 0x450 && c < 0x460)
        return c - 80;
    if (c >= 0x561 && c <= 0x586)
        return c - 48;
    return alternates(c, &capital) ? capital : c;
}

uint32_t character_lower(uint32_t c)
{
    uint32_t capital;
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
    if (c >= 0xC0 && c < 0xDF)
        return c == 0xD7 ? c : c + 32;
    if (c == 0x178)
        return 0xFF;
    if (c == 0x386)
        return 0x3AC;
    if (c >= 0x388 && c <= 0x38A)
        return c + 37;
    if (c == 0x38C)
        return 0x3CC;
    if (c == 0x38E || c == 0x38F)
        return c + 63;
    if (c >= 0x391 && c <= 0x3AB && c != 0x3A2)
        return c + 32;
    if (c >= 0x400 && c < 0x410)
        return c + 80;
    if (c >= 0x410 && c < 0x430)
        return c + 32;
    if (c >= 0x531 && c <= 0x556)
        return c + 48;
    return alternates(c, &capital) && c == capital ? c + 1 : c;
}
