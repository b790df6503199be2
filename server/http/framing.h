/* Whether a request's head is one that every reader of RFC 9112 understands in the same way. libmicrohttpd
 * is lenient: it takes a bare LF for a line's end, cuts a value at a NUL, joins folded lines, and ignores a
 * second Content-Length. A proxy before the server may read such a request differently, and then one
 * client's bytes become another one's request. So the server refuses what is ambiguous. Pure. */
#ifndef WINNOW_SERVER_HTTP_FRAMING_H
#define WINNOW_SERVER_HTTP_FRAMING_H

#include <stdbool.h>
#include <stddef.h>

#include "config/base/error.h"

/* A text inside the received bytes. */
struct framing_text {
    const char *at;
    size_t length;
};

struct framing_field {
    struct framing_text name, value;
};

/* The head of a request. libmicrohttpd parses it in place: it overwrites only separators (blanks of the
 * first line, colons and ends of lines) with NULs. So where one part ends, the next one's place says which
 * separator stood between them. */
struct framing_head {
    struct framing_text method, target, version;
    const char *target_at; /* where the target was received; `target` itself may be a copy */
    const struct framing_field *fields;
    size_t n_fields;
    const char *end; /* after the empty line; NULL: the places are unknown and not checked */
};

/* What the head says about the request; texts inside its bytes. */
struct framing_facts {
    struct framing_text path; /* without query; "*" only for OPTIONS */
    struct framing_text host; /* of the target, else of Host; at == NULL: HTTP/1.0 without Host */
    bool chunked;
};

/* False: the code is "bad_framing" (400), "uri_too_long" (414), "not_implemented" (501) or
 * "http_version_not_supported" (505). The connection must be closed after the answer. */
bool framing_check(const struct framing_head *head, struct framing_facts *facts, struct error *e);

#endif
