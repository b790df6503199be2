/* The chat of `winnow run MODEL` on a terminal. Main thread. */
#ifndef WINNOW_SERVER_CLI_RUN_CHAT_H
#define WINNOW_SERVER_CLI_RUN_CHAT_H

#include <jansson.h>
#include <stdio.h>

#include "server/cli/run_session.h"

/* Appends a message to a chat: `text` must be UTF-8. */
bool run_add_message(json_t *messages, const char *role, const char *text, size_t length,
                     struct error *e);
/* The chat's tokens, with the beginning of the answer. */
bool run_encode_chat(const struct engine *engine, json_t *messages, struct tokens *out,
                     struct error *e);

/* Reads a message a line from `in` and answers it, until its end or /exit. Returns the exit
 * status. */
int run_chat(struct run_session *s, FILE *in);

#endif
