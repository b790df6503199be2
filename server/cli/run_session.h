/* One request on the terminal for `winnow run`: submits it, streams the answer to stdout and shows
 * progress on stderr. Main thread; Ctrl-C sets a flag that run_answer reads. */
#ifndef WINNOW_SERVER_CLI_RUN_SESSION_H
#define WINNOW_SERVER_CLI_RUN_SESSION_H

#include <pthread.h>
#include <signal.h>

#include "config/arguments.h"
#include "config/base/bytes.h"
#include "engine/serve/engine.h"

struct run_progress {
    double started;
    bool terminal, shown;
};

struct run_waiter {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    bool ready;
};

struct run_session {
    const struct run_arguments *arguments;
    struct engine *engine;
    struct run_progress progress;
    struct run_waiter waiter;
};

/* What came of one request. */
struct run_answer {
    struct bytes text;
    enum finish_reason finish;
    bool cancelled, has_usage;
    struct request_usage usage;
};

/* SIGINT sets it. Until somebody has cleared it a second one ends the program with status 130. */
extern volatile sig_atomic_t run_interrupted;
void run_catch_interrupts(void);

/* For engine_options.progress; context: struct run_progress. */
void run_show_loading(void *context, const char *what, double share);
void run_end_line(struct run_progress *p);

/* Runs a prompt, whose tokens it frees, under `policy`. session_id NULL: the cache is freed with
 * the answer. The caller clears answer->text, also after an error. False: the error says why. */
bool run_answer(struct run_session *s, struct tokens *prompt, const struct plan_asked *policy,
                const char *session_id, struct run_answer *answer, struct error *e);
/* "prompt: 12 tokens ...; decode: ..." and what the cache holds, to stderr. */
void run_print_usage(const struct run_answer *answer);
/* Says on stderr that an answer was cut by its limit. */
void run_print_limit(const struct run_session *s, const struct run_answer *answer);

#endif
