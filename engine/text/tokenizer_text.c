/* Characters and bytes as the tokenizers see them: UTF-8 lengths and GPT-2's byte alphabet. */
#include "engine/text/tokenizer_vocab.h"

size_t vocab_character_length(const char *text, size_t left)
{
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    size_t n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (n > left)
        return 0;
    /* The second byte's range rules out overlong forms, surrogates and code points above 0x10FFFF.
     */
    unsigned low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

/* Printable bytes of Latin-1 stand for themselves; the other 68, in rising order, for 0x100, 0x101,
 * ... */
static bool is_own_character(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

uint32_t vocab_byte_to_character(uint8_t byte)
{
    if (is_own_character(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte < 0xA1)
        return 0x100u + 0x21 + (byte - 0x7Fu);
    return 0x143; /* the soft hyphen, 0xAD, is the last */
}

int vocab_character_to_byte(uint32_t c)
{
    if (c < 0x100)
        return is_own_character(c) ? (int)c : -1;
    if (c <= 0x120)
        return (int)(c - 0x100);
    if (c < 0x143)
        return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}
