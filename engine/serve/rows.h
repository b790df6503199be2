/* Which rows make the next step: one for every choice that decodes, then chunks of prompts in the
 * rows that are left. Engine thread. */
#ifndef WINNOW_ENGINE_SERVE_ROWS_H
#define WINNOW_ENGINE_SERVE_ROWS_H

#include "engine/serve/scheduler_private.h"

/* Fills the runtime's batch and s->rows. Decodes come first, so that no stream waits for a
 * prompt; both by age. While a choice decodes, prompts get fewer rows, by what rows have cost. */
void rows_choose(struct scheduler *s);
/* The step took so long: a moving mean over steps of many rows, for in those of few rows reading
 * the weights is most of the time. */
void rows_note_time(struct scheduler *s, uint64_t ns);

#endif
