/* See page.h. */
#include "server/page/page.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "config/base/hash.h"

/* The paths are relative to the root of the repository, where make runs. The Makefile lists the
 * files as prerequisites of this object. */
#define EMBED(symbol, path)                                                                        \
    __asm__(".pushsection .rodata\n"                                                               \
            ".global page_" #symbol "_start\n.hidden page_" #symbol "_start\n"                     \
            ".global page_" #symbol "_end\n.hidden page_" #symbol "_end\n"                         \
            "page_" #symbol "_start:\n.incbin \"server/page/" path "\"\n"                          \
            "page_" #symbol "_end:\n.byte 0\n"                                                     \
            ".popsection\n");                                                                      \
    extern __attribute__((visibility("hidden"))) const char page_##symbol##_start[],               \
        page_##symbol##_end[]

#define SCRIPT "text/javascript; charset=utf-8"

EMBED(index_html, "index.html");
EMBED(page_css, "page.css");
EMBED(icon_svg, "icon.svg");
EMBED(page_js, "page.js");
EMBED(api_js, "api.js");
EMBED(policy_js, "policy.js");
EMBED(chat_js, "chat.js");
EMBED(picture_js, "picture.js");
EMBED(tokens_js, "tokens.js");
EMBED(examples_js, "examples.js");
EMBED(dom_js, "dom.js");

struct page_file {
    const char *name, *type; /* the name after "/page/" */
    const char *start, *end;
    char etag[24]; /* "" before the first request */
};

static struct page_file files[] = {
    {"", "text/html; charset=utf-8", page_index_html_start, page_index_html_end, ""},
    {"page.css", "text/css; charset=utf-8", page_page_css_start, page_page_css_end, ""},
    {"icon.svg", "image/svg+xml", page_icon_svg_start, page_icon_svg_end, ""},
    {"page.js", SCRIPT, page_page_js_start, page_page_js_end, ""},
    {"api.js", SCRIPT, page_api_js_start, page_api_js_end, ""},
    {"policy.js", SCRIPT, page_policy_js_start, page_policy_js_end, ""},
    {"chat.js", SCRIPT, page_chat_js_start, page_chat_js_end, ""},
    {"picture.js", SCRIPT, page_picture_js_start, page_picture_js_end, ""},
    {"tokens.js", SCRIPT, page_tokens_js_start, page_tokens_js_end, ""},
    {"examples.js", SCRIPT, page_examples_js_start, page_examples_js_end, ""},
    {"dom.js", SCRIPT, page_dom_js_start, page_dom_js_end, ""},
};

/* A hash of the bytes, so that other bytes have another tag. */
static const char *etag_of(struct page_file *f)
{
    if (f->etag[0])
        return f->etag;
    uint64_t hash = fnv_add(FNV_START, f->start, (size_t)(f->end - f->start));
    snprintf(f->etag, sizeof f->etag, "\"%016" PRIx64 "\"", hash);
    return f->etag;
}

/* Whether If-None-Match, a list of tags or a star, has this tag. Weak tags (W/"...") count too. */
static bool client_has(const struct http_request *x, const char *etag)
{
    const char *tags = http_request_header(x, "If-None-Match");
    return tags && (!strcmp(tags, "*") || strstr(tags, etag));
}

static void reply_file(struct http_request *x, struct page_file *f)
{
    const char *etag = etag_of(f);
    http_request_add_header(
        x, "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
        "base-uri 'none'");
    http_request_add_header(x, "X-Content-Type-Options", "nosniff");
    http_request_add_header(x, "Referrer-Policy", "no-referrer");
    http_request_add_header(x, "Cache-Control", "no-cache");
    http_request_add_header(x, "ETag", etag);
    if (client_has(x, etag))
        http_request_reply(x, 304, NULL, "", 0);
    else
        http_request_reply_static(x, 200, f->type, f->start, (size_t)(f->end - f->start));
}

void handle_page(struct http_request *x, void *context)
{
    const struct page *page = context;
    if (http_request_lacks_slash(x)) {
        char location[256];
        snprintf(location, sizeof location, "%.250s/", strrchr(page->api_prefix, '/') + 1);
        http_request_add_header(x, "Location", location);
        http_request_reply(x, 308, NULL, "", 0);
        return;
    }
    reply_file(x, &files[0]);
}

void handle_page_file(struct http_request *x, void *context)
{
    const char *name = http_request_path_tail(x);
    struct error e;
    (void)context;
    for (size_t i = 1; i < sizeof files / sizeof *files; i++)
        if (!strcmp(name, files[i].name)) {
            reply_file(x, &files[i]);
            return;
        }
    error_set(&e, "not_found", "", "the page has no file with this name");
    http_request_reply_error(x, &e);
}
