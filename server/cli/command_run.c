/* `winnow run MODEL [-p PROMPT | -f FILE] ...`: one prompt on the terminal, or a chat. A model with a
 * chat template gets the prompt as a message, other models continue it. The answer goes to stdout,
 * everything else to stderr. Ctrl-C ends it with status 130. Main thread; it has its own engine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/base/clock.h"
#include "config/base/file.h"
#include "server/api/plan_json.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"
#include "server/cli/run_chat.h"
#include "server/cli/run_session.h"
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

static bool has_template(const struct run_session *s)
{
    return engine_model(s->engine)->chat_template.data || s->arguments->chat_template;
}

/* Whether the prompt is a message: --chat and --raw say so, else the model's file. */
static bool is_chat(const struct run_session *s)
{
    return s->arguments->chat || (!s->arguments->raw && has_template(s));
}

static bool encode_message(const struct run_session *s, const char *text, size_t length,
                           struct tokens *out, struct error *e)
{
    const char *system = s->arguments->system;
    json_t *messages = json_array();
    bool ok = messages || error_set_memory(e, "a message", length);
    if (ok && system)
        ok = run_add_message(messages, "system", system, strlen(system), e);
    ok = ok && run_add_message(messages, "user", text, length, e) &&
         run_encode_chat(s->engine, messages, out, e);
    json_decref(messages);
    return ok;
}

static bool encode_prompt(const struct run_session *s, struct tokens *out, struct error *e)
{
    size_t length = 0;
    char *text = read_prompt(s->arguments, &length, e);
    if (!text)
        return false;
    bool done = is_chat(s) ? encode_message(s, text, length, out, e)
                           : tokenizer_encode_prompt(engine_tokenizer(s->engine), text, length,
                                                     false, true, out, e);
    free(text);
    return done;
}

/* ---- the run */

static bool run_prompt(struct run_session *s, struct error *e)
{
    struct tokens tokens = {0};
    struct plan_asked policy;
    struct run_answer answer;
    const char *text = s->arguments->kv_policy;
    if (!plan_parse_text(text, strlen(text), "--kv-policy", &policy, e))
        return false;
    if (!encode_prompt(s, &tokens, e)) {
        tokens_free(&tokens);
        return false;
    }
    bool done = run_answer(s, &tokens, &policy, NULL, &answer, e);
    if (done) {
        run_print_limit(s, &answer);
        run_print_usage(&answer);
    }
    bytes_clear(&answer.text);
    return done;
}

static int run(struct run_session *s)
{
    const struct run_arguments *a = s->arguments;
    struct error e;
    if (a->system && !is_chat(s)) {
        error_set(&e, "invalid_value", "--system", "--system needs a chat template, and %s",
                  a->raw ? "--raw uses none"
                         : "the model has none: add --chat to use one that fits "
                           "its vocabulary, or --chat-template");
        return command_line_refuse(OPTION_RUN, &e);
    }
    const bool asks = !a->prompt && !a->prompt_file && isatty(STDIN_FILENO) == 1;
    if (asks && is_chat(s))
        return run_chat(s, stdin);
    if (asks)
        fputs("Type the beginning of a text; Ctrl-D on an empty line ends it.\n", stderr);
    if (run_prompt(s, &e))
        return run_interrupted ? 130 : 0;
    command_line_print_error(OPTION_RUN, &e);
    return 1;
}

static struct engine *open_engine(struct run_session *s, struct error *e)
{
    const struct run_arguments *a = s->arguments;
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
                               .session_ttl_ms = UINT32_MAX,
                               .progress = run_show_loading,
                               .progress_context = &s->progress};
    plan_storage_parse(a->kv_storage, &o.kv_storage); /* the option table knows the names */
    struct engine *engine =
        device_pick(&server_devices, a->device, &o.device, e) ? engine_open(&o, e) : NULL;
    run_end_line(&s->progress);
    return engine;
}

int command_run(int argc, char **argv)
{
    /* Not given: what the model recommends. */
    struct run_arguments a = {
        .temperature = NAN, .top_p = NAN, .min_p = NAN, .top_k = RUN_NO_TOP_K};
    struct error e;
    int status;
    if (!command_line_parse(OPTION_RUN, &a, argc, argv, &status))
        return status;
    if ((a.prompt && a.prompt_file) || (a.chat && a.raw)) {
        error_set(&e, "invalid_value", "", "%s cannot both be given",
                  a.chat && a.raw ? "--chat and --raw" : "-p and -f");
        options_clear(OPTION_RUN, &a);
        return command_line_refuse(OPTION_RUN, &e);
    }
    run_catch_interrupts();
    struct run_session session = {
        .arguments = &a,
        .progress = {.started = clock_seconds(), .terminal = isatty(STDERR_FILENO) == 1},
        .waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false}};
    session.engine = open_engine(&session, &e);
    if (session.engine) {
        status = run(&session);
        engine_close(session.engine);
    } else {
        command_line_print_error(OPTION_RUN, &e);
        status = 1;
    }
    options_clear(OPTION_RUN, &a);
    return status;
}
