/* The handlers of the API's routes, by file and context. api.c has the table of routes. Loop thread. */
#ifndef WINNOW_SERVER_API_HANDLERS_H
#define WINNOW_SERVER_API_HANDLERS_H

#include "server/http/http_request.h"

/* generate.c: struct jobs */
void handle_chat(struct http_request *x, void *jobs);
void handle_completion(struct http_request *x, void *jobs);

/* api_tokens.c: struct service */
void handle_tokenize(struct http_request *x, void *service);
void handle_detokenize(struct http_request *x, void *service);
void handle_apply_template(struct http_request *x, void *service);
void handle_input_tokens(struct http_request *x, void *service);
void handle_tokenizer_info(struct http_request *x, void *service);

/* api_info.c: struct service */
void handle_models(struct http_request *x, void *service);
void handle_model(struct http_request *x, void *service);
void handle_version(struct http_request *x, void *service);
void handle_props(struct http_request *x, void *service);
void handle_embeddings(struct http_request *x, void *service);

/* api_kv.c: struct service */
void handle_policies(struct http_request *x, void *service);
void handle_resolve(struct http_request *x, void *service);
void handle_sessions(struct http_request *x, void *service);
void handle_session(struct http_request *x, void *service);
void handle_session_delete(struct http_request *x, void *service);
void handle_stats(struct http_request *x, void *service);

/* query.c: struct queries */
void handle_flush(struct http_request *x, void *queries);
void handle_kv_request(struct http_request *x, void *queries);

#endif
