/* One choice of a request: its tokens, its cache, and the text that waits to be sent. Engine
 * thread.
 *
 * The detokenizer gives whole characters. Text that may be the beginning of a stop string is held:
 *
 *   already sent | text[0 .. n_text)  <- may be sent ... held ->
 *
 * Each token is sent with the event that completes its text. ends[i] is the number of text bytes,
 * counted from the beginning, at which token i is complete; UNKNOWN_END while its last character is
 * incomplete. */
#ifndef WINNOW_ENGINE_SERVE_CHOICE_H
#define WINNOW_ENGINE_SERVE_CHOICE_H

#include "cache/pages/cache.h"
#include "engine/serve/engine.h"
#include "engine/compute/logprobs.h"

#define UNKNOWN_END UINT64_MAX

struct choice {
    struct request *owner;
    uint32_t index;               /* in the request */
    struct cache_sequence *cache; /* NULL while it holds nothing */
    struct sampler *sampler;
    bool done;

    int32_t *generated; /* [n_generated] every sampled token */
    uint32_t n_generated, capacity;
    int32_t picked; /* by the device in this step, or PICK_NOT_FINITE; PICK_NONE: use the logits */
    uint64_t last_token_ns;
    struct cache_sequence_counts counted; /* already in the metrics */

    struct detokenizer detokenizer;
    struct stop_state stop;
    char *text; /* [text_room] */
    uint32_t n_text, text_room;
    uint64_t n_emitted; /* bytes of text before text[0] */
    int32_t hit;        /* index of the stop string that was completed, -1 = none */
    uint32_t hit_cut;   /* of a hit: bytes of `text` that may be sent */

    /* Tokens not yet sent. */
    struct event_token *waiting;      /* [waiting_room] */
    uint64_t *ends;                   /* [waiting_room] */
    struct top_logprob *waiting_tops; /* [waiting_room][LOGPROBS_MAX_TOP + 1], NULL without */
    uint32_t n_waiting, waiting_room;
};

/* max_token_bytes: length of the longest token's text. False: "out_of_memory"; choice_clear is
 * still needed. */
bool choice_init(struct choice *s, struct request *owner, uint32_t index, uint32_t n_vocab,
                 size_t max_token_bytes, struct error *e);
void choice_clear(struct choice *s);

/* Tokens of the prompt and generated ones. */
uint32_t choice_n_tokens(const struct choice *s);
int32_t choice_token(const struct choice *s, uint32_t index);

/* Makes room for one more token and its logprobs, so that choice_add_token cannot fail. False:
 * "out_of_memory". */
bool choice_reserve(struct choice *s, struct error *e);
/* Adds a sampled token that is no end token, and its text. Sets `hit` at a stop string. */
void choice_add_token(struct choice *s, const struct tokenizer *tokenizer,
                      const struct event_token *token);
/* After the last token: an unfinished character becomes U+FFFD. */
void choice_add_end(struct choice *s);
/* Emits what may be sent; with `all` also text that may be the beginning of a stop string. False
 * when memory is short. */
bool choice_emit(struct choice *s, bool all);

#endif
