/* Streaming detokenisation: see tokenizer.h. Pending bytes are always the valid start of a
 * character that is not yet whole (one to three bytes); a byte that cannot continue it turns them
 * into one U+FFFD, which is Unicode's rule of maximal subparts and what browsers and Python do. */
#include <string.h>

#include "engine/text/tokenizer_vocab.h"

static size_t put_replacement(char *out)
{
    memcpy(out, "\xEF\xBF\xBD", 3);
    return 3;
}

/* The number of bytes of the character that `lead` begins, or 0 when it begins none. */
static size_t length_by_lead(uint8_t lead)
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    return lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
}

/* Whether `byte` can stand after the pending ones. The second byte's range depends on the first. */
static bool continues(const struct detokenizer *d, uint8_t byte)
{
    uint8_t lead = d->pending[0], low = 0x80, high = 0xBF;
    if (d->n_pending == 1) {
        low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    }
    return byte >= low && byte <= high;
}

static size_t push_byte(struct detokenizer *d, uint8_t byte, char *out)
{
    size_t written = 0;
    if (d->n_pending > 0 && !continues(d, byte)) {
        written = put_replacement(out);
        d->n_pending = 0;
    }
    if (d->n_pending == 0 && length_by_lead(byte) == 0)
        return written + put_replacement(out + written);
    d->pending[d->n_pending++] = byte;
    if (d->n_pending < length_by_lead(d->pending[0]))
        return written;
    memcpy(out + written, d->pending, d->n_pending);
    written += d->n_pending;
    d->n_pending = 0;
    return written;
}

size_t detokenizer_push(struct detokenizer *d, const struct tokenizer *t, int32_t token,
                        bool show_control, char *out)
{
    size_t length, written = 0, at = 0;
    const char *bytes = tokenizer_bytes(t, token, show_control, &length);
    enum token_kind kind = tokenizer_kind(t, token);
    if (d->strip_space && length > 0 && kind != TOKEN_CONTROL && kind != TOKEN_UNKNOWN) {
        at = bytes[0] == ' ' && tokenizer_adds_space_prefix(t);
        d->strip_space = false;
    }
    for (; at < length; at++)
        written += push_byte(d, (uint8_t)bytes[at], out + written);
    return written;
}

size_t detokenizer_finish(struct detokenizer *d, char *out)
{
    bool incomplete = d->n_pending > 0;
    d->n_pending = 0;
    return incomplete ? put_replacement(out) : 0;
}
