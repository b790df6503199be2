/* Log lines on stderr, as text or as one JSON object per line. Any thread: a line is one write, and no
 * write waits. While nobody reads stderr, lines are dropped, and their number is logged later. A line has
 * at most 4096 bytes: longer texts are cut at a character, and it stays valid JSON. */
#ifndef WINNOW_CONFIG_BASE_LOG_H
#define WINNOW_CONFIG_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

void log_setup(enum log_format format, enum log_level least);
bool log_enabled(enum log_level level);

/* A line with a message only. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line with fields: "message key=value key=value" as text, or an object as JSON. Strings are
 * escaped. A field whose text is NULL or whose number is not finite is left out. */
struct log_field {
    const char *key;
    enum { LOG_FIELD_TEXT, LOG_FIELD_INT, LOG_FIELD_NUMBER } kind;
    const char *text;
    int64_t integer;
    double number;
};
void log_fields(enum log_level level, const char *message, const struct log_field *fields,
                uint32_t n_fields);

#endif
