/* Sessions: caches that wait for the next turn of their conversation. First the store alone, over a
 * cache without bytes; then turns through an engine. */
#include <pthread.h>

#include "engine/serve/session.h"
#include "tests/suite.h"
#include "tests/unit/answers.h"

/* ---- the store */

enum { N_PAGES = 64, N_TOKENS = 40, TTL_NS = 1000, PAGES_EACH = 2 * 2 };

static struct error e;
static struct cache *cache;
static struct session_store store;
static struct plan full;

static void set_up(void)
{
    struct plan_limits limits = {.n_ctx_train = 512};
    cache = cache_new(1, 2, 8, N_PAGES, &e);
    ck_assert(cache && session_store_init(&store, TTL_NS, &e));
    full = plan_of_text("full", N_TOKENS, &limits);
}

static void tear_down(void)
{
    session_store_clear(&store);
    ck_assert_uint_eq(cache_counts(cache).used, 0);
    cache_free(cache);
}

static struct session *make(const char *id, uint32_t owner_key)
{
    struct session *x = calloc(1, sizeof *x);
    snprintf(x->id, sizeof x->id, "%s", id);
    x->owner_key = owner_key;
    x->plan = &full;
    x->n_tokens = N_TOKENS;
    x->tokens = calloc(N_TOKENS, sizeof *x->tokens);
    x->cache = cache_sequence_new(cache, &full, &e);
    for (uint32_t n = 0; n < N_TOKENS; n += 20)
        ck_assert_ptr_nonnull(cache_place(x->cache, 20, &e));
    return x;
}

static void put(const char *id, uint32_t owner_key, uint64_t now_ns)
{
    session_put(&store, make(id, owner_key), now_ns);
}

static uint32_t list(const char *id, uint32_t owner_key, bool all, uint64_t now_ns,
                     struct session_info *out, uint32_t most)
{
    return session_list(&store, id, owner_key, all, now_ns, out, most);
}

START_TEST(a_session_is_taken_once_and_its_pages_are_those_of_its_cache)
{
    set_up();
    put("talk", 0, 5);
    ck_assert_uint_eq(store.count, 1);
    ck_assert_uint_eq(store.pages, PAGES_EACH);
    ck_assert_uint_eq(cache_counts(cache).used, PAGES_EACH);
    struct session *x = session_take(&store, "talk", 0);
    ck_assert(x && x->n_tokens == N_TOKENS && x->made_ns == 5 && x->used_ns == 5);
    ck_assert_uint_eq(store.count + store.pages, 0);
    ck_assert_ptr_null(session_take(&store, "talk", 0));
    session_put(&store, x, 9);
    x = session_take(&store, "talk", 0);
    ck_assert(x->made_ns == 5 && x->used_ns == 9);
    session_free(x);
    session_free(NULL);
    tear_down();
}
END_TEST

START_TEST(a_key_sees_its_own_sessions_only)
{
    set_up();
    struct session_info info[4];
    uint32_t pages = 0;
    put("talk", 1, 0);
    ck_assert_ptr_null(session_take(&store, "talk", 2));
    ck_assert_ptr_null(session_plan(&store, "talk", 2));
    ck_assert_ptr_eq(session_plan(&store, "talk", 1), &full);
    ck_assert_uint_eq(list(NULL, 2, false, 0, info, 4), 0);
    ck_assert_uint_eq(list(NULL, 1, false, 0, info, 4), 1);
    ck_assert_uint_eq(list(NULL, 2, true, 0, info, 4), 1);
    ck_assert(!session_delete(&store, "talk", 2, false, &pages));
    ck_assert(session_delete(&store, "talk", 2, true, &pages));
    ck_assert_uint_eq(pages, PAGES_EACH);
    tear_down();
}
END_TEST

START_TEST(a_list_has_the_last_used_first_and_says_how_long_each_stays)
{
    set_up();
    struct session_info info[4];
    put("a", 0, 1000000);
    put("b", 0, 1000400);
    ck_assert_uint_eq(list(NULL, 0, false, 1000600, info, 4), 2);
    ck_assert_str_eq(info[0].id, "b");
    ck_assert_str_eq(info[1].id, "a");
    ck_assert_str_eq(info[1].policy, "full");
    ck_assert_uint_eq(info[1].n_tokens, N_TOKENS);
    ck_assert_uint_eq(info[1].pages, PAGES_EACH);
    ck_assert_double_eq_tol(info[1].slots_kept, N_TOKENS, 1e-9);
    ck_assert_double_eq_tol(info[1].age_ms, 600e-6, 1e-9);
    ck_assert_double_eq_tol(info[1].expires_in_ms, 400e-6, 1e-9);
    ck_assert_uint_eq(list(NULL, 0, false, 0, info, 1), 1);
    ck_assert_str_eq(info[0].id, "b");
    ck_assert_uint_eq(list("a", 0, false, 0, info, 4), 1);
    ck_assert_str_eq(info[0].id, "a");
    tear_down();
}
END_TEST

START_TEST(idle_sessions_expire_and_the_next_end_is_said)
{
    set_up();
    ck_assert_uint_eq(session_expire(&store, 0), 0);
    put("a", 0, 100);
    put("b", 0, 300);
    ck_assert_uint_eq(session_expire(&store, 200), 100 + TTL_NS);
    ck_assert_uint_eq(store.count, 2);
    ck_assert_uint_eq(session_expire(&store, 100 + TTL_NS), 300 + TTL_NS);
    ck_assert_uint_eq(store.count, 1);
    ck_assert_uint_eq(cache_counts(cache).used, PAGES_EACH);
    ck_assert_uint_eq(session_expire(&store, 10 * TTL_NS), 0);
    ck_assert_uint_eq(cache_counts(cache).used, 0);
    tear_down();
}
END_TEST

START_TEST(the_session_that_was_used_longest_ago_is_given_up_first)
{
    set_up();
    put("old", 0, 1);
    put("new", 0, 2);
    session_put(&store, session_take(&store, "old", 0), 3); /* it is the last used now */
    ck_assert(session_give_up(&store));
    ck_assert_ptr_null(session_take(&store, "new", 0));
    ck_assert_uint_eq(cache_counts(cache).used, PAGES_EACH);
    ck_assert(session_give_up(&store));
    ck_assert(!session_give_up(&store));
    tear_down();
}
END_TEST

START_TEST(a_deleted_session_gives_its_pages_back_at_the_engines_next_look)
{
    set_up();
    uint32_t pages = 0;
    put("a", 0, 0);
    put("b", 0, 0);
    ck_assert(session_delete(&store, "a", 0, false, &pages));
    ck_assert(!session_delete(&store, "a", 0, false, &pages));
    ck_assert_uint_eq(store.count, 1);
    ck_assert_uint_eq(store.pages, PAGES_EACH);
    ck_assert_uint_eq(cache_counts(cache).used, 2 * PAGES_EACH);
    session_expire(&store, 1);
    ck_assert_uint_eq(cache_counts(cache).used, PAGES_EACH);
    ck_assert(session_delete(&store, "b", 0, false, &pages));
    tear_down(); /* frees the deleted too */
}
END_TEST

static _Atomic bool stop;

static void *list_and_delete(void *unused)
{
    struct session_info info[8];
    uint32_t pages;
    for (uint32_t i = 0; !stop; i++) {
        session_list(&store, NULL, 0, false, i, info, 8);
        plan_release(session_plan(&store, "1", 0));
        if (i % 64 == 0)
            session_delete(&store, "3", 0, false, &pages);
        ck_assert_uint_le(store.pages, 8 * PAGES_EACH);
    }
    return unused;
}

START_TEST(the_loop_lists_and_deletes_while_the_engine_puts_and_takes)
{
    set_up();
    pthread_t loop;
    stop = false;
    ck_assert_int_eq(pthread_create(&loop, NULL, list_and_delete, NULL), 0);
    for (uint32_t i = 0; i < 4000; i++) {
        char id[8];
        snprintf(id, sizeof id, "%u", i % 8);
        struct session *x = session_take(&store, id, 0);
        session_expire(&store, 0); /* what was deleted must go, or pages run out */
        session_put(&store, x ? x : make(id, 0), 0);
    }
    stop = true;
    pthread_join(loop, NULL);
    tear_down();
}
END_TEST

/* ---- turns through an engine */

static struct engine *open_with_sessions(uint64_t ttl_ms)
{
    struct engine_options o = options();
    o.session_ttl_ms = ttl_ms;
    return open_engine(&o);
}

static struct request_options turn(const struct engine *engine, const char *prompt,
                                   const char *policy, int64_t max_tokens)
{
    struct request_options r = greedy(engine, prompt, policy, max_tokens);
    r.session_id = strdup("talk");
    r.ignore_eos = true;
    return r;
}

/* As if somebody else had asked for the plan. */
static void ask_for(struct request_options *r, enum plan_source source)
{
    const struct plan *plan = r->plan;
    r->plan = plan_for(plan, source, false, &e);
    plan_release(plan);
}

/* The prompt of a turn behind `a`: all tokens of that turn, and one more. */
static void go_on_behind(struct request_options *r, const int32_t *prompt, uint32_t n_prompt,
                         const struct answer *a)
{
    uint32_t n = (uint32_t)a->choices[0].n_tokens;
    free(r->prompt);
    r->n_prompt = n_prompt + n + 1;
    r->prompt = malloc(r->n_prompt * sizeof *r->prompt);
    memcpy(r->prompt, prompt, n_prompt * sizeof *prompt);
    memcpy(r->prompt + n_prompt, a->choices[0].tokens, n * sizeof *prompt);
    r->prompt[r->n_prompt - 1] = 403;
}

START_TEST(the_next_turn_goes_on_in_the_cache_of_the_last_one)
{
    struct engine *engine = open_with_sessions(60000);
    int32_t prompt[64];
    struct request_options r = turn(engine, "Once upon a time", "full", 20);
    uint32_t n_prompt = r.n_prompt;
    memcpy(prompt, r.prompt, n_prompt * sizeof *prompt);
    struct answer *first = query(engine, &r);
    ck_assert(first->usage.session_kept && !first->usage.session_reused);
    ck_assert_uint_eq(engine_sessions(engine)->count, 1);

    struct answer *answers[2];
    for (int with = 0; with < 2; with++) {
        r = turn(engine, "x", "full", 20);
        go_on_behind(&r, prompt, n_prompt, first);
        if (!with) {
            free(r.session_id);
            r.session_id = NULL;
        }
        answers[with] = query(engine, &r);
        ck_assert_int_eq(answers[with]->usage.session_reused, with);
    }
    /* The last token of a turn was not computed: its place is the next turn's. */
    ck_assert_uint_eq(answers[1]->usage.cached_tokens, n_prompt + 20 - 1);
    ck_assert_uint_eq(answers[0]->usage.cached_tokens, 0);
    check_same(answers[0], 0, answers[1], 0);

    uint32_t pages = 0;
    ck_assert(engine_session_delete(engine, "talk", 0, false, &pages));
    ck_assert_uint_gt(pages, 0);
    ck_assert(!engine_session_delete(engine, "talk", 0, false, &pages));
    check_empty(engine);
    drop(first);
    drop(answers[0]);
    drop(answers[1]);
    engine_close(engine);
}
END_TEST

START_TEST(another_prompt_forgets_the_session_and_another_policy_is_refused)
{
    struct engine *engine = open_with_sessions(60000);
    struct request_options r = turn(engine, "Once upon a time", "sink:16", 40);
    drop(query(engine, &r));

    /* What the first turn dropped cannot come back, so it goes on under its own policy. */
    r = turn(engine, "Once upon a time", "sink:32", 4);
    ask_for(&r, SOURCE_REQUEST);
    struct answer *refused = submit(engine, &r);
    read_all(&refused, 1);
    ck_assert(refused->failed);
    ck_assert_str_eq(refused->error.code, "invalid_kv_policy");
    ck_assert_ptr_nonnull(strstr(refused->error.message, "'talk'"));
    ck_assert_uint_eq(engine_sessions(engine)->count, 1);
    drop(refused);

    r = turn(engine, "The cat", "sink:16", 4);
    struct answer *other = query(engine, &r);
    ck_assert(other->usage.session_missed && !other->usage.session_reused);
    ck_assert(other->usage.session_kept);
    ck_assert_uint_eq(engine_sessions(engine)->count, 1);
    drop(other);
    engine_close(engine);
}
END_TEST

/* The plan is chosen and told when the request comes. Should the session have got another one since,
 * the choice is kept to, and the session's cache is of no use. */
START_TEST(a_plan_that_was_chosen_for_a_turn_is_kept_to)
{
    struct engine *engine = open_with_sessions(60000);
    int32_t prompt[64];
    struct request_options r = turn(engine, "Once upon a time", "h2o:16", 20);
    uint32_t n_prompt = r.n_prompt;
    memcpy(prompt, r.prompt, n_prompt * sizeof *prompt);
    struct answer *first = query(engine, &r), *next;
    const struct plan *plan = session_plan(engine_sessions(engine), "talk", 0);
    ck_assert_uint_eq(plan->budget, 16);

    r = turn(engine, "x", "full", 4);
    go_on_behind(&r, prompt, n_prompt, first);
    plan_release(r.plan);
    r.plan = plan_for(plan, SOURCE_SESSION, false, &e);
    plan_release(plan);
    next = query(engine, &r);
    ck_assert(next->usage.session_reused && next->usage.source == SOURCE_SESSION);
    ck_assert_uint_eq(next->usage.budget, 16);
    drop(next);

    static const struct {
        const char *policy;
        enum plan_source source;
    } chosen[] = {{"full", SOURCE_DEFAULT}, {"sink", SOURCE_SESSION}};
    for (uint32_t i = 0; i < 2; i++) {
        r = turn(engine, "x", chosen[i].policy, 4);
        go_on_behind(&r, prompt, n_prompt, first);
        ask_for(&r, chosen[i].source);
        next = query(engine, &r);
        ck_assert(next->usage.session_missed && !next->usage.session_reused);
        ck_assert_str_eq(next->usage.policy, chosen[i].policy);
        drop(next);
    }
    drop(first);
    engine_close(engine);
}
END_TEST

START_TEST(turns_of_one_session_run_one_after_the_other)
{
    struct engine *engine = open_with_sessions(60000);
    struct answer *answers[3];
    for (int i = 0; i < 3; i++) {
        struct request_options r = turn(engine, "Once upon a time", "full", 30);
        if (i == 2) { /* of nobody's session: it is not held up */
            free(r.session_id);
            r.session_id = NULL;
        }
        answers[i] = submit(engine, &r);
    }
    read_all(answers, 3);
    for (int i = 0; i < 3; i++)
        ck_assert(answers[i]->done);
    /* The second found the first one's session: had they run together, it would have found none. */
    ck_assert(answers[1]->usage.session_missed);
    ck_assert(!answers[0]->usage.session_missed);
    for (int i = 0; i < 3; i++)
        drop(answers[i]);
    engine_close(engine);
}
END_TEST

START_TEST(sessions_make_room_for_running_work)
{
    struct engine_options o = options();
    o.session_ttl_ms = 60000;
    struct engine *sizes = open_engine(&o);
    o.kv_memory_bytes = engine_page_bytes(sizes) * 20 * 8; /* 8 pages a head: 256 tokens */
    engine_close(sizes);
    struct engine *engine = open_engine(&o);
    struct request_options r = turn(engine, "Once upon a time", "full", 120);
    drop(query(engine, &r));
    ck_assert_uint_eq(engine_sessions(engine)->count, 1);
    r = greedy(engine, "Once upon a time", "full", 200);
    r.ignore_eos = true;
    struct answer *a = query(engine, &r);
    ck_assert_int_eq(a->choices[0].finish, FINISH_LENGTH);
    ck_assert_uint_eq(a->choices[0].n_tokens, 200);
    ck_assert_uint_eq(engine_sessions(engine)->count, 0);
    drop(a);
    engine_close(engine);
}
END_TEST

START_TEST(a_session_expires_while_nobody_asks_for_anything)
{
    struct engine *engine = open_with_sessions(30);
    struct request_options r = turn(engine, "Once upon a time", "full", 5);
    drop(query(engine, &r));
    check_empty(engine);
    ck_assert_uint_eq(engine_sessions(engine)->count, 0);
    engine_close(engine);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("session");
    TCase *t = suite_case(suite, "store", 60);
    tcase_add_test(t, a_session_is_taken_once_and_its_pages_are_those_of_its_cache);
    tcase_add_test(t, a_key_sees_its_own_sessions_only);
    tcase_add_test(t, a_list_has_the_last_used_first_and_says_how_long_each_stays);
    tcase_add_test(t, idle_sessions_expire_and_the_next_end_is_said);
    tcase_add_test(t, the_session_that_was_used_longest_ago_is_given_up_first);
    tcase_add_test(t, a_deleted_session_gives_its_pages_back_at_the_engines_next_look);
    tcase_add_test(t, the_loop_lists_and_deletes_while_the_engine_puts_and_takes);
    t = tcase_create("turns");
    tcase_set_timeout(t, 120); /* for sanitizers on a loaded machine; normally seconds */
    tcase_add_test(t, the_next_turn_goes_on_in_the_cache_of_the_last_one);
    tcase_add_test(t, another_prompt_forgets_the_session_and_another_policy_is_refused);
    tcase_add_test(t, a_plan_that_was_chosen_for_a_turn_is_kept_to);
    tcase_add_test(t, turns_of_one_session_run_one_after_the_other);
    tcase_add_test(t, sessions_make_room_for_running_work);
    tcase_add_test(t, a_session_expires_while_nobody_asks_for_anything);
    suite_add_tcase(suite, t);
    return suite_run(suite);
}
