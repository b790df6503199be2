/* The forward pass: one step over a ragged batch of rows (decode tokens and prefill chunks
 * together).
 *
 * A batch is filled with batch_add, one call per sequence, then forward_run computes all layers and
 * returns the logits of the rows that asked for them; or forward_compute leaves them on the device,
 * where tokens can be picked from them. Engine thread only. Neither looks at a
 * policy: the cache says where rows are written and what they may see. */
#ifndef WINNOW_ENGINE_COMPUTE_FORWARD_H
#define WINNOW_ENGINE_COMPUTE_FORWARD_H

#include "cache/pages/cache.h"
#include "engine/compute/backend.h"
#include "engine/model/model.h"

struct batch;

/* Room for max_rows rows and max_outputs rows that leave logits or hidden states per step. The cache
 * outlives it. */
struct batch *batch_new(struct cache *cache, const struct model *model, uint32_t max_rows,
                        uint32_t max_outputs, struct error *e);
void batch_free(struct batch *b);
void batch_clear(struct batch *b);
uint32_t batch_rows(const struct batch *b);        /* rows added */
uint32_t batch_room(const struct batch *b);        /* rows that still fit */
uint32_t batch_logits_room(const struct batch *b); /* output rows that still fit */
/* Nanoseconds that choosing and dropping slots took in the last step. */
uint64_t batch_policy_ns(const struct batch *b);

/* Appends n tokens of sequence s (positions follow cache_tokens_seen) and takes their pages, in
 * waves where the plan needs it. Logits are computed for the last n_logits of these rows;
 * *logits_row gets the index of the first of them. A sequence may be added once per step,
 * and not beyond the end of its prompt (cache_rows_of_prompt): what follows is another step's.
 * False: "kv_pool_empty" (nothing changed) or "out_of_memory" (the batch is as before, the sequence
 * may have lost its place and must be given up). Room is the caller's to check (assert). */
bool batch_add(struct batch *b, struct cache_sequence *s, const int32_t *tokens, uint32_t n,
               uint32_t n_logits, uint32_t *logits_row, struct error *e);
/* The same for rows that leave something else: *output gets the index of the first among those of
 * its kind. */
bool batch_add_outputs(struct batch *b, struct cache_sequence *s, const int32_t *tokens, uint32_t n,
                       uint32_t n_outputs, enum step_output what, uint32_t *output,
                       struct error *e);

struct forward;
/* Brings the weights into the backend's form and allocates all activation buffers for max_rows rows.
 * The model and the backend outlive it. NULL: "out_of_memory". */
struct forward *forward_new(const struct backend *backend, const struct model *model,
                            uint32_t max_rows, uint32_t max_logits, struct error *e);
void forward_free(struct forward *f);

/* For calibration and evaluation: called after the rotation of every layer with its queries
 * [n_rows][n_heads][head_dim] (host memory, valid during the call). NULL = nobody. */
typedef void forward_observer(void *context, uint32_t layer, const float *q, uint32_t n_rows);
bool forward_set_observer(struct forward *f, forward_observer *observe, void *context,
                          struct error *e); /* false: "out_of_memory" */

/* Computes the step. Returns logits [n_logits][n_vocab] in host memory, owned by the forward and
 * overwritten by the next step; NULL with "engine_fault" when the device fails. With no logits
 * asked for returns a non-NULL pointer. */
const float *forward_run(struct forward *f, struct batch *b, struct error *e);

/* The same without logits on the host: those of the step stay with the device until the next one.
 * False: "engine_fault" or "out_of_memory". What the batch's sequences hold is then incomplete, and
 * they must be freed. */
bool forward_compute(struct forward *f, struct batch *b, struct error *e);
/* Whether the device still computes, to be asked after "out_of_memory": a policy lacked memory of
 * the host, or the device has failed. False: "engine_fault" or "out_of_memory"; else *e stays. */
bool forward_works(struct forward *f, struct error *e);
/* Brings logits rows [first, first + n) of the step to the host, and returns where row 0 lies (or
 * would lie). Every call waits for the device. NULL: "engine_fault". */
const float *forward_logits(struct forward *f, uint32_t first, uint32_t n, struct error *e);
/* Brings the step's hidden states [first, first + n) to the host: rows that were added with
 * STEP_HIDDEN, after the output norm, [n][n_embd]; owned by the forward and overwritten by the next
 * call. NULL: "engine_fault" or "out_of_memory". */
const float *forward_hidden(struct forward *f, uint32_t first, uint32_t n, struct error *e);
/* Whether the backend picks tokens where its logits lie. */
bool forward_can_pick(const struct forward *f);
/* tokens[i] as picks[i] says, i < n, see `pick` of struct backend. False: "engine_fault". */
bool forward_pick(struct forward *f, const struct token_pick *picks, uint32_t n, int32_t *tokens,
                  struct error *e);

#endif
