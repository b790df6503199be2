/* The forward pass: one step over a ragged batch of rows, decode tokens and prefill chunks
 * together.
 *
 * batch_add fills a batch, one call per sequence. forward_run then computes all layers and returns
 * the logits that were asked for; forward_compute leaves them on the device, where tokens can be
 * picked from them. Neither looks at a policy: the cache says where rows are written and what they
 * may see. Engine thread only. */
#ifndef WINNOW_ENGINE_COMPUTE_FORWARD_H
#define WINNOW_ENGINE_COMPUTE_FORWARD_H

#include "cache/pages/cache.h"
#include "engine/compute/backend.h"
#include "engine/model/model.h"

struct batch;

/* Room for max_rows rows per step, max_outputs of which leave logits or hidden states. The cache
 * and the model outlive the batch. NULL: "out_of_memory". */
struct batch *batch_new(struct cache *cache, const struct model *model, uint32_t max_rows,
                        uint32_t max_outputs, struct error *e);
void batch_free(struct batch *b);
void batch_clear(struct batch *b);
uint32_t batch_rows(const struct batch *b);        /* rows that were added */
uint32_t batch_room(const struct batch *b);        /* rows that still fit */
uint32_t batch_logits_room(const struct batch *b); /* output rows that still fit */
/* Nanoseconds that the last step spent on choosing and dropping slots. */
uint64_t batch_policy_ns(const struct batch *b);

/* Appends n tokens of sequence s (positions follow cache_tokens_seen) and takes their pages, in
 * waves where the plan needs it. The last n_logits of these rows leave logits; *logits_row gets the
 * index of the first. A sequence may be added once per step and not beyond the end of its prompt
 * (cache_rows_of_prompt). The caller has checked the room (asserted here). False: "kv_pool_empty",
 * and nothing has changed; or "out_of_memory": the batch is as before, but the sequence may be
 * broken and must be freed. */
bool batch_add(struct batch *b, struct cache_sequence *s, const int32_t *tokens, uint32_t n,
               uint32_t n_logits, uint32_t *logits_row, struct error *e);
/* The same for rows that leave `what`; *output gets the index of the first among those of its
 * kind. */
bool batch_add_outputs(struct batch *b, struct cache_sequence *s, const int32_t *tokens, uint32_t n,
                       uint32_t n_outputs, enum step_output what, uint32_t *output,
                       struct error *e);

struct forward;
/* Brings the weights into the backend's form and allocates activations for max_rows rows. The model
 * and the backend outlive it. NULL: "out_of_memory". */
struct forward *forward_new(const struct backend *backend, const struct model *model,
                            uint32_t max_rows, uint32_t max_logits, struct error *e);
void forward_free(struct forward *f);

/* For calibration: called in every layer with the rotated queries [n_rows][n_heads][head_dim],
 * which are in host memory and valid during the call. NULL = nobody. */
typedef void forward_observer(void *context, uint32_t layer, const float *q, uint32_t n_rows);
bool forward_set_observer(struct forward *f, forward_observer *observe, void *context,
                          struct error *e); /* false: "out_of_memory" */

/* Computes the step. Returns logits [n_logits][n_vocab] in host memory, owned by the forward and
 * overwritten by the next step; not NULL where no logits were asked for. NULL: as
 * forward_compute. */
const float *forward_run(struct forward *f, struct batch *b, struct error *e);

/* The same, but the logits stay on the device until the next step. False: "engine_fault" or
 * "out_of_memory"; the batch's sequences are then incomplete and must be freed. */
bool forward_compute(struct forward *f, struct batch *b, struct error *e);
/* Whether the device still works after an "out_of_memory": either a policy lacked host memory, or
 * the device has failed. False: "engine_fault" or "out_of_memory"; true leaves *e as it is. */
bool forward_works(struct forward *f, struct error *e);
/* Copies rows [first, first + n) of the step's logits to the host. Returns the address of row 0,
 * also where row 0 was not copied. Waits for the device. NULL: "engine_fault". */
const float *forward_logits(struct forward *f, uint32_t first, uint32_t n, struct error *e);
/* Copies hidden states [first, first + n) of the step (rows added with STEP_HIDDEN, after the
 * output norm) to the host: [n][n_embd], owned by the forward and overwritten by the next call.
 * NULL: "engine_fault" or "out_of_memory". */
const float *forward_hidden(struct forward *f, uint32_t first, uint32_t n, struct error *e);
/* Whether the backend can pick tokens on the device. */
bool forward_can_pick(const struct forward *f);
/* tokens[i] = the pick of picks[i], i < n; see `pick` of struct backend. False: "engine_fault". */
bool forward_pick(struct forward *f, const struct token_pick *picks, uint32_t n, int32_t *tokens,
                  struct error *e);

#endif
