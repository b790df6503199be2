/* Log lines on stderr, as text or as one JSON object a line. Thread-safe: one write per line. */
#ifndef WINNOW_CONFIG_BASE_LOG_H
#define WINNOW_CONFIG_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

void log_setup(enum log_format format, enum log_level least);
bool log_enabled(enum log_level level);

/* A line of plain text. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line with fields: text is "message key=value key=value", JSON an object. Strings are escaped;
 * NULL skipped. */
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
