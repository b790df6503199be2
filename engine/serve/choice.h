/* One choice of a generation: its tokens, its cache, and the way from tokens to text that may
 * leave. Engine thread.
 *
 * Text comes out of the detokenizer in whole characters, passes the stop strings, and waits here
 * while it may still be the beginning of one:
 *
 *   already told | text[0 .. n_text)  <- may leave ... held ->
 *
 * Each token is told with the event that completes its text: `ends[i]` is the number of text bytes,
 * from the beginning, at which token i is complete; UNKNOWN_END while its last character is. */
#ifndef WINNOW_ENGINE_SERVE_CHOICE_H
#define WINNOW_ENGINE_SERVE_CHOICE_H

#include "cache/pages/cache.h"
#include "engine/serve/engine.h"
#include "engine/compute/logprobs.h"

#define UNKNOWN_END UINT64_MAX

struct sequence {
    struct generation *owner;
    uint32_t index;               /* of the choice */
    struct cache_sequence *cache; /* NULL while it holds nothing */
    struct sampler *sampler;
    bool done;

    int32_t *generated; /* [n_generated] every sampled token */
    uint32_t n_generated, capacity;
    int32_t picked; /* by the device in this step, or PICK_ODD; PICK_NONE: from the logits */
    uint64_t last_token_ns;
    struct cache_sequence_counts counted; /* what the metrics have seen */

    struct detokenizer detokenizer;
    struct stop_state stop;
    char *text; /* [text_room] */
    uint32_t n_text, text_room;
    uint64_t n_told;  /* bytes of text before text[0] */
    int32_t hit;      /* stop string that was completed, -1 = none */
    uint32_t hit_cut; /* then: bytes of `text` that may leave */

    /* Tokens not yet told. */
    struct event_token *waiting;      /* [waiting_room] */
    uint64_t *ends;                   /* [waiting_room] */
    struct top_logprob *waiting_tops; /* [waiting_room][LOGPROBS_MAX_TOP + 1], NULL without */
    uint32_t n_waiting, waiting_room;
};

/* max_token_bytes: of the longest token's text. False: "out_of_memory"; clear it all the same. */
bool sequence_init(struct sequence *s, struct generation *owner, uint32_t index, uint32_t n_vocab,
                   size_t max_token_bytes, struct error *e);
void sequence_clear(struct sequence *s);

/* Tokens that are known: the prompt's and the generated ones. */
uint32_t sequence_n_tokens(const struct sequence *s);
int32_t sequence_token(const struct sequence *s, uint32_t index);

/* Room for one more generated token and its logprobs, so that the next calls cannot fail. */
bool sequence_reserve(struct sequence *s, struct error *e);
/* A sampled token that ends nothing: its text passes the stop strings. Sets `hit`. */
void sequence_add_token(struct sequence *s, const struct tokenizer *tokenizer,
                        const struct event_token *token);
/* No more tokens come: an unfinished character becomes U+FFFD. */
void sequence_add_end(struct sequence *s);
/* Tells the owner what may leave: all of it, or all but what a stop string may still claim. False
 * when memory is short. */
bool sequence_tell(struct sequence *s, bool all);

#endif
