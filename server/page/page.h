/* The built-in page, under "/" and "/page/". The assembler copies the files of server/page/ into
 * the binary. Its content security policy allows nothing inline and no other origin. Loop
 * thread. */
#ifndef WINNOW_SERVER_PAGE_PAGE_H
#define WINNOW_SERVER_PAGE_PAGE_H

#include "server/http/http_request.h"

/* The context of the handlers. */
struct page {
    const char *api_prefix; /* "" or "/p": the path of "/" */
};
void handle_page(struct http_request *x, void *page);
void handle_page_file(struct http_request *x, void *page);

#endif
