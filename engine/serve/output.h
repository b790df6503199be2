/* What the rows of a step mean: tokens are sampled, events sent, choices and requests ended. Engine
 * thread. */
#ifndef WINNOW_ENGINE_SERVE_OUTPUT_H
#define WINNOW_ENGINE_SERVE_OUTPUT_H

#include "engine/serve/scheduler_private.h"

/* After the forward pass (pick.c): the tokens that the device picks, in `picked` of their choices,
 * and the logits of all other rows, as forward_logits returns them. NULL: "engine_fault". */
const float *output_fetch(struct scheduler *s, struct error *e);

/* For every group of rows in order, from what output_fetch brought. */
void output_rows(struct scheduler *s, const float *logits);
/* Ends one choice; the last one ends its request. */
void output_end_choice(struct scheduler *s, struct choice *choice, enum finish_reason reason,
                       int32_t stop_token);
/* Fails the whole request with request->error. */
void output_fail(struct scheduler *s, struct request *request);
/* Ends it as the owner wished. */
void output_cancel(struct scheduler *s, struct request *request);

#endif
