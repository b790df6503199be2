/* Chooses the rows of the next step: one for every choice that decodes, then chunks of prompts.
 * Engine thread. */
#ifndef WINNOW_ENGINE_SERVE_ROWS_H
#define WINNOW_ENGINE_SERVE_ROWS_H

#include "engine/serve/scheduler_private.h"

/* Fills the runtime's batch and s->rows: decode rows first, so that no stream waits for a prompt,
 * both by age. While a choice decodes, prompts get only as many rows as keep the step short. */
void rows_choose(struct scheduler *s);
/* Updates row_ns with the time of a step. Steps of few rows do not count: they spend most of their
 * time reading weights. */
void rows_note_time(struct scheduler *s, uint64_t ns);

#endif
