/* After the forward pass: samples tokens, sends events, ends choices and requests. Engine
 * thread. */
#ifndef WINNOW_ENGINE_SERVE_OUTPUT_H
#define WINNOW_ENGINE_SERVE_OUTPUT_H

#include "engine/serve/scheduler_private.h"

/* In pick.c: fetches the tokens that the device picks into `picked` of their choices, and the
 * logits of all other rows as forward_logits returns them. NULL: "engine_fault". */
const float *output_fetch(struct scheduler *s, struct error *e);

/* Handles the rows of the step, in order, with what output_fetch returned. */
void output_rows(struct scheduler *s, const float *logits);
/* Ends one choice. The last choice ends its request. */
void output_end_choice(struct scheduler *s, struct choice *choice, enum finish_reason reason,
                       int32_t stop_token);
/* Fails the whole request with request->error. */
void output_fail(struct scheduler *s, struct request *request);
/* Ends a request that its owner has cancelled. */
void output_cancel(struct scheduler *s, struct request *request);

#endif
