/* See log.h. A line is built in one buffer and written with one call, so lines never mix. One lock is
 * held while a line is written, which never waits. */
#include "config/base/log.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "config/base/utf8.h"

enum {
    /* A pipe that poll() calls writable takes this many bytes at once, so no line waits for a reader. */
    LINE_BYTES = PIPE_BUF,
    /* What closes a text and the line after the last byte that was taken: `..."}` and the line's end. */
    TAIL_BYTES = 8
};

static atomic_int current_format = LOG_TEXT;
static atomic_int current_level = LOG_INFO;

struct line {
    char text[LINE_BYTES];
    size_t length;
    bool full; /* something was left out */
};

/* All of it or nothing, so that no name, number or escape is cut. */
static bool line_add(struct line *l, const char *text, size_t length)
{
    if (l->full || l->length + length > LINE_BYTES - TAIL_BYTES) {
        l->full = true;
        return false;
    }
    memcpy(l->text + l->length, text, length);
    l->length += length;
    return true;
}

/* Into the room that line_add leaves. */
static void line_close(struct line *l, const char *text)
{
    size_t length = strlen(text);
    memcpy(l->text + l->length, text, length);
    l->length += length;
}

static void line_format(struct line *l, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void line_format(struct line *l, const char *format, ...)
{
    char piece[256];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    line_add(l, piece, n < 0 ? 0 : n < (int)sizeof piece ? (size_t)n : sizeof piece - 1);
}

/* Escapes what would break a line or a JSON string. Both formats use JSON's escapes. Bytes that are no
 * UTF-8 become U+FFFD. Texts here come from the network: stops at the first character without room. */
static void line_escape(struct line *l, const char *text)
{
    size_t left = strlen(text);
    while (left && !l->full) {
        size_t n = utf8_length(text, left);
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            line_format(l, "\\%c", c);
        else if (n == 0)
            line_add(l, UTF8_REPLACEMENT, 3);
        else if (utf8_printable_length(text, left) == 0)
            line_format(l, "\\u%04x", utf8_code(text, n));
        else
            line_add(l, text, n);
        text += n ? n : 1;
        left -= n ? n : 1;
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
    l->full = false;
    if (json)
        line_format(l, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",", stamp, now.tv_nsec / 1000000,
                    names[level]);
    else
        line_format(l, "%s.%03ldZ %s ", stamp, now.tv_nsec / 1000000, names[level]);
}

/* Writes without waiting: a reader that has stopped must not stop the server. The lines that it misses
 * are counted and told once it reads again. */
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;
static unsigned long n_dropped;

static bool write_now(const char *text, size_t length)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    ssize_t n = send(STDERR_FILENO, text, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == ENOTSOCK)
        n = poll(&out, 1, 0) > 0 && (out.revents & POLLOUT) ? write(STDERR_FILENO, text, length)
                                                            : -1;
    return n >= 0;
}

static void tell_dropped(bool json)
{
    char text[128];
    int n = snprintf(text, sizeof text,
                     json ? "{\"level\":\"warning\",\"message\":\"%lu log lines were not read in "
                            "time and are lost\"}\n"
                          : "warning %lu log lines were not read in time and are lost\n",
                     n_dropped);
    if (write_now(text, (size_t)n))
        n_dropped = 0;
}

static void line_end(struct line *l, bool json)
{
    line_close(l, json ? "}\n" : "\n");
    pthread_mutex_lock(&writing);
    if (n_dropped)
        tell_dropped(json);
    if (n_dropped || !write_now(l->text, l->length))
        n_dropped++;
    pthread_mutex_unlock(&writing);
}

/* A field whose name does not fit is left out; a text that does not fit ends early, with its quote. */
static void field_text(struct line *l, const char *key, const char *value, bool json)
{
    bool quote = json || value[0] == 0 || strpbrk(value, " =\"\\\t\n\r");
    char start[64];
    int n = snprintf(start, sizeof start,
                     json    ? ",\"%.40s\":\""
                     : quote ? " %.40s=\""
                             : " %.40s=",
                     key);
    if (!line_add(l, start, (size_t)n))
        return;
    line_escape(l, value);
    if (quote)
        line_close(l, "\"");
}

static void field_number(struct line *l, const char *key, const char *value, bool json)
{
    line_format(l, json ? ",\"%.40s\":%s" : " %.40s=%s", key, value);
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
        line_close(&l, "\"");
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
    line_end(&l, json);
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
