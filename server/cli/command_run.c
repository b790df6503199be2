/* `winnow run`: see command_run.h. */
#include "server/cli/command_run.h"

#include <errno.h>
#include <getopt.h>
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
#include "config/base/size.h"
#include "engine/serve/engine.h"
#include "engine/text/chat_request.h"
#include "server/cli/command_line.h"
#include "server/devices.h"

enum { MAX_PROMPT_BYTES = 64 * 1024 * 1024 };

struct arguments {
    struct engine_options engine;
    struct sampling sampling;
    const char *prompt, *prompt_file, *system;
    const char *kv_policy, *device;
    int64_t n_tokens;
    bool chat, help, ignore_eos;
};

static const char usage[] =
    "usage: winnow run MODEL [-p PROMPT | -f FILE] [options]\n"
    "\n"
    "  -m, --model FILE        the model (or as the first argument)\n"
    "  -p, --prompt TEXT       the prompt; \"-\", or no prompt at all: read from stdin\n"
    "  -f, --file FILE         the prompt from a file\n"
    "      --chat              the prompt is a chat message: use the model's template\n"
    "      --system TEXT       the system message before it (with --chat)\n"
    "  -n, --predict N         most tokens to generate (default: rest of the context, or 16384)\n"
    "      --ignore-eos        go on after the end of the text\n"
    "      --temp T            temperature, 0 to 2 (default 1; 0: always the likeliest)\n"
    "      --top-p P, --top-k K, --min-p P, --repeat-penalty R, --seed N\n"
    "      --kv-policy NAME|JSON  how the KV cache is compressed (default full)\n"
    "      --head-profile FILE which heads look things up, for razor, duo and compresskv\n"
    "      --kv-storage TYPE   f16, bf16, q8 or q4 (default f16)\n"
    "      --kv-memory SIZE    memory of the KV cache (default: what the context needs)\n"
    "  -c, --ctx-size N        context (default: as trained)\n"
    "      --device NAME       auto, cpu or cuda (default auto: a GPU where one can be used)\n"
    "  -t, --threads N         threads (default: physical cores)\n"
    "      --isa NAME          plain, avx2 or avx512 (default: the best there is)\n"
    "      --chat-template NAME|FILE\n";

/* ---- the command line */

static bool parse_number(const char *flag, const char *text, double min, double max, double *out,
                         struct error *e)
{
    char shown[80];
    double value;
    if (!number_parse(text, &value) || !(value >= min && value <= max))
        return error_set(e, "invalid_value", flag, "\"%s\" is not a number in %g to %g",
                         error_excerpt(shown, text, strlen(text)), min, max);
    *out = value;
    return true;
}

static bool parse_integer(const char *flag, const char *text, int64_t min, int64_t max,
                          int64_t *out, struct error *e)
{
    char *end, shown[80];
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < min || value > max)
        return error_set(e, "invalid_value", flag, "\"%s\" is not an integer in %lld to %lld",
                         error_excerpt(shown, text, strlen(text)), (long long)min, (long long)max);
    *out = value;
    return true;
}

enum flag {
    FLAG_CHAT = 256,
    FLAG_SYSTEM,
    FLAG_IGNORE_EOS,
    FLAG_TEMP,
    FLAG_TOP_P,
    FLAG_TOP_K,
    FLAG_MIN_P,
    FLAG_REPEAT,
    FLAG_SEED,
    FLAG_KV_POLICY,
    FLAG_KV_MEMORY,
    FLAG_DEVICE,
    FLAG_ISA,
    FLAG_TEMPLATE,
    FLAG_HEAD_PROFILE,
    FLAG_KV_STORAGE
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"model-path", required_argument, NULL, 'm'},
    {"prompt", required_argument, NULL, 'p'},
    {"file", required_argument, NULL, 'f'},
    {"predict", required_argument, NULL, 'n'},
    {"n-predict", required_argument, NULL, 'n'},
    {"max-tokens", required_argument, NULL, 'n'},
    {"ctx-size", required_argument, NULL, 'c'},
    {"max-model-len", required_argument, NULL, 'c'},
    {"threads", required_argument, NULL, 't'},
    {"help", no_argument, NULL, 'h'},
    {"chat", no_argument, NULL, FLAG_CHAT},
    {"system", required_argument, NULL, FLAG_SYSTEM},
    {"ignore-eos", no_argument, NULL, FLAG_IGNORE_EOS},
    {"temp", required_argument, NULL, FLAG_TEMP},
    {"temperature", required_argument, NULL, FLAG_TEMP},
    {"top-p", required_argument, NULL, FLAG_TOP_P},
    {"top-k", required_argument, NULL, FLAG_TOP_K},
    {"min-p", required_argument, NULL, FLAG_MIN_P},
    {"repeat-penalty", required_argument, NULL, FLAG_REPEAT},
    {"seed", required_argument, NULL, FLAG_SEED},
    {"kv-policy", required_argument, NULL, FLAG_KV_POLICY},
    {"kv-memory", required_argument, NULL, FLAG_KV_MEMORY},
    {"device", required_argument, NULL, FLAG_DEVICE},
    {"isa", required_argument, NULL, FLAG_ISA},
    {"chat-template", required_argument, NULL, FLAG_TEMPLATE},
    {"head-profile", required_argument, NULL, FLAG_HEAD_PROFILE},
    {"kv-storage", required_argument, NULL, FLAG_KV_STORAGE},
    {NULL, 0, NULL, 0}};

static bool parse_memory(struct arguments *a, const char *text, struct error *e)
{
    double share;
    if (number_parse(text, &share) && share > 0 && share < 1) {
        a->engine.kv_memory_share = share;
        return true;
    }
    return size_parse(text, &a->engine.kv_memory_bytes) ||
           error_set(e, "invalid_value", "--kv-memory",
                     "neither a size such as 512M nor a share between 0 and 1");
}

static bool parse_flag(struct arguments *a, int flag, const char *text, struct error *e)
{
    int64_t integer = 0;
    bool good = true;
    switch (flag) {
    case 'm':
        a->engine.model_path = text;
        break;
    case 'p':
        a->prompt = text;
        break;
    case 'f':
        a->prompt_file = text;
        break;
    case 'h':
        a->help = true;
        break;
    case FLAG_CHAT:
        a->chat = true;
        break;
    case FLAG_SYSTEM:
        a->system = text;
        break;
    case FLAG_IGNORE_EOS:
        a->ignore_eos = true;
        break;
    case FLAG_KV_POLICY:
        a->kv_policy = text;
        break;
    case FLAG_DEVICE:
        a->device = text;
        break;
    case FLAG_ISA:
        a->engine.isa = text;
        break;
    case FLAG_TEMPLATE:
        a->engine.chat_template = text;
        break;
    case FLAG_HEAD_PROFILE:
        a->engine.head_profile = text;
        break;
    case FLAG_KV_STORAGE:
        if (plan_storage_parse(text, &a->engine.kv_storage))
            break;
        return error_set(e, "invalid_value", "--kv-storage",
                         "--kv-storage: '%.40s' is not one of f16, bf16, q8, q4", text);
    case FLAG_KV_MEMORY:
        return parse_memory(a, text, e);
    case FLAG_TEMP:
        return parse_number("--temp", text, 0, 2, &a->sampling.temperature, e);
    case FLAG_TOP_P:
        return parse_number("--top-p", text, 0, 1, &a->sampling.top_p, e);
    case FLAG_MIN_P:
        return parse_number("--min-p", text, 0, 1, &a->sampling.min_p, e);
    case FLAG_REPEAT:
        return parse_number("--repeat-penalty", text, 1e-3, 10, &a->sampling.repetition_penalty, e);
    case 'n':
        return parse_integer("-n", text, -1, INT32_MAX, &a->n_tokens, e);
    case 'c':
        good = parse_integer("--ctx-size", text, 0, INT32_MAX, &integer, e);
        a->engine.n_ctx = (uint32_t)integer;
        break;
    case 't':
        good = parse_integer("--threads", text, 1, 1024, &integer, e);
        a->engine.n_threads = (uint32_t)integer;
        break;
    case FLAG_TOP_K:
        good = parse_integer("--top-k", text, -1, INT32_MAX, &integer, e);
        a->sampling.top_k = (int32_t)integer;
        break;
    case FLAG_SEED:
        good = parse_integer("--seed", text, INT64_MIN, INT64_MAX, &integer, e);
        a->sampling.seed = (uint64_t)integer;
        break;
    default:
        return error_set(e, "invalid_value", "", "unknown option or missing value");
    }
    return good;
}

static bool parse_arguments(struct arguments *a, int argc, char **argv, struct error *e)
{
    *a = (struct arguments){
        .engine = {.max_num_seqs = 1, .max_queue = 1, .max_generate = 16384},
        .sampling = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1},
        .n_tokens = -1,
        .kv_policy = "full"};
    if (getrandom(&a->sampling.seed, sizeof a->sampling.seed, 0) < 0)
        a->sampling.seed = (uint64_t)time(NULL);
    optind = 1;
    int flag;
    while ((flag = getopt_long(argc, argv, "m:p:f:n:c:t:h", long_options, NULL)) != -1)
        if (!parse_flag(a, flag, optarg, e))
            return false;
    if (!command_line_model(argc, argv, a->help, &a->engine.model_path, e))
        return false;
    if (a->help)
        return true;
    if (a->prompt && a->prompt_file)
        return error_set(e, "invalid_value", "", "-p and -f cannot both be given");
    return true;
}

/* ---- the prompt */

/* malloc'ed */
static char *read_prompt(const struct arguments *a, size_t *length, struct error *e)
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

/* One user message through the model's chat template. */
static bool encode_chat(const struct arguments *a, const struct engine *engine, const char *text,
                        size_t length, struct tokens *out, struct error *e)
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

static bool encode_prompt(const struct arguments *a, const struct engine *engine,
                          struct tokens *out, struct error *e)
{
    size_t length = 0;
    char *text = read_prompt(a, &length, e);
    if (!text)
        return false;
    bool done = a->chat ? encode_chat(a, engine, text, length, out, e)
                        : tokenizer_encode_text(engine_tokenizer(engine), text, length, false, true,
                                                out, e);
    free(text);
    return done;
}

/* ---- progress on stderr */

struct progress {
    double started;
    bool terminal, shown;
};

/* A line that overwrites itself on a terminal; elsewhere it appears once a wait is felt. */
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

/* Until the engine has something, or a tenth of a second has passed (a signal may have come). */
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
static int stream(struct request *g, struct waiter *w, struct progress *progress)
{
    bool cancelled = false;
    for (;;) {
        struct request_event event = request_next(g);
        if (interrupted && !cancelled) {
            request_cancel(g, false);
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
                interrupted = 1; /* nobody reads any more */
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

static bool make_request(const struct arguments *a, const struct engine *engine,
                         struct waiter *waiter, struct request_options *r, struct error *e)
{
    struct tokens tokens = {0};
    *r = (struct request_options){.id = "run",
                                  .sampling = a->sampling,
                                  .ignore_eos = a->ignore_eos,
                                  .max_tokens = a->n_tokens,
                                  .n_choices = 1,
                                  .n_logprobs = -1,
                                  .n_prompt_logprobs = -1,
                                  .progress = true,
                                  .notify = notify,
                                  .notify_context = waiter};
    struct plan_limits limits = engine_plan_limits(engine);
    if (!plan_parse_text(a->kv_policy, strlen(a->kv_policy), "--kv-policy", &r->plan, e) ||
        !encode_prompt(a, engine, &tokens, e)) {
        tokens_free(&tokens);
        return false;
    }
    if (tokens.count == 0 || tokens.count > INT32_MAX) {
        tokens_free(&tokens);
        return error_set(e, "invalid_value", "prompt", "the prompt is empty");
    }
    r->prompt = tokens.data;
    r->n_prompt = (uint32_t)tokens.count;
    if (plan_resolve(&r->plan, r->n_prompt, &limits, e))
        return true;
    request_options_clear(r);
    return false;
}

static int run(const struct arguments *a, struct engine *engine, struct progress *progress)
{
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    struct request_options request;
    struct error e;
    struct request *g = NULL;
    if (make_request(a, engine, &waiter, &request, &e))
        g = engine_submit(engine, &request, &e);
    if (!g) {
        fprintf(stderr, "winnow run: %s%s%s\n", e.where, e.where[0] ? ": " : "", e.message);
        return 1;
    }
    progress->started = clock_seconds();
    int status = stream(g, &waiter, progress);
    request_release(g);
    return status;
}

int command_run(int argc, char **argv)
{
    struct arguments a;
    struct error e;
    if (!parse_arguments(&a, argc, argv, &e)) {
        fprintf(stderr, "winnow run: %s%s%s\n%s", e.where, e.where[0] ? ": " : "", e.message,
                usage);
        return 2;
    }
    if (a.help) {
        fputs(usage, stdout);
        return 0;
    }
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    struct progress progress = {.started = clock_seconds(), .terminal = isatty(STDERR_FILENO) == 1};
    a.engine.progress = show_loading;
    a.engine.progress_context = &progress;
    struct engine *engine = device_pick(&server_devices, a.device, &a.engine.device, &e)
                                ? engine_open(&a.engine, &e)
                                : NULL;
    end_line(&progress);
    if (!engine) {
        fprintf(stderr, "winnow run: %s%s%s\n", e.where, e.where[0] ? ": " : "", e.message);
        return 1;
    }
    int status = run(&a, engine, &progress);
    engine_close(engine);
    return status;
}
