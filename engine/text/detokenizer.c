/* Streaming detokenisation: see tokenizer.h. Pending bytes (one to three) are always the valid
 * start of an incomplete character. A byte that cannot continue it turns them into one U+FFFD: this
 * is Unicode's rule of maximal subparts, as in browsers and Python. */
#include <string.h>

#include "config/base/utf8.h"
#include "engine/text/tokenizer_vocab.h"

static size_t put_replacement(char *out)
{
    memcpy(out, UTF8_REPLACEMENT, 3);
    return 3;
}

/* Whether `byte` can continue the pending ones. */
static bool continues(const struct detokenizer *d, uint8_t byte)
{
    return d->n_pending == 1 ? utf8_may_follow(d->pending[0], byte) : (byte & 0xC0) == 0x80;
}

static size_t push_byte(struct detokenizer *d, uint8_t byte, char *out)
{
    size_t written = 0;
    if (d->n_pending > 0 && !continues(d, byte)) {
        written = put_replacement(out);
        d->n_pending = 0;
    }
    if (d->n_pending == 0 && utf8_length_by_first(byte) == 0)
        return written + put_replacement(out + written);
    d->pending[d->n_pending++] = byte;
    if (d->n_pending < utf8_length_by_first(d->pending[0]))
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
