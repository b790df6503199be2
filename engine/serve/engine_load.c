/* Loads what an engine consists of: a runtime (engine/measure/runtime.h) with a pool that fits the
 * memory, the chat template, the scheduler. On the thread of engine_open. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/file.h"
#include "config/base/log.h"
#include "engine/serve/engine_private.h"

enum { LOGITS_PER_STEP = 64, MAX_TEMPLATE_BYTES = 1024 * 1024 };

static bool check_options(const struct engine_options *o, struct error *e)
{
    if (!o->model_path)
        return error_set(e, "invalid_value", "model", "no model file was named");
    if (o->max_num_seqs < 1 || o->max_num_seqs > 65536)
        return error_set(e, "invalid_value", "--max-num-seqs", "%u is not in 1 to 65536",
                         o->max_num_seqs);
    if (o->max_batched_tokens < o->max_num_seqs || o->max_batched_tokens > 65536)
        return error_set(e, "invalid_value", "--max-batched-tokens",
                         "%u is not in %u (--max-num-seqs) to 65536: each running sequence needs a "
                         "row of the batch",
                         o->max_batched_tokens, o->max_num_seqs);
    if (o->max_queue < 1)
        return error_set(e, "invalid_value", "--max-queue", "the queue needs room for a request");
    if (o->max_generate < 1)
        return error_set(e, "invalid_value", "--max-generate", "at least one token is needed");
    if (!(o->kv_memory_share >= 0 && o->kv_memory_share <= 1))
        return error_set(e, "invalid_value", "--kv-memory", "the share %g is not in 0 to 1",
                         o->kv_memory_share);
    return true;
}

static void report_model(void *context, double share)
{
    const struct engine_options *o = context;
    if (o->progress)
        o->progress(o->progress_context, "model", share);
}

static void report(const struct engine_options *o, const char *what)
{
    if (o->progress)
        o->progress(o->progress_context, what, 1);
}

static bool resolve_context(struct engine *e, uint32_t asked, struct error *error)
{
    uint32_t trained = e->runtime.model->n_ctx_train;
    e->n_ctx = asked ? asked : trained;
    return asked <= trained ||
           error_set(error, "invalid_value", "--ctx-size",
                     "a context of %u is more than the %u tokens the model was trained for; for "
                     "longer texts use a kv_policy with cache-relative positions such as sink",
                     asked, trained);
}

/* ---- the chat template */

static char *read_template(const char *path, size_t *length, struct error *e)
{
    char what[240];
    snprintf(what, sizeof what, "\"%.190s\", which is no built-in template,", path);
    struct file_wanted w = {
        .path = path, .what = what, .where = "--chat-template", .most = MAX_TEMPLATE_BYTES};
    return file_read(&w, length, e);
}

static bool has_token(const void *context, const char *text)
{
    return tokenizer_find(context, text, strlen(text)) >= 0;
}

/* The operator's choice, else the model's own, else a guess. A model whose own template does not
 * compile or loses the user's turns is served all the same. */
static bool load_template(struct engine *e, const char *asked, struct error *error)
{
    struct error ignored;
    if (asked) {
        e->chat_template = chat_template_named(asked, &ignored);
        if (e->chat_template)
            return true;
        size_t length;
        char *text = read_template(asked, &length, error);
        if (text)
            e->chat_template = chat_template_new(text, length, error);
        free(text);
        if (!e->chat_template)
            return false;
        char name[240];
        snprintf(name, sizeof name, "the chat template \"%s\"", asked);
        chat_template_set_name(e->chat_template, name);
        return chat_template_check(e->chat_template, error);
    }
    const char *guess = chat_template_guess(has_token, e->runtime.tokenizer);
    const struct source_text own = e->runtime.model->chat_template;
    if (own.data) {
        e->chat_template = chat_template_new(own.data, own.length, &ignored);
        if (e->chat_template)
            chat_template_set_name(e->chat_template, "the model's chat template");
        if (e->chat_template && chat_template_check(e->chat_template, &ignored))
            return true;
        chat_template_free(e->chat_template);
        e->chat_template = NULL;
        log_line(LOG_WARNING, "the model's chat template cannot be used (%s); using \"%s\" instead",
                 ignored.message, guess);
    }
    e->chat_template = chat_template_named(guess, error);
    return e->chat_template != NULL;
}

/* ---- the pool */

/* The pool's size is asked for in bytes or as a share of the free memory. By default it is all of a
 * GPU's free memory; in the host's memory it is four full contexts, at most half of what is
 * free. */
static bool size_pool(struct engine *e, struct error *error)
{
    const struct engine_options *o = &e->options;
    struct runtime *r = &e->runtime;
    runtime_set_storage(r, o->kv_storage);
    uint64_t available = r->backend.memory_free(r->backend.self), bytes = o->kv_memory_bytes;
    if (bytes == 0 && o->kv_memory_share > 0 && available == 0)
        return error_set(error, "invalid_value", "--kv-memory",
                         "the free memory of this machine is not known; write a size such as 4G "
                         "instead of a share");
    if (bytes == 0 && o->kv_memory_share > 0)
        bytes = (uint64_t)((double)available * o->kv_memory_share);
    if (bytes == 0 && o->device.kind->has_own_memory)
        bytes = available;
    if (bytes == 0) {
        bytes = 4 * runtime_pages(r, e->n_ctx) * r->page_bytes;
        if (available > 0 && bytes > available / 2)
            bytes = available / 2;
    }
    uint32_t chunk = o->max_batched_tokens < e->n_ctx ? o->max_batched_tokens : e->n_ctx;
    uint64_t n_pages = bytes / r->page_bytes, least = runtime_pages(r, chunk);
    if (n_pages < least)
        return error_set(error, "out_of_memory", "--kv-memory",
                         "%llu bytes of KV memory hold %llu pages of %llu bytes; one step of "
                         "prefill (%u tokens) needs %llu pages, %llu bytes",
                         (unsigned long long)bytes, (unsigned long long)n_pages,
                         (unsigned long long)r->page_bytes, chunk, (unsigned long long)least,
                         (unsigned long long)(least * r->page_bytes));
    return runtime_set_pool(r, n_pages < UINT32_MAX / 2 ? n_pages : UINT32_MAX / 2, error);
}

/* ---- all of it */

static uint32_t logits_per_step(const struct engine_options *o)
{
    return o->max_num_seqs > LOGITS_PER_STEP ? o->max_num_seqs : LOGITS_PER_STEP;
}

static bool load_runtime(struct engine *e, struct error *error)
{
    struct engine_options *o = &e->options;
    const struct runtime_options runtime = {.model_path = o->model_path,
                                            .no_mmap = o->no_mmap,
                                            .head_profile = o->head_profile,
                                            .needs_tokenizer = true,
                                            .device = o->device.kind,
                                            .n_threads = o->n_threads,
                                            .isa = o->isa,
                                            .memory_share = o->gpu_memory_share,
                                            .max_rows = o->max_batched_tokens,
                                            .max_logits = logits_per_step(o),
                                            .progress = o->progress ? report_model : NULL,
                                            .progress_context = o};
    return runtime_load(&e->runtime, &runtime, error);
}

static bool start_runtime(struct engine *e, struct error *error)
{
    const char *why = e->options.device.why;
    const struct backend *b = &e->runtime.backend;
    if (!runtime_start(&e->runtime, error))
        return false;
    snprintf(e->description, sizeof e->description, "%s: %s%s%s%s", b->name, b->description,
             *why ? " (" : "", why, *why ? ")" : "");
    return true;
}

static bool make_scheduler(struct engine *e, struct error *error)
{
    const struct engine_options *o = &e->options;
    const struct scheduler_options options = {.metrics = &e->metrics,
                                              .max_num_seqs = o->max_num_seqs,
                                              .queue_timeout_ns = o->queue_timeout_ms * 1000000u,
                                              .session_ttl_ns = o->session_ttl_ms * 1000000u,
                                              .audit = o->audit};
    e->scheduler = scheduler_new(&e->runtime, &options, error);
    return e->scheduler != NULL;
}

static bool list_end_tokens(struct engine *e, struct error *error)
{
    uint32_t n = 0, n_vocab = e->runtime.model->n_vocab;
    for (uint32_t i = 0; i < n_vocab; i++)
        n += tokenizer_is_end(e->runtime.tokenizer, (int32_t)i);
    e->end_tokens = malloc((n ? n : 1) * sizeof *e->end_tokens);
    if (!e->end_tokens)
        return error_set_memory(error, "end tokens", (uint64_t)n * sizeof *e->end_tokens);
    for (uint32_t i = 0; i < n_vocab; i++)
        if (tokenizer_is_end(e->runtime.tokenizer, (int32_t)i))
            e->end_tokens[e->n_end_tokens++] = (int32_t)i;
    return true;
}

bool engine_load(struct engine *e, const struct engine_options *options, struct error *error)
{
    struct engine_options *o = &e->options;
    *o = *options;
    if (o->max_batched_tokens == 0) {
        uint32_t usual = o->device.kind->usual_rows;
        o->max_batched_tokens = o->max_num_seqs > usual ? o->max_num_seqs : usual;
    }
    if (!check_options(o, error) || !load_runtime(e, error) || !resolve_context(e, o->n_ctx, error))
        return false;
    report(o, "tokenizer");
    if (!list_end_tokens(e, error) || !load_template(e, o->chat_template, error) ||
        !start_runtime(e, error) || !size_pool(e, error) || !make_scheduler(e, error))
        return false;
    report(o, "memory");
    atomic_store(&e->metrics.kv_pages, e->runtime.n_pages);
    atomic_store(&e->metrics.page_bytes, e->runtime.page_bytes);
    return true;
}

/* After the thread has stopped, or after engine_load has failed half-way. */
void engine_unload(struct engine *e)
{
    scheduler_free(e->scheduler, "engine_stopped",
                   "the server stopped before the request was done");
    chat_template_free(e->chat_template);
    free(e->end_tokens);
    runtime_close(&e->runtime);
}
