/* Ids of tool calls for templates that demand nine letters and digits, as Mistral's do. Clients send
 * ids of other servers ("call_8f3b..."), or none. Pure: any thread. */
#ifndef WINNOW_ENGINE_TEXT_CHAT_TOOL_IDS_H
#define WINNOW_ENGINE_TEXT_CHAT_TOOL_IDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "config/base/error.h"

/* Whether a template's source checks that ids have nine characters. */
bool chat_tool_ids_wanted(const char *source, size_t length);

/* The messages with ids of nine letters and digits in tool_calls[].id and tool_call_id. The same id
 * gives the same short one, so that calls and results still belong together; ids that fit stay. A
 * call without an id gets one from its place. Messages without ids are shared with the input. New
 * reference; NULL: "out_of_memory". */
json_t *chat_tool_ids_shorten(const json_t *messages, struct error *e);

#endif
