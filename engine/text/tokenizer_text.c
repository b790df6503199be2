/* GPT-2's alphabet of bytes. */
#include "engine/text/tokenizer_vocab.h"

/* Printable bytes of Latin-1 are themselves; the other 68, in rising order, are 0x100, 0x101,
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
