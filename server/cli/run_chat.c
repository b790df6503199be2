/* A chat on the terminal: see run_chat.h.
 *
 * All turns are one session of the engine. A turn's prompt is the whole chat, and its beginning is
 * what the session's cache was made of, so only the new tokens are computed. After /policy the next
 * turn computes the chat again, under the new policy.
 *
 * Answers go to stdout, everything else to stderr. Lines come from the terminal's own editor. */
#include "server/cli/run_chat.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/preset.h"
#include "config/base/file.h"
#include "engine/text/chat_request.h"
#include "server/api/plan_json.h"
#include "server/cli/command_line.h"

enum { MAX_MESSAGE_BYTES = 64 * 1024 * 1024 };

static const char help[] = "  /policy NAME    another cache policy, such as snapkv or "
                           "{\"name\":\"snapkv\",\"budget\":0.2};\n"
                           "                  alone: the policy that is used, and the names\n"
                           "  /stats          what the cache holds after the last answer\n"
                           "  /file PATH      sends a file as the message\n"
                           "  /clear          forgets the chat\n"
                           "  /exit           ends, as Ctrl-D does; Ctrl-C stops an answer\n"
                           "A line that ends in \\ goes on in the next one.\n";

struct chat {
    struct run_session *run;
    json_t *messages;
    struct plan_asked policy;
    struct run_answer last; /* its usage; the text is in the messages */
    FILE *in;
};

/* ---- messages */

bool run_add_message(json_t *messages, const char *role, const char *text, size_t length,
                     struct error *e)
{
    json_t *message = json_pack("{s:s, s:s%}", "role", role, "content", text, length);
    if (!message)
        return error_set(e, "invalid_value", "prompt", "a chat message must be valid UTF-8 text");
    return json_array_append_new(messages, message) == 0 ||
           error_set_memory(e, "a message", length);
}

bool run_encode_chat(const struct engine *engine, json_t *messages, struct tokens *out,
                     struct error *e)
{
    struct chat_request chat = {.messages = messages, .add_generation_prompt = true};
    return chat_request_encode(&chat, engine_chat_template(engine), engine_tokenizer(engine), out,
                               NULL, e);
}

static void start_chat(struct chat *c)
{
    const char *system = c->run->arguments->system;
    struct error e;
    json_array_clear(c->messages);
    if (system && !run_add_message(c->messages, "system", system, strlen(system), &e))
        command_line_print_error(OPTION_RUN, &e);
}

/* ---- turns */

/* Takes the last message back when it could not be answered. */
static void take_back(struct chat *c, const struct error *e)
{
    json_array_remove(c->messages, json_array_size(c->messages) - 1);
    fprintf(stderr, "%s\n", e->message);
    if (!strcmp(e->code, "context_length_exceeded"))
        fputs("/clear begins a new chat.\n", stderr);
}

static void say(struct chat *c, const char *text, size_t length)
{
    struct tokens tokens = {0};
    struct error e;
    if (!run_add_message(c->messages, "user", text, length, &e)) {
        fprintf(stderr, "%s\n", e.message);
        return;
    }
    if (!run_encode_chat(c->run->engine, c->messages, &tokens, &e)) {
        tokens_free(&tokens);
        take_back(c, &e);
        return;
    }
    bytes_clear(&c->last.text);
    bool done = run_answer(c->run, &tokens, &c->policy, "chat", &c->last, &e);
    run_interrupted = 0;
    if (!done) {
        take_back(c, &e);
        return;
    }
    putchar('\n');
    fflush(stdout);
    run_print_limit(c->run, &c->last);
    if (!run_add_message(c->messages, "assistant", c->last.text.data ? c->last.text.data : "",
                         c->last.text.length, &e))
        take_back(c, &e);
}

static void say_file(struct chat *c, const char *path)
{
    struct error e;
    size_t length;
    struct file_wanted w = {.path = path, .what = path, .where = path, .most = MAX_MESSAGE_BYTES};
    char *text = file_read(&w, &length, &e);
    if (text)
        say(c, text, length);
    else
        fprintf(stderr, "%s\n", e.message);
    free(text);
}

/* ---- commands */

static void print_policy(const struct chat *c)
{
    fprintf(stderr, "policy %s. There are", c->policy.preset->name);
    for (uint32_t i = 0; i < preset_count(); i++)
        fprintf(stderr, "%s %s", i ? "," : "", preset_at(i)->name);
    fputs(".\n", stderr);
}

/* Takes a policy that can be used, at least for a prompt of some length. */
static void set_policy(struct chat *c, const char *text)
{
    struct plan_asked asked;
    struct error e;
    const struct plan_limits limits = engine_plan_limits(c->run->engine);
    const struct plan *plan = NULL;
    if (plan_parse_text(text, strlen(text), "policy", &asked, &e))
        plan = plan_resolve(&asked, engine_n_ctx(c->run->engine), &limits, &e);
    if (!plan) {
        fprintf(stderr, "%s\n", e.message);
        return;
    }
    plan_release(plan);
    asked.source = SOURCE_DEFAULT; /* a session of another policy gives way */
    c->policy = asked;
    fprintf(stderr, "policy %s from the next message on, which computes the chat again\n",
            asked.preset->name);
}

static void print_stats(const struct chat *c)
{
    const struct request_usage *u = &c->last.usage;
    if (!c->last.has_usage) {
        fputs("Nothing has been answered yet.\n", stderr);
        return;
    }
    run_print_usage(&c->last);
    fprintf(stderr, "policy: %s", u->policy ? u->policy : "-");
    if (u->budget)
        fprintf(stderr, ", budget %u slots a head", u->budget);
    fprintf(stderr,
            "\nheads hold %u to %u of %u tokens, %.0f on average: %.2f of %.2f MiB, %u pages\n",
            u->slots_kept_min, u->slots_kept_max, u->tokens_seen, u->slots_kept,
            (double)u->bytes / 1048576, (double)u->bytes_full / 1048576, u->pages);
    fprintf(stderr, "%s\n",
            u->session_reused ? "the last turn went on with the cache of the turns before"
                              : "the last turn computed the whole chat");
}

/* False: the chat is over. */
static bool obey(struct chat *c, char *line)
{
    char *argument = line + strcspn(line, " \t");
    if (*argument)
        *argument++ = 0;
    argument += strspn(argument, " \t");
    if (!strcmp(line, "/exit") || !strcmp(line, "/quit") || !strcmp(line, "/bye"))
        return false;
    if (!strcmp(line, "/help") || !strcmp(line, "/?"))
        fputs(help, stderr);
    else if (!strcmp(line, "/stats"))
        print_stats(c);
    else if (!strcmp(line, "/policy") && *argument)
        set_policy(c, argument);
    else if (!strcmp(line, "/policy"))
        print_policy(c);
    else if (!strcmp(line, "/clear"))
        start_chat(c);
    else if (!strcmp(line, "/file") && *argument)
        say_file(c, argument);
    else
        fprintf(stderr, "There is no command %s. /help lists them.\n", line);
    return true;
}

/* ---- lines */

/* One message, which the caller frees; lines that end in \ are joined. NULL at the end of input or
 * after Ctrl-C. */
static char *read_message(FILE *in, size_t *length)
{
    char *text = NULL, *line = NULL;
    size_t room = 0, n_text = 0;
    ssize_t n;
    fputs("> ", stderr);
    while ((n = getline(&line, &room, in)) > 0) {
        size_t n_line = (size_t)n - (line[n - 1] == '\n');
        bool goes_on = n_line > 0 && line[n_line - 1] == '\\';
        char *longer = realloc(text, n_text + n_line + 2);
        if (!longer)
            break;
        text = longer;
        memcpy(text + n_text, line, n_line);
        n_text += n_line - goes_on;
        if (goes_on)
            text[n_text++] = '\n';
        text[n_text] = 0;
        if (!goes_on) {
            free(line);
            *length = n_text;
            return text;
        }
        fputs(". ", stderr);
    }
    free(line);
    free(text);
    return NULL;
}

int run_chat(struct run_session *s, FILE *in)
{
    struct chat c = {.run = s, .messages = json_array(), .in = in};
    struct error e;
    const char *policy = s->arguments->kv_policy;
    if (!c.messages || !plan_parse_text(policy, strlen(policy), "--kv-policy", &c.policy, &e)) {
        if (c.messages)
            command_line_print_error(OPTION_RUN, &e);
        json_decref(c.messages);
        return 1;
    }
    c.policy.source = SOURCE_DEFAULT;
    start_chat(&c);
    fprintf(stderr, "%s, policy %s. /help lists the commands, Ctrl-D ends.\n",
            engine_model(s->engine)->name, c.policy.preset->name);
    char *message;
    size_t length = 0;
    bool goes_on = true;
    while (goes_on && (message = read_message(in, &length))) {
        size_t blank = strspn(message, " \t\r\n");
        if (message[blank] == '/' && isalpha((unsigned char)message[blank + 1]))
            goes_on = obey(&c, message + blank);
        else if (blank < length)
            say(&c, message, length);
        free(message);
    }
    if (goes_on)
        fputc('\n', stderr);
    bytes_clear(&c.last.text);
    json_decref(c.messages);
    return run_interrupted ? 130 : 0;
}
