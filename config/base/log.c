/* See log.h. A line is built in one buffer and written with one call, so lines never mix. */
#include "config/base/log.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 8192 };

static atomic_int current_format = LOG_TEXT;
static atomic_int current_level = LOG_INFO;

struct line {
    char text[LINE_BYTES];
    size_t length;
};

static void line_add(struct line *l, const char *text, size_t length)
{
    size_t room = LINE_BYTES - 2 - l->length;
    if (length > room)
        length = room;
    memcpy(l->text + l->length, text, length);
    l->length += length;
}

static void line_format(struct line *l, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void line_format(struct line *l, const char *format, ...)
{
    char piece[64];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    line_add(l, piece, n < 0 ? 0 : n < (int)sizeof piece ? (size_t)n : sizeof piece - 1);
}

/* Escapes what would break a line or a JSON string. Both formats use JSON's escapes. */
static void line_escape(struct line *l, const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            line_format(l, "\\%c", *c);
        else if (*c < 0x20 || *c == 0x7F)
            line_format(l, "\\u%04x", *c);
        else
            line_add(l, (const char *)c, 1);
    }
}

void log_setup(enum log_format format, enum log_level least)
{
    atomic_store(&current_format, format);
    atomic_store(&current_level, least);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load(&current_level);
}

static void line_begin(struct line *l, enum log_level level, bool json)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    char stamp[40];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    l->length = 0;
    if (json)
        line_format(l, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",", stamp, now.tv_nsec / 1000000,
                    names[level]);
    else
        line_format(l, "%s.%03ldZ %s ", stamp, now.tv_nsec / 1000000, names[level]);
}

static void line_end(struct line *l)
{
    l->text[l->length++] = '\n';
    ssize_t written = write(STDERR_FILENO, l->text, l->length);
    (void)written; /* there is nowhere to report a failure */
}

static void field_text(struct line *l, const char *key, const char *value, bool json)
{
    bool quote = json || value[0] == 0 || strpbrk(value, " =\"\\\t\n\r");
    if (json) {
        line_add(l, ",\"", 2);
        line_escape(l, key);
        line_add(l, "\":", 2);
    } else {
        line_add(l, " ", 1);
        line_escape(l, key);
        line_add(l, "=", 1);
    }
    if (quote)
        line_add(l, "\"", 1);
    line_escape(l, value);
    if (quote)
        line_add(l, "\"", 1);
}

static void field_number(struct line *l, const char *key, const char *value, bool json)
{
    if (json)
        line_format(l, ",\"%.40s\":%s", key, value);
    else
        line_format(l, " %.40s=%s", key, value);
}

void log_fields(enum log_level level, const char *message, const struct log_field *fields,
                uint32_t n_fields)
{
    if (!log_enabled(level))
        return;
    struct line l;
    bool json = atomic_load(&current_format) == LOG_JSON;
    line_begin(&l, level, json);
    if (json)
        line_add(&l, "\"message\":\"", 11);
    line_escape(&l, message);
    if (json)
        line_add(&l, "\"", 1);
    for (uint32_t i = 0; i < n_fields; i++) {
        const struct log_field *f = &fields[i];
        char number[40];
        if (f->kind == LOG_FIELD_TEXT) {
            if (f->text)
                field_text(&l, f->key, f->text, json);
        } else if (f->kind == LOG_FIELD_INT) {
            snprintf(number, sizeof number, "%lld", (long long)f->integer);
            field_number(&l, f->key, number, json);
        } else if (isfinite(f->number)) {
            snprintf(number, sizeof number, "%.3f", f->number);
            field_number(&l, f->key, number, json);
        }
    }
    if (json)
        line_add(&l, "}", 1);
    line_end(&l);
}

void log_line(enum log_level level, const char *format, ...)
{
    if (!log_enabled(level))
        return;
    char message[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    log_fields(level, message, NULL, 0);
}
