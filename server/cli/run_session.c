/* One request on the terminal: see run_session.h. */
#include "server/cli/run_session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "config/base/clock.h"

/* ---- progress on stderr */

/* On a terminal one line that is overwritten; otherwise a line when loading takes long. */
static bool is_due(struct run_progress *p, double every)
{
    double now = clock_seconds();
    if (now - p->started < (p->terminal && !p->shown ? 0.2 : every))
        return false;
    p->started = now;
    p->shown = true;
    return true;
}

void run_end_line(struct run_progress *p)
{
    if (p->shown && p->terminal)
        fputs("\r\033[K", stderr);
    p->shown = false;
}

void run_show_loading(void *context, const char *what, double share)
{
    struct run_progress *p = context;
    if (is_due(p, p->terminal ? 0.1 : 1))
        fprintf(stderr, p->terminal ? "\rloading %s %3.0f %%" : "loading %s %3.0f %%\n", what,
                share * 100);
}

static void show_prefill(struct run_progress *p, const struct request_event *event)
{
    double rate = event->time_ms > 0 ? event->n_done / event->time_ms * 1000 : 0;
    if (event->n_done < event->n_total && is_due(p, p->terminal ? 0.1 : 1))
        fprintf(stderr,
                p->terminal ? "\rprompt %3.0f %% (%.0f tokens/s)"
                            : "prompt %3.0f %% (%.0f tokens/s)\n",
                100.0 * event->n_done / event->n_total, rate);
}

/* ---- waiting */

volatile sig_atomic_t run_interrupted;

static void on_interrupt(int number)
{
    (void)number;
    if (run_interrupted)
        _exit(130);
    run_interrupted = 1;
}

void run_catch_interrupts(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
}

static void notify(void *context)
{
    struct run_waiter *w = context;
    pthread_mutex_lock(&w->lock);
    w->ready = true;
    pthread_cond_signal(&w->filled);
    pthread_mutex_unlock(&w->lock);
}

/* Waits for the engine, or a tenth of a second, because a signal may have come. */
static void wait_for_events(struct run_waiter *w)
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

/* ---- the request */

/* Streams the events of one request. */
static bool stream(struct run_session *s, struct request *request, struct run_answer *a,
                   struct error *e)
{
    for (;;) {
        struct request_event event = request_next(request);
        if (run_interrupted && !a->cancelled) {
            request_cancel(request, false);
            a->cancelled = true;
        }
        switch (event.kind) {
        case EVENT_NONE:
            wait_for_events(&s->waiter);
            break;
        case EVENT_PROGRESS:
            show_prefill(&s->progress, &event);
            break;
        case EVENT_TEXT:
            run_end_line(&s->progress);
            if (fwrite(event.text, 1, event.n_text, stdout) != event.n_text || fflush(stdout) != 0)
                run_interrupted = 1;                              /* stdout is closed */
            if (!bytes_add(&a->text, event.text, event.n_text)) { /* for a chat's next turn */
                request_cancel(request, false);
                return error_set_memory(e, "the answer", a->text.length + event.n_text);
            }
            break;
        case EVENT_CHOICE_END:
            a->finish = event.finish;
            break;
        case EVENT_DONE:
            run_end_line(&s->progress);
            a->usage = *event.usage;
            a->has_usage = true;
            return true;
        case EVENT_ERROR:
            run_end_line(&s->progress);
            *e = *event.error;
            return false;
        case EVENT_PROMPT_TOKENS:
            break;
        }
    }
}

/* What the command line says, else what the model's file recommends, else values that suit small
 * chat models. */
static struct sampling sampling_of(const struct run_arguments *a, const struct model *m)
{
    const struct model_sampling *own = &m->recommended;
    struct sampling s = {.temperature = 0.8,
                         .top_k = 40,
                         .top_p = 0.95,
                         .min_p = 0.05,
                         .typical_p = 1,
                         .repetition_penalty = a->repetition_penalty,
                         .seed = (uint64_t)a->seed};
    const bool recommends =
        own->temperature >= 0 || own->top_k >= 0 || own->top_p >= 0 || own->min_p >= 0;
    if (recommends) {
        s.temperature = own->temperature >= 0 ? own->temperature : 1;
        s.top_k = own->top_k >= 0 ? own->top_k : 0;
        s.top_p = own->top_p >= 0 ? own->top_p : 1;
        s.min_p = own->min_p >= 0 ? own->min_p : 0;
    }
    s.temperature = isnan(a->temperature) ? s.temperature : a->temperature;
    s.top_p = isnan(a->top_p) ? s.top_p : a->top_p;
    s.min_p = isnan(a->min_p) ? s.min_p : a->min_p;
    s.top_k = a->top_k == RUN_NO_TOP_K ? s.top_k : (int32_t)a->top_k;
    if (a->seed == -1 && getrandom(&s.seed, sizeof s.seed, 0) < 0)
        s.seed = (uint64_t)time(NULL);
    return s;
}

static bool set_options(struct run_session *s, struct tokens *prompt,
                        const struct plan_asked *policy, const char *session_id,
                        struct request_options *options, struct error *e)
{
    const struct run_arguments *a = s->arguments;
    const struct plan_limits limits = engine_plan_limits(s->engine);
    *options = (struct request_options){.id = "run",
                                        .sampling = sampling_of(a, engine_model(s->engine)),
                                        .ignore_eos = a->ignore_eos,
                                        .max_tokens = a->n_tokens,
                                        .n_choices = 1,
                                        .n_logprobs = -1,
                                        .n_prompt_logprobs = -1,
                                        .progress = true,
                                        .reuse_prefix = session_id != NULL,
                                        .notify = notify,
                                        .notify_context = &s->waiter};
    if (prompt->count == 0 || prompt->count > INT32_MAX) {
        tokens_free(prompt);
        return error_set(e, "invalid_value", "prompt", "the prompt is empty");
    }
    options->prompt = prompt->data;
    options->n_prompt = (uint32_t)prompt->count;
    *prompt = (struct tokens){0};
    options->session_id = session_id ? strdup(session_id) : NULL;
    if (session_id && !options->session_id)
        error_set_memory(e, "a session", strlen(session_id));
    else
        options->plan = plan_resolve(policy, options->n_prompt, &limits, e);
    if (options->plan)
        return true;
    request_options_clear(options);
    return false;
}

bool run_answer(struct run_session *s, struct tokens *prompt, const struct plan_asked *policy,
                const char *session_id, struct run_answer *answer, struct error *e)
{
    struct request_options options;
    *answer = (struct run_answer){.finish = FINISH_STOP};
    if (!set_options(s, prompt, policy, session_id, &options, e))
        return false;
    struct request *request = engine_submit(s->engine, &options, e);
    if (!request)
        return false;
    s->progress.started = clock_seconds();
    bool done = stream(s, request, answer, e);
    request_release(request);
    return done;
}

/* ---- after it */

void run_print_usage(const struct run_answer *answer)
{
    const struct request_usage *u = &answer->usage;
    const uint32_t n_computed = u->prompt_tokens - u->cached_tokens;
    double prompt_s = u->prompt_ms / 1e3, decode_s = u->predicted_ms / 1e3;
    uint32_t n_decoded = u->completion_tokens > 0 ? u->completion_tokens - 1 : 0;
    fprintf(stderr, "\nprompt: %u tokens", u->prompt_tokens);
    if (u->cached_tokens)
        fprintf(stderr, ", %u of them computed", n_computed);
    fprintf(stderr, ", %.1f tokens/s; decode: %u tokens, %.1f tokens/s\n",
            prompt_s > 0 ? n_computed / prompt_s : 0, u->completion_tokens,
            decode_s > 0 ? n_decoded / decode_s : 0);
    if (!u->exact && u->tokens_seen)
        fprintf(stderr, "cache: %.0f of %u positions kept, %.2f MiB instead of %.2f MiB\n",
                u->slots_kept, u->tokens_seen, (double)u->bytes / 1048576,
                (double)u->bytes_full / 1048576);
}

void run_print_limit(const struct run_session *s, const struct run_answer *answer)
{
    if (answer->finish != FINISH_LENGTH)
        return;
    if (s->arguments->n_tokens >= 0 &&
        answer->usage.completion_tokens >= (uint64_t)s->arguments->n_tokens)
        fprintf(stderr, "\n[the answer was cut after %u tokens; -n changes the limit]\n",
                answer->usage.completion_tokens);
    else
        fprintf(stderr, "\n[the context of %u tokens is full]\n", engine_n_ctx(s->engine));
}
