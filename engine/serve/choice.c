/* Choices: see choice.h. */
#include "engine/serve/choice.h"

#include <stdlib.h>
#include <string.h>

#include "engine/serve/request.h"

enum { TOPS = LOGPROBS_MAX_TOP + 1 };

bool choice_init(struct choice *s, struct request *owner, uint32_t index, uint32_t n_vocab,
                 size_t max_token_bytes, struct error *e)
{
    const struct request_options *options = &owner->options;
    memset(s, 0, sizeof *s);
    s->owner = owner;
    s->index = index;
    s->hit = -1;
    s->picked = PICK_NONE;
    s->sampler =
        sampler_new(&options->sampling, index, n_vocab, options->prompt, options->n_prompt, e);
    if (!s->sampler)
        return false;
    /* Text held for stop strings, one token as the detokenizer may write it, and its end. */
    s->text_room = (uint32_t)(STOP_MAX_BYTES + 4 + max_token_bytes * 3 + 24);
    s->text = malloc(s->text_room);
    if (!s->text)
        return error_set_memory(e, "text of a choice", s->text_room);
    return true;
}

void choice_clear(struct choice *s)
{
    cache_sequence_free(s->cache);
    sampler_free(s->sampler);
    free(s->generated);
    free(s->text);
    free(s->waiting);
    free(s->ends);
    free(s->waiting_tops);
    memset(s, 0, sizeof *s);
}

uint32_t choice_n_tokens(const struct choice *s)
{
    return s->owner->options.n_prompt + s->n_generated;
}

int32_t choice_token(const struct choice *s, uint32_t index)
{
    uint32_t n_prompt = s->owner->options.n_prompt;
    return index < n_prompt ? s->owner->options.prompt[index] : s->generated[index - n_prompt];
}

static bool reserve_waiting(struct choice *s, uint32_t room)
{
    struct event_token *waiting = realloc(s->waiting, room * sizeof *waiting);
    s->waiting = waiting ? waiting : s->waiting;
    uint64_t *ends = realloc(s->ends, room * sizeof *ends);
    s->ends = ends ? ends : s->ends;
    bool reserved = waiting && ends;
    if (s->owner->options.n_logprobs > 0) {
        struct top_logprob *tops = realloc(s->waiting_tops, (size_t)room * TOPS * sizeof *tops);
        s->waiting_tops = tops ? tops : s->waiting_tops;
        reserved &= tops != NULL;
        // cppcheck-suppress memleak ; the sequence owns what it was given above
    }
    if (reserved)
        s->waiting_room = room;
    // cppcheck-suppress memleak ; the sequence owns what it was given above
    return reserved;
}

bool choice_reserve(struct choice *s, struct error *e)
{
    if (s->n_generated == s->capacity) {
        uint32_t capacity = s->capacity ? s->capacity * 2 : 64;
        int32_t *generated = realloc(s->generated, (size_t)capacity * sizeof *generated);
        if (!generated)
            return error_set_memory(e, "generated tokens", (uint64_t)capacity * 4);
        s->generated = generated;
        s->capacity = capacity;
    }
    if (s->n_waiting < s->waiting_room)
        return true;
    uint32_t room = s->waiting_room ? s->waiting_room * 2 : 8;
    return reserve_waiting(s, room) ||
           error_set_memory(e, "log probabilities",
                            (uint64_t)room * TOPS * sizeof *s->waiting_tops);
}

/* Bytes of the character that begins with this byte. */
static uint32_t character_bytes(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

/* Appends the n bytes behind n_text: they complete tokens that waited for a character, and are
 * searched for stop strings from min_tokens on. */
static void add_text(struct choice *s, uint32_t n)
{
    const char *added = s->text + s->n_text;
    uint64_t end = s->n_emitted + s->n_text;
    if (n > 0)
        for (uint32_t i = s->n_waiting; i > 0 && s->ends[i - 1] == UNKNOWN_END; i--)
            s->ends[i - 1] = end + character_bytes((unsigned char)added[0]);
    bool early = s->n_generated <= s->owner->options.min_tokens;
    if (s->owner->stops && !early && s->hit < 0) {
        struct stop_hit hit = stop_push(s->owner->stops, &s->stop, added, n);
        s->hit = hit.string;
        if (hit.string >= 0) {
            s->hit_cut = s->n_text + hit.before;
            if (!s->owner->options.include_stop_string)
                s->hit_cut -= hit.length < s->hit_cut ? hit.length : s->hit_cut;
        }
    }
    s->n_text += n;
}

void choice_add_token(struct choice *s, const struct tokenizer *tokenizer,
                      const struct event_token *token)
{
    s->generated[s->n_generated++] = token->token;
    uint32_t n = (uint32_t)detokenizer_push(&s->detokenizer, tokenizer, token->token,
                                            s->owner->options.show_control, s->text + s->n_text);
    add_text(s, n);
    s->waiting[s->n_waiting] = *token;
    if (token->n_top)
        memcpy(&s->waiting_tops[s->n_waiting * TOPS], token->top,
               token->n_top * sizeof *token->top);
    s->ends[s->n_waiting++] = s->detokenizer.n_pending ? UNKNOWN_END : s->n_emitted + s->n_text;
}

void choice_add_end(struct choice *s)
{
    add_text(s, (uint32_t)detokenizer_finish(&s->detokenizer, s->text + s->n_text));
}

/* Bytes of text that may be sent now, cut at a whole character. */
static uint32_t leaving(const struct choice *s, bool all)
{
    uint32_t n = s->n_text;
    if (s->hit >= 0)
        n = s->hit_cut;
    else if (all)
        return n;
    else if (s->owner->stops) {
        uint32_t held = stop_held(s->owner->stops, &s->stop);
        n -= held < n ? held : n;
    }
    while (n > 0 && n < s->n_text && ((unsigned char)s->text[n] & 0xC0) == 0x80)
        n--;
    return n;
}

bool choice_emit(struct choice *s, bool all)
{
    uint32_t n_text = leaving(s, all), n_tokens = 0;
    while (n_tokens < s->n_waiting && s->ends[n_tokens] <= s->n_emitted + n_text) {
        s->waiting[n_tokens].top = s->waiting_tops ? &s->waiting_tops[n_tokens * TOPS] : NULL;
        n_tokens++;
    }
    if (n_text == 0 && n_tokens == 0)
        return true;
    struct request_event event = {.kind = EVENT_TEXT,
                                  .choice = s->index,
                                  .text = s->text,
                                  .n_text = n_text,
                                  .tokens = s->waiting,
                                  .n_tokens = n_tokens,
                                  .stop_token = -1,
                                  .stop_string = -1};
    if (!request_emit(s->owner, &event))
        return false;
    s->n_text -= n_text;
    s->n_emitted += n_text;
    s->hit_cut -= s->hit >= 0 ? n_text : 0;
    memmove(s->text, s->text + n_text, s->n_text);
    s->n_waiting -= n_tokens;
    memmove(s->waiting, s->waiting + n_tokens, s->n_waiting * sizeof *s->waiting);
    memmove(s->ends, s->ends + n_tokens, s->n_waiting * sizeof *s->ends);
    if (s->waiting_tops)
        memmove(s->waiting_tops, s->waiting_tops + (size_t)n_tokens * TOPS,
                (size_t)s->n_waiting * TOPS * sizeof *s->waiting_tops);
    return true;
}
