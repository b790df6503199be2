/* Chat templates for models that have none. */
#ifndef WINNOW_ENGINE_TEXT_CHAT_BUILTIN_H
#define WINNOW_ENGINE_TEXT_CHAT_BUILTIN_H

/* Jinja source of "chatml", "llama2", "llama3", "mistral", "gemma" or "zephyr"; NULL for another
 * name. */
const char *chat_builtin_source(const char *name);

#endif
