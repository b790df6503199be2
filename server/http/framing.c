/* See framing.h. The sections that comments name are those of RFC 9112, else the RFC is named too. */
#include "server/http/framing.h"

#include <string.h>
#include <strings.h>

enum { MAX_TARGET_BYTES = 8000, MAX_LENGTH_DIGITS = 19 };

static bool refuse(struct error *e, const char *why)
{
    return error_set(e, "bad_framing", "", "the request is not valid HTTP: %s", why);
}

static bool is_letter_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* tchar of RFC 9110, 5.6.2 */
static bool is_token(const struct framing_text *t)
{
    for (size_t i = 0; i < t->length; i++)
        if (!is_letter_or_digit(t->at[i]) && (!t->at[i] || !strchr("!#$%&'*+-.^_`|~", t->at[i])))
            return false;
    return t->length > 0;
}

static bool is(const struct framing_text *t, const char *name)
{
    return t->length == strlen(name) && !strncasecmp(t->at, name, t->length);
}

/* field-content of RFC 9110, 5.5: no control character but the tab */
static bool is_value(const struct framing_text *t)
{
    for (size_t i = 0; i < t->length; i++) {
        unsigned char c = (unsigned char)t->at[i];
        if ((c < 0x20 && c != '\t') || c == 0x7F)
            return false;
    }
    return true;
}

static struct framing_text trimmed(struct framing_text t)
{
    while (t.length && (t.at[t.length - 1] == ' ' || t.at[t.length - 1] == '\t'))
        t.length--;
    return t;
}

static const char *end_of(const struct framing_text *t)
{
    return t->at + t->length;
}

/* ---- places: every byte between two parts is the separator that belongs there */

static bool lines_end_with_crlf(const struct framing_head *h, struct error *e)
{
    const char *at = end_of(&h->version) + 2;
    for (size_t i = 0; i < h->n_fields; i++) {
        const struct framing_field *f = &h->fields[i];
        /* 2.2: a bare LF is one byte shorter. A NUL and a folded line (5.2) are in other places too. */
        if (f->name.at != at)
            return refuse(e, "each line must end with CR LF, and contain no NUL and no line break");
        const char *value = end_of(&f->name) + 1;
        if (f->value.at < value)
            return refuse(e, "a header has no colon");
        for (; value < f->value.at; value++)
            if (*value != ' ' && *value != '\t')
                return refuse(e, "a header contains a NUL");
        at = end_of(&f->value) + 2;
    }
    return at + 2 == h->end ||
           refuse(e, "each line must end with CR LF, and contain no NUL and no line break");
}

/* ---- the first line (section 3) */

static bool version_fits(const struct framing_text *v, struct error *e)
{
    if (v->length != 8 || memcmp(v->at, "HTTP/", 5) || v->at[6] != '.' || v->at[5] < '0' ||
        v->at[5] > '9' || v->at[7] < '0' || v->at[7] > '9')
        return refuse(e, "the first line must be METHOD, one space, TARGET, one space, HTTP/1.1");
    return v->at[5] == '1' || error_set(e, "http_version_not_supported", "",
                                        "this server speaks HTTP/1.1, not %.8s", v->at);
}

/* Visible ASCII and, because clients send it without percent signs, UTF-8. */
static bool target_is_clean(const struct framing_text *t, struct error *e)
{
    for (size_t i = 0; i < t->length; i++) {
        unsigned char c = (unsigned char)t->at[i];
        if (c <= 0x20 || c == 0x7F)
            return refuse(e, "the target contains a space or a control character");
        if (c == '#')
            return refuse(e, "the target contains a fragment");
    }
    return true;
}

static struct framing_text until(const char *at, const char *end, const char *stops)
{
    const char *to = at;
    while (to < end && !strchr(stops, *to))
        to++;
    return (struct framing_text){at, (size_t)(to - at)};
}

/* http://host/path?query (3.2.2): clients send it to proxies, and every server must take it. */
static bool absolute_target(struct framing_text t, struct framing_facts *facts)
{
    size_t scheme = t.length > 7 && !strncasecmp(t.at, "http://", 7)    ? 7
                    : t.length > 8 && !strncasecmp(t.at, "https://", 8) ? 8
                                                                        : 0;
    if (!scheme)
        return false;
    facts->host = until(t.at + scheme, end_of(&t), "/?");
    facts->path = until(end_of(&facts->host), end_of(&t), "?");
    if (facts->path.length == 0)
        facts->path = (struct framing_text){"/", 1};
    return facts->host.length && !memchr(facts->host.at, '@', facts->host.length);
}

static bool target_fits(const struct framing_head *h, struct framing_facts *facts, struct error *e)
{
    const struct framing_text *t = &h->target;
    if (t->length > MAX_TARGET_BYTES)
        return error_set(e, "uri_too_long", "", "the URL has %zu bytes; at most %d are read",
                         t->length, MAX_TARGET_BYTES);
    if (is(&h->method, "CONNECT"))
        return error_set(e, "not_implemented", "", "this server is no proxy: it has no CONNECT");
    if (!target_is_clean(t, e))
        return false;
    if (t->length && t->at[0] == '/') {
        facts->path = until(t->at, end_of(t), "?");
        return true;
    }
    if (t->length == 1 && t->at[0] == '*' && is(&h->method, "OPTIONS")) {
        facts->path = *t;
        return true;
    }
    return absolute_target(*t, facts) ||
           refuse(e, "the target must begin with '/' or be http://HOST/PATH");
}

/* ---- headers that say where the request ends, and whom it is for */

/* Host = uri-host [ ":" port ] (RFC 9110, 7.2), as far as it matters here */
static bool host_is_clean(const struct framing_text *host)
{
    for (size_t i = 0; i < host->length; i++)
        if (!is_letter_or_digit(host->at[i]) &&
            (!host->at[i] || !strchr("-._~%!$&'()*+;=:[]", host->at[i])))
            return false;
    return true;
}

static bool host_fits(const struct framing_head *h, const struct framing_text *host, unsigned n,
                      struct framing_facts *facts, struct error *e)
{
    /* 3.2: 400 to a request without Host, or with more than one */
    if (n > 1)
        return refuse(e, "it has more than one Host");
    if (n == 0 && h->version.at[7] != '0')
        return refuse(e, "it has no Host");
    if (n && !host_is_clean(host))
        return refuse(e, "Host is not a name or address");
    /* 3.2.2: the host of the target counts, and not the header */
    if (!facts->host.at && n)
        facts->host = *host;
    return !facts->host.at || host_is_clean(&facts->host) ||
           refuse(e, "the target's host is not a name or address");
}

static bool length_is_clean(const struct framing_text *t)
{
    for (size_t i = 0; i < t->length; i++)
        if (t->at[i] < '0' || t->at[i] > '9')
            return false;
    return t->length > 0 && t->length <= MAX_LENGTH_DIGITS;
}

static bool coding_fits(const struct framing_head *h, const struct framing_text *coding,
                        unsigned n_codings, unsigned n_lengths, struct framing_facts *facts,
                        struct error *e)
{
    if (n_codings == 0)
        return true;
    /* 6.1: HTTP/1.0 has no transfer codings, so the framing is faulty */
    if (h->version.at[7] == '0')
        return refuse(e, "HTTP/1.0 has no Transfer-Encoding");
    /* 6.3: this could be an attempt to smuggle a request */
    if (n_lengths)
        return refuse(e, "it has both Content-Length and Transfer-Encoding");
    if (n_codings > 1)
        return refuse(e, "it has more than one Transfer-Encoding");
    /* 6.1: 501 for a coding that the server does not understand */
    if (!is(coding, "chunked"))
        return error_set(e, "not_implemented", "",
                         "the only Transfer-Encoding that this server reads is chunked");
    return facts->chunked = true;
}

static bool fields_fit(const struct framing_head *h, struct framing_facts *facts, struct error *e)
{
    struct framing_text host = {0}, coding = {0};
    unsigned n_hosts = 0, n_codings = 0, n_lengths = 0;
    for (size_t i = 0; i < h->n_fields; i++) {
        const struct framing_text *name = &h->fields[i].name, value = trimmed(h->fields[i].value);
        /* 5.1: no space before the colon, because readers disagree on what it means */
        if (!is_token(name))
            return refuse(e, "a header's name is not a token");
        if (!is_value(&value))
            return refuse(e, "a header contains a control character");
        if (is(name, "Host")) {
            host = value;
            n_hosts++;
        } else if (is(name, "Transfer-Encoding")) {
            coding = value;
            n_codings++;
        } else if (is(name, "Content-Length")) {
            n_lengths++;
            if (!length_is_clean(&value))
                return refuse(e, "Content-Length is not a number");
        }
    }
    /* 6.3: lists of equal lengths may be taken, but no client sends them */
    if (n_lengths > 1)
        return refuse(e, "it has more than one Content-Length");
    return coding_fits(h, &coding, n_codings, n_lengths, facts, e) &&
           host_fits(h, &host, n_hosts, facts, e);
}

bool framing_check(const struct framing_head *h, struct framing_facts *facts, struct error *e)
{
    *facts = (struct framing_facts){0};
    if (!version_fits(&h->version, e))
        return false;
    if (!is_token(&h->method))
        return refuse(e, "the method is not a token");
    if (h->end && (end_of(&h->method) + 1 != h->target_at ||
                   h->target_at + h->target.length + 1 != h->version.at))
        return refuse(e, "the first line must be METHOD, one space, TARGET, one space, HTTP/1.1");
    return target_fits(h, facts, e) && (!h->end || lines_end_with_crlf(h, e)) &&
           fields_fit(h, facts, e);
}
