/* `winnow run MODEL [-p PROMPT | -f FILE] ...`: one prompt on the terminal. The answer goes to
 * stdout, everything else to stderr. Ctrl-C ends it with status 130. Main thread; it has its own
 * engine. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "config/base/clock.h"
#include "config/base/file.h"
#include "engine/serve/engine.h"
#include "engine/text/chat_request.h"
#include "server/api/plan_json.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"
#include "server/devices.h"

enum { MAX_PROMPT_BYTES = 64 * 1024 * 1024 };

/* ---- the prompt */

/* The caller frees the text. */
static char *read_prompt(const struct run_arguments *a, size_t *length, struct error *e)
{
    struct file_wanted w = {.what = "the prompt", .where = "prompt", .most = MAX_PROMPT_BYTES};
    if (a->prompt_file && strcmp(a->prompt_file, "-") != 0) {
        w.path = w.what = a->prompt_file;
        w.where = "-f";
    }
    if (w.path || !a->prompt || strcmp(a->prompt, "-") == 0)
        return file_read(&w, length, e);
    char *text = strdup(a->prompt);
    *length = strlen(a->prompt);
    if (!text)
        error_set_memory(e, "the prompt", *length);
    return text;
}

/* The prompt as one user message in the model's chat template. */
static bool encode_chat(const struct run_arguments *a, const struct engine *engine,
                        const char *text, size_t length, struct tokens *out, struct error *e)
{
    json_t *messages = json_array();
    if (a->system)
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", a->system));
    json_array_append_new(messages,
                          json_pack("{s:s, s:s%}", "role", "user", "content", text, length));
    struct chat_request chat = {.messages = messages, .add_generation_prompt = true};
    bool ok = json_array_size(messages) == (a->system ? 2u : 1u) ||
              error_set(e, "invalid_value", "prompt", "a chat message must be valid UTF-8 text");
    ok = ok && chat_request_encode(&chat, engine_chat_template(engine), engine_tokenizer(engine),
                                   out, NULL, e);
    chat_request_clear(&chat);
    return ok;
}

static bool encode_prompt(const struct run_arguments *a, const struct engine *engine,
                          struct tokens *out, struct error *e)
{
    size_t length = 0;
    char *text = read_prompt(a, &length, e);
    if (!text)
        return false;
    bool done = a->chat ? encode_chat(a, engine, text, length, out, e)
                        : tokenizer_encode_prompt(engine_tokenizer(engine), text, length, false,
                                                  true, out, e);
    free(text);
    return done;
}

/* ---- progress on stderr */

struct progress {
    double started;
    bool terminal, shown;
};

/* On a terminal one line that is overwritten; otherwise a line when loading takes long. */
static bool is_due(struct progress *p, double every)
{
    double now = clock_seconds();
    if (now - p->started < (p->terminal && !p->shown ? 0.2 : every))
        return false;
    p->started = now;
    p->shown = true;
    return true;
}

static void end_line(struct progress *p)
{
    if (p->shown && p->terminal)
        fputs("\r\033[K", stderr);
    p->shown = false;
}

static void show_loading(void *context, const char *what, double share)
{
    struct progress *p = context;
    if (is_due(p, p->terminal ? 0.1 : 1))
        fprintf(stderr, p->terminal ? "\rloading %s %3.0f %%" : "loading %s %3.0f %%\n", what,
                share * 100);
}

static void show_prefill(struct progress *p, const struct request_event *event)
{
    double rate = event->time_ms > 0 ? event->n_done / event->time_ms * 1000 : 0;
    if (event->n_done < event->n_total && is_due(p, p->terminal ? 0.1 : 1))
        fprintf(stderr,
                p->terminal ? "\rprompt %3.0f %% (%.0f tokens/s)"
                            : "prompt %3.0f %% (%.0f tokens/s)\n",
                100.0 * event->n_done / event->n_total, rate);
}

/* ---- the run */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    bool ready;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    if (interrupted)
        _exit(130);
    interrupted = 1;
}

static void notify(void *context)
{
    struct waiter *w = context;
    pthread_mutex_lock(&w->lock);
    w->ready = true;
    pthread_cond_signal(&w->filled);
    pthread_mutex_unlock(&w->lock);
}

/* Waits for the engine, or a tenth of a second, because a signal may have come. */
static void wait_for_events(struct waiter *w)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&w->lock);
    if (!w->ready)
        pthread_cond_timedwait(&w->filled, &w->lock, &until);
    w->ready = false;
    pthread_mutex_unlock(&w->lock);
}

static void print_usage(const struct request_usage *u)
{
    double prompt_s = u->prompt_ms / 1e3, decode_s = u->predicted_ms / 1e3;
    uint32_t n_decoded = u->completion_tokens > 0 ? u->completion_tokens - 1 : 0;
    fprintf(stderr, "\nprompt: %u tokens, %.1f tokens/s; decode: %u tokens, %.1f tokens/s\n",
            u->prompt_tokens, prompt_s > 0 ? u->prompt_tokens / prompt_s : 0, u->completion_tokens,
            decode_s > 0 ? n_decoded / decode_s : 0);
    if (!u->exact && u->tokens_seen)
        fprintf(stderr, "cache: %.0f of %u positions kept, %.2f MiB instead of %.2f MiB\n",
                u->slots_kept, u->tokens_seen, (double)u->bytes / 1048576,
                (double)u->bytes_full / 1048576);
}

/* Streams the events of one request. Returns the exit status. */
static int stream(struct request *request, struct waiter *w, struct progress *progress)
{
    bool cancelled = false;
    for (;;) {
        struct request_event event = request_next(request);
        if (interrupted && !cancelled) {
            request_cancel(request, false);
            cancelled = true;
        }
        switch (event.kind) {
        case EVENT_NONE:
            wait_for_events(w);
            break;
        case EVENT_PROGRESS:
            show_prefill(progress, &event);
            break;
        case EVENT_TEXT:
            end_line(progress);
            if (fwrite(event.text, 1, event.n_text, stdout) != event.n_text || fflush(stdout) != 0)
                interrupted = 1; /* stdout is closed */
            break;
        case EVENT_DONE:
            end_line(progress);
            print_usage(event.usage);
            return cancelled ? 130 : 0;
        case EVENT_ERROR:
            end_line(progress);
            fprintf(stderr, "winnow run: %s\n", event.error->message);
            return 1;
        case EVENT_PROMPT_TOKENS:
        case EVENT_CHOICE_END:
            break;
        }
    }
}

static struct sampling sampling_of(const struct run_arguments *a)
{
    struct sampling s = {.temperature = a->temperature,
                         .top_p = a->top_p,
                         .min_p = a->min_p,
                         .typical_p = 1,
                         .repetition_penalty = a->repetition_penalty,
                         .top_k = (int32_t)a->top_k,
                         .seed = (uint64_t)a->seed};
    if (a->seed == -1 && getrandom(&s.seed, sizeof s.seed, 0) < 0)
        s.seed = (uint64_t)time(NULL);
    return s;
}

static bool make_options(const struct run_arguments *a, const struct engine *engine,
                         struct waiter *waiter, struct request_options *options, struct error *e)
{
    struct tokens tokens = {0};
    *options = (struct request_options){.id = "run",
                                        .sampling = sampling_of(a),
                                        .ignore_eos = a->ignore_eos,
                                        .max_tokens = a->n_tokens,
                                        .n_choices = 1,
                                        .n_logprobs = -1,
                                        .n_prompt_logprobs = -1,
                                        .progress = true,
                                        .notify = notify,
                                        .notify_context = waiter};
    struct plan_limits limits = engine_plan_limits(engine);
    struct plan_asked policy;
    if (!plan_parse_text(a->kv_policy, strlen(a->kv_policy), "--kv-policy", &policy, e) ||
        !encode_prompt(a, engine, &tokens, e)) {
        tokens_free(&tokens);
        return false;
    }
    if (tokens.count == 0 || tokens.count > INT32_MAX) {
        tokens_free(&tokens);
        return error_set(e, "invalid_value", "prompt", "the prompt is empty");
    }
    options->prompt = tokens.data;
    options->n_prompt = (uint32_t)tokens.count;
    options->plan = plan_resolve(&policy, options->n_prompt, &limits, e);
    if (options->plan)
        return true;
    request_options_clear(options);
    return false;
}

static int run(const struct run_arguments *a, struct engine *engine, struct progress *progress)
{
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    struct request_options options;
    struct error e;
    struct request *request = NULL;
    if (make_options(a, engine, &waiter, &options, &e))
        request = engine_submit(engine, &options, &e);
    if (!request) {
        command_line_print_error(OPTION_RUN, &e);
        return 1;
    }
    progress->started = clock_seconds();
    int status = stream(request, &waiter, progress);
    request_release(request);
    return status;
}

static struct engine *open_engine(const struct run_arguments *a, struct progress *progress,
                                  struct error *e)
{
    struct engine_options o = {.model_path = a->model_path,
                               .isa = a->isa,
                               .n_threads = a->n_threads,
                               .n_ctx = a->n_ctx,
                               .chat_template = a->chat_template,
                               .head_profile = a->head_profile,
                               .kv_memory_bytes = a->kv_memory.bytes,
                               .kv_memory_share = a->kv_memory.share,
                               .max_num_seqs = 1,
                               .max_queue = 1,
                               .max_generate = 16384,
                               .progress = show_loading,
                               .progress_context = progress};
    plan_storage_parse(a->kv_storage, &o.kv_storage); /* the option table knows the names */
    struct engine *engine =
        device_pick(&server_devices, a->device, &o.device, e) ? engine_open(&o, e) : NULL;
    end_line(progress);
    return engine;
}

int command_run(int argc, char **argv)
{
    struct run_arguments a = {0};
    struct error e;
    int status;
    if (!command_line_parse(OPTION_RUN, &a, argc, argv, &status))
        return status;
    if (a.prompt && a.prompt_file) {
        error_set(&e, "invalid_value", "", "-p and -f cannot both be given");
        options_clear(OPTION_RUN, &a);
        return command_line_refuse(OPTION_RUN, &e);
    }
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    struct progress progress = {.started = clock_seconds(), .terminal = isatty(STDERR_FILENO) == 1};
    struct engine *engine = open_engine(&a, &progress, &e);
    if (engine) {
        status = run(&a, engine, &progress);
        engine_close(engine);
    } else {
        command_line_print_error(OPTION_RUN, &e);
        status = 1;
    }
    options_clear(OPTION_RUN, &a);
    return status;
}
