/* The cache's arithmetic under random steps: sequences are opened, extended in batches and
 * waves, forked and freed in a pool that is often empty. A toy backend (one number a slot) does
 * what a real one does with page numbers, so writing to a page that another sequence reads
 * shows. The audit runs after every operation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/cache.h"
#include "cache/pages/pool.h"
#include "cache/pages/prefix.h"
#include "cache/pages/sequence_tables.h"
#include "cache/policy/select_job.h"
#include "engine/serve/trace.h"
#include "tests/random.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"

enum { N_LAYERS = 2, N_KV_HEADS = 3, N_HEADS = N_LAYERS * N_KV_HEADS };
enum { N_PAGES = 250, MOST_SEQUENCES = 8, MOST_TOKENS = 2000, MOST_ROWS = 100 };

struct slot {
    int32_t position;
    uint32_t content;
};

/* One sequence and its tokens. */
struct shadow {
    struct cache_sequence *s;
    uint32_t n;
    uint32_t contents[MOST_TOKENS]; /* a unique number for every token */
};

static struct slot memory[N_PAGES][PAGE_SLOTS]; /* the toy backend's pool */
static struct shadow shadows[MOST_SEQUENCES];
static uint32_t next_content;

static int32_t position_of(void *context, uint32_t page, uint32_t index)
{
    (void)context;
    return memory[page][index].position;
}

static void check_audit(const struct cache *c)
{
    struct error e = {.message = ""};
    ck_assert_msg(cache_audit(c, position_of, NULL, &e), "%s", e.message);
}

static void perform_copies(struct cache *c)
{
    const uint32_t *from, *to;
    uint32_t n = cache_take_copies(c, &from, &to);
    for (uint32_t i = 0; i < n; i++)
        memcpy(memory[to[i]], memory[from[i]], sizeof memory[0]);
}

static struct plan plan_of(const char *preset, uint32_t sinks, uint32_t budget)
{
    const struct plan_limits limits = {.n_ctx_train = MOST_TOKENS};
    struct plan plan = plan_of_text(preset, 1, &limits);
    plan.sinks = sinks;
    plan.budget = budget;
    plan.recent = budget - sinks;
    return plan;
}

static struct plan random_plan(void)
{
    uint32_t sinks = random_below(40);
    return random_below(3) ? plan_of("sink", sinks, sinks + 1 + random_below(120))
                           : plan_of("full", 0, 0);
}

/* Whether the query at position t sees p: the definition of POLICIES.md, not the cache's. */
static bool sees(const struct plan *plan, uint32_t t, uint32_t p)
{
    return p <= t && (!plan->has_budget || p < plan->sinks || t - p < plan->budget - plan->sinks);
}

/* The query at position t finds every token that it should see once, with the right content. */
static void check_query(const struct shadow *q, uint32_t t, uint32_t n_slots)
{
    const struct plan *plan = cache_sequence_plan(q->s);
    uint32_t wanted = 0;
    for (uint32_t p = 0; p <= t; p++)
        wanted += sees(plan, t, p);
    for (uint32_t h = 0; h < N_HEADS; h++) {
        struct head_view v = cache_view(q->s, h / N_KV_HEADS, h % N_KV_HEADS);
        bool found[MOST_TOKENS] = {false};
        uint32_t n_found = 0;
        for (uint32_t i = 0; i < n_slots; i++) {
            struct slot slot = memory[v.pages[i / PAGE_SLOTS]][i % PAGE_SLOTS];
            uint32_t p = (uint32_t)slot.position;
            if (p > t || (p >= v.n_sinks && t - p >= v.window))
                continue;
            if (!sees(plan, t, p)) /* ck_assert would write to a file each time */
                ck_abort_msg("the query at %u sees %u", t, p);
            if (slot.content != q->contents[p])
                ck_abort_msg("position %u holds another's token", p);
            if (found[p])
                ck_abort_msg("position %u is there twice", p);
            found[p] = true;
            n_found++;
        }
        ck_assert_msg(n_found == wanted, "the query at %u sees %u tokens instead of %u", t, n_found,
                      wanted);
    }
}

/* Rows of one sequence in a step. */
struct rows {
    struct shadow *of;
    const struct placement *placed;
    uint32_t n_waves;
};

/* Appends n tokens; false when the pool is short, and then nothing has changed. */
static bool append(struct cache *c, struct rows *rows, struct shadow *to, uint32_t n)
{
    struct error e = {.message = ""};
    struct cache_counts before = cache_counts(c);
    uint64_t needed = cache_pages_to_place(to->s, n);
    const struct placement *placed = cache_place(to->s, n, &e);
    *rows = (struct rows){.of = to, .placed = placed};
    if (needed > before.free) {
        ck_assert(!placed);
        ck_assert_str_eq(e.code, "kv_pool_empty");
        ck_assert_uint_eq(cache_tokens_seen(to->s), to->n);
        ck_assert_uint_eq(cache_counts(c).free, before.free);
        return false;
    }
    ck_assert_msg(placed != NULL, "%s", e.message);
    ck_assert_uint_eq(before.free - cache_counts(c).free, needed);
    ck_assert_uint_eq(placed->first, to->n);
    ck_assert_uint_eq(placed->n, n);
    rows->n_waves = placed->wave_rows < n ? (n + placed->wave_rows - 1) / placed->wave_rows : 1;
    for (uint32_t i = 0; i < n; i++)
        to->contents[to->n++] = next_content++;
    ck_assert_uint_eq(cache_tokens_seen(to->s), to->n);
    return true;
}

static void write_wave(const struct rows *rows, uint32_t w)
{
    const struct shadow *of = rows->of;
    const struct placement *p = rows->placed;
    uint32_t from = rows->n_waves > 1 ? w * p->wave_rows : 0,
             n = p->n - from < p->wave_rows ? p->n - from : p->wave_rows;
    for (uint32_t i = from; i < from + n; i++)
        for (uint32_t h = 0; h < N_HEADS; h++) {
            uint32_t slot = placement_slot(p, h, i), page = p->states[h].pages[slot / PAGE_SLOTS];
            memory[page][slot % PAGE_SLOTS] =
                (struct slot){(int32_t)(p->first + i), of->contents[p->first + i]};
        }
    uint32_t n_slots = placement_n_slots(p, 0, p->n - from - n);
    check_query(of, p->first + from, n_slots);
    check_query(of, p->first + from + n - 1, n_slots);
}

static void check_bound(const struct cache *c, const struct shadow *q)
{
    struct cache_sequence_counts counts = cache_sequence_counts(q->s);
    const struct plan *plan = cache_sequence_plan(q->s);
    ck_assert_uint_le(counts.pages, cache_bound_pages(c, plan, q->n, q->n));
    ck_assert_uint_eq(counts.slots_kept_max,
                      plan->has_budget && q->n > plan->budget ? plan->budget : q->n);
    ck_assert_int_eq(counts.exact, !plan->has_budget || q->n <= plan->budget);
}

/* One step of the engine: several sequences, then the due copies, then the waves. */
static void step(struct cache *c)
{
    static struct rows rows[MOST_SEQUENCES];
    uint32_t n_rows = 0, n_waves = 0;
    for (uint32_t i = 0; i < MOST_SEQUENCES; i++) {
        struct shadow *q = &shadows[i];
        uint32_t n = random_below(3) ? 1 : 1 + random_below(MOST_ROWS);
        if (!q->s || random_below(2) || q->n + n > MOST_TOKENS)
            continue;
        if (append(c, &rows[n_rows], q, n)) {
            uint32_t waves = rows[n_rows++].n_waves;
            n_waves = waves > n_waves ? waves : n_waves;
        }
    }
    perform_copies(c);
    for (uint32_t w = 0; w < n_waves; w++)
        for (uint32_t i = 0; i < n_rows; i++)
            if (w < rows[i].n_waves)
                write_wave(&rows[i], w);
    for (uint32_t i = 0; i < n_rows; i++)
        check_bound(c, rows[i].of);
}

static void open_or_fork(struct cache *c, struct shadow *q)
{
    struct error e;
    struct shadow *of = &shadows[random_below(MOST_SEQUENCES)];
    uint32_t used = cache_counts(c).used;
    if (of->s) {
        *q = *of;
        q->s = cache_sequence_fork(of->s, &e);
    } else {
        const struct plan drawn = random_plan(),
                          *plan = plan_for(&drawn, SOURCE_DEFAULT, false, &e);
        q->n = 0;
        q->s = cache_sequence_new(c, plan, &e);
        plan_release(plan);
    }
    ck_assert_ptr_nonnull(q->s);
    ck_assert_uint_eq(cache_tokens_seen(q->s), q->n);
    ck_assert_uint_eq(cache_counts(c).used, used);
}

/* A sequence gets own pages for all shared ones, or nothing where the pool has too few. */
static void own_pages(struct cache *c, struct shadow *q)
{
    struct error e;
    uint32_t used = cache_counts(c).used, pages = cache_sequence_counts(q->s).pages;
    bool done = cache_sequence_own_pages(q->s, &e);
    if (!done)
        ck_assert_uint_eq(cache_counts(c).used, used);
    perform_copies(c);
    for (uint32_t h = 0; h < N_HEADS && done; h++) {
        struct head_view v = cache_view(q->s, h / N_KV_HEADS, h % N_KV_HEADS);
        for (uint32_t k = 0; k < MOST_SEQUENCES; k++)
            for (uint32_t i = 0; shadows[k].s && &shadows[k] != q && i < v.n_slots;
                 i += PAGE_SLOTS) {
                struct head_view other = cache_view(shadows[k].s, h / N_KV_HEADS, h % N_KV_HEADS);
                if (i < other.n_slots && other.pages[i / PAGE_SLOTS] == v.pages[i / PAGE_SLOTS])
                    ck_abort_msg("page %u of head %u is still shared", i / PAGE_SLOTS, h);
            }
    }
    ck_assert_uint_eq(cache_sequence_counts(q->s).pages, pages);
}

static void free_one(struct shadow *q)
{
    cache_sequence_free(q->s);
    q->s = NULL;
}

START_TEST(nobody_ever_sees_a_page_of_another)
{
    struct error e;
    random_state = (uint64_t)_i + 1;
    struct cache *c = cache_new(N_LAYERS, N_KV_HEADS, 4, N_PAGES, &e);
    ck_assert_ptr_nonnull(c);
    for (uint32_t i = 0; i < 1500; i++) {
        struct shadow *q = &shadows[random_below(MOST_SEQUENCES)];
        uint32_t what = random_below(20);
        if (what == 0 && q->s)
            free_one(q);
        else if (what < 4 && !q->s)
            open_or_fork(c, q);
        else if (what == 4 && q->s)
            own_pages(c, q);
        else
            step(c);
        check_audit(c);
    }
    for (uint32_t i = 0; i < MOST_SEQUENCES; i++) {
        free_one(&shadows[i]);
        check_audit(c);
    }
    ck_assert_uint_eq(cache_counts(c).used, 0);
    ck_assert_uint_eq(cache_counts(c).free, N_PAGES);
    cache_free(c);
}
END_TEST

/* ---- one sequence */

struct ranges {
    int32_t first[3], last[3];
    uint32_t n;
};

static void add_range(void *context, int32_t first, int32_t last)
{
    struct ranges *r = context;
    ck_assert_uint_lt(r->n, 3);
    r->first[r->n] = first;
    r->last[r->n++] = last;
}

START_TEST(evicting_never_grows_the_table)
{
    struct error e;
    struct cache *c = cache_new(N_LAYERS, N_KV_HEADS, 4, N_PAGES, &e);
    struct plan plan = plan_of("sink", 4, 128);
    struct shadow *q = &shadows[0];
    q->s = cache_sequence_new(c, &plan, &e);
    for (uint32_t i = 0; i < MOST_TOKENS; i++) {
        static struct rows rows;
        ck_assert(append(c, &rows, q, 1));
        write_wave(&rows, 0);
        check_bound(c, q);
        if (q->n >= 128 + PAGE_SLOTS)
            ck_assert_uint_eq(cache_counts(c).used, N_HEADS * (128 + PAGE_SLOTS) / PAGE_SLOTS);
    }
    struct ranges kept = {.n = 0};
    cache_kept_ranges(q->s, 1, 1, add_range, &kept);
    ck_assert_uint_eq(kept.n, 2);
    ck_assert_int_eq(kept.first[0], 0);
    ck_assert_int_eq(kept.last[0], 3);
    ck_assert_int_eq(kept.first[1], MOST_TOKENS - 124);
    ck_assert_int_eq(kept.last[1], MOST_TOKENS - 1);
    ck_assert_uint_eq(cache_counts(c).evicted_slots_total, (MOST_TOKENS - 128) * N_HEADS);
    ck_assert_int_eq(cache_sink_query_position(q->s, 127), 127);
    ck_assert_int_eq(cache_sink_query_position(q->s, 128), 127);
    ck_assert_int_eq(cache_sink_query_position(q->s, 1999), 127);
    free_one(q);
    cache_free(c);
}
END_TEST

/* An audit that cannot fail would prove nothing. */
START_TEST(the_audit_sees_a_slot_that_holds_another_position)
{
    struct error e;
    static struct rows rows;
    struct cache *c = cache_new(N_LAYERS, N_KV_HEADS, 4, N_PAGES, &e);
    struct plan plan = plan_of("sink", 4, 64);
    struct shadow *q = &shadows[0];
    q->s = cache_sequence_new(c, &plan, &e);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert(append(c, &rows, q, 40));
        for (uint32_t w = 0; w < rows.n_waves; w++)
            write_wave(&rows, w);
    }
    check_audit(c);
    int32_t *position = &memory[cache_view(q->s, 1, 2).pages[1]][5].position;
    *position -= 1;
    ck_assert(!cache_audit(c, position_of, NULL, &e));
    ck_assert_str_eq(e.code, "internal_error");
    *position += 1;
    check_audit(c);
    free_one(q);
    cache_free(c);
}
END_TEST

/* A head that counts a shared page as its own would overwrite another holder's tokens. */
START_TEST(the_audit_sees_a_shared_page_that_a_head_takes_for_its_own)
{
    struct error e;
    static struct rows rows;
    struct cache *c = cache_new(N_LAYERS, N_KV_HEADS, 4, N_PAGES, &e);
    struct plan plan = plan_of("full", 0, 0);
    struct shadow *q = &shadows[0];
    q->s = cache_sequence_new(c, &plan, &e);
    q->n = 0;
    ck_assert(append(c, &rows, q, 40));
    write_wave(&rows, 0);
    check_audit(c);
    struct cache_sequence *other = cache_sequence_fork(q->s, &e);
    check_audit(c);
    q->s->slots[4].own_from--;
    ck_assert(!cache_audit(c, NULL, NULL, &e));
    ck_assert_str_eq(e.code, "internal_error");
    q->s->slots[4].own_from++;
    q->s->room = 1; /* but the last page would have to be copied */
    ck_assert(!cache_audit(c, NULL, NULL, &e));
    q->s->room = 0;
    check_audit(c);
    cache_sequence_free(other);
    free_one(q);
    cache_free(c);
}
END_TEST

/* Each page of a fork is copied once, by the first to write; then the other is its only holder. */
START_TEST(a_page_is_copied_by_the_first_writer_only)
{
    struct error e;
    static struct rows rows;
    struct cache *c = cache_new(N_LAYERS, N_KV_HEADS, 4, N_PAGES, &e);
    struct plan plan = plan_of("full", 0, 0);
    struct shadow *a = &shadows[0], *b = &shadows[1];
    a->s = cache_sequence_new(c, &plan, &e);
    a->n = 0;
    ck_assert(append(c, &rows, a, 40)); /* two pages, the second one not full */
    write_wave(&rows, 0);
    *b = *a;
    b->s = cache_sequence_fork(a->s, &e);
    ck_assert_uint_eq(cache_pages_to_place(a->s, 1), N_HEADS);
    ck_assert_uint_eq(cache_pages_to_place(b->s, 1), N_HEADS);
    ck_assert(append(c, &rows, b, 1));
    perform_copies(c);
    write_wave(&rows, 0);
    check_audit(c);
    ck_assert_uint_eq(cache_pages_to_place(a->s, 24), 0);
    ck_assert_uint_eq(cache_pages_to_place(a->s, 25), N_HEADS);
    ck_assert(append(c, &rows, a, 24));
    write_wave(&rows, 0);
    check_audit(c);
    free_one(a);
    free_one(b);
    cache_free(c);
}
END_TEST

/* ---- lifetimes */

struct lifetimes {
    uint32_t n, policy;
    uint64_t shortest_ns, longest_ns;
};

static void note_lifetime(void *context, uint32_t policy, uint64_t held_ns)
{
    struct lifetimes *l = context;
    l->shortest_ns = l->n == 0 || held_ns < l->shortest_ns ? held_ns : l->shortest_ns;
    l->longest_ns = held_ns > l->longest_ns ? held_ns : l->longest_ns;
    l->policy = policy;
    l->n++;
}

START_TEST(a_page_is_told_once_when_its_last_holder_lets_go)
{
    struct error e;
    static struct rows rows;
    static int32_t tokens[2 * PAGE_SLOTS];
    struct cache *c = cache_new(N_LAYERS, N_KV_HEADS, 4, N_PAGES, &e);
    struct plan full = plan_of("full", 0, 0), sink = plan_of("sink", 4, 128);
    struct lifetimes told = {0};
    struct prefix_name root = prefix_root("x", 1), chain = root;
    uint32_t done = 0;
    cache_set_lifetimes(c, note_lifetime, &told);
    cache_set_time(c, 1000);
    struct shadow *q = &shadows[0];
    q->s = cache_sequence_new(c, &full, &e);
    ck_assert(append(c, &rows, q, PAGE_SLOTS));
    cache_set_time(c, 1400);
    ck_assert(append(c, &rows, q, PAGE_SLOTS));
    ck_assert_uint_eq(prefix_list(q->s, &chain, &done, tokens, 2 * PAGE_SLOTS), 2 * PAGE_SLOTS);
    cache_set_time(c, 2000);
    free_one(q);
    ck_assert_uint_eq(told.n, 0); /* the index holds them */
    struct cache_sequence *other = cache_sequence_new(c, &sink, &e);
    ck_assert(prefix_adopt(other, &root, tokens, PAGE_SLOTS, &e));
    ck_assert_uint_eq(prefix_give_up(c, UINT32_MAX), N_HEADS); /* the second block's only */
    ck_assert_uint_eq(told.n, N_HEADS);
    ck_assert_uint_eq(told.policy, preset_index(full.preset));
    ck_assert_uint_eq(told.shortest_ns, 600);
    ck_assert_uint_eq(told.longest_ns, 600);
    cache_set_time(c, 5000);
    cache_sequence_free(other);
    ck_assert_uint_eq(told.n, N_HEADS);
    ck_assert_uint_eq(prefix_give_up(c, UINT32_MAX), N_HEADS);
    ck_assert_uint_eq(told.n, 2 * N_HEADS);
    ck_assert_uint_eq(told.policy, preset_index(sink.preset)); /* who released it last */
    ck_assert_uint_eq(told.longest_ns, 4000);
    ck_assert_uint_eq(cache_counts(c).free, N_PAGES);
    cache_free(c);
}
END_TEST

/* ---- kv_trace */

static int32_t every_other(void *context, uint32_t page, uint32_t index)
{
    (void)context;
    (void)page;
    return 2 * (int32_t)index + 64 * ((int32_t)page % 7);
}

START_TEST(a_trace_of_too_many_ranges_is_cut_and_says_so)
{
    enum { LAYERS = 32, KV_HEADS = 32, TOKENS = 416, KEPT = 208 };
    struct error e;
    bool truncated;
    struct cache *c = cache_new(LAYERS, KV_HEADS, 4, LAYERS * KV_HEADS * TOKENS / PAGE_SLOTS, &e);
    struct plan plan = plan_of("knorm", 4, KEPT);
    plan.recent = 32;
    struct cache_sequence *s = cache_sequence_new(c, &plan, &e);
    struct select_job jobs[KV_HEADS];
    cache_set_reader(c, every_other, NULL);
    cache_sequence_set_prompt(s, TOKENS);
    ck_assert_ptr_nonnull(cache_place(s, TOKENS, &e));
    char *whole = trace_text(c, s, &truncated);
    ck_assert(!truncated);
    for (uint32_t l = 0; l < LAYERS; l++) {
        ck_assert(cache_begin_compress(s, l, jobs, &e));
        for (uint32_t h = 0; h < KV_HEADS; h++)
            jobs[h].n_kept = KEPT;
        cache_settle(s, l, jobs);
    }
    char *cut = trace_text(c, s, &truncated);
    ck_assert(truncated);
    ck_assert_uint_le(strlen(cut), TRACE_MAX_BYTES);
    ck_assert_uint_gt(strlen(cut), TRACE_MAX_BYTES * 9 / 10);
    for (int pass = 0; pass < 2; pass++) { /* JSON of the same shape all the same */
        json_t *value = json_loads(pass ? cut : whole, 0, NULL);
        ck_assert_uint_eq(json_array_size(value), LAYERS);
        ck_assert_uint_eq(json_array_size(json_array_get(value, LAYERS - 1)), KV_HEADS);
        json_decref(value);
    }
    struct cache_head_counts head = cache_head_counts(s, 3, 5);
    ck_assert_uint_eq(head.slots, KEPT);
    ck_assert_uint_eq(head.evicted, TOKENS - KEPT);
    ck_assert_uint_eq(head.pages, pages_of_slots(KEPT));
    free(whole);
    free(cut);
    cache_sequence_free(s);
    cache_free(c);
}
END_TEST

/* Takes `n` pages of a pool as a head does that will have at least `least`. */
static void take_pages(struct pool *p, uint32_t *pages, uint32_t n, uint32_t least)
{
    for (uint32_t i = 0; i < n; i++)
        pages[i] = pool_take(p, i > 0 ? pages[i - 1] : POOL_NO_PAGE, least);
}

static uint32_t breaks(const uint32_t *pages, uint32_t n)
{
    uint32_t found = 0;
    for (uint32_t i = 1; i < n; i++)
        found += pages[i] != pages[i - 1] + 1;
    return found;
}

START_TEST(long_heads_lie_in_runs_and_short_ones_share_them)
{
    enum { LONG = 3 * POOL_RUN, N_LONG = 4, N_SHORT = 30, N = 20 * POOL_RUN + 5 };
    struct pool p;
    struct error e;
    uint32_t heads[N_LONG][LONG], of_short[N_SHORT];
    ck_assert(pool_init(&p, N, &e));
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (uint32_t i = 0; i < N_SHORT; i++)
            of_short[i] = pool_take(&p, POOL_NO_PAGE, 1);
        if (turn == 0) /* the five pages at the end, then two runs */
            ck_assert_uint_le(of_short[N_SHORT - 1], 2 * POOL_RUN);
        for (uint32_t h = 0; h < N_LONG; h++) {
            take_pages(&p, heads[h], LONG, LONG);
            ck_assert_uint_le(breaks(heads[h], LONG), LONG / POOL_RUN - 1);
        }
        /* Released in any order. */
        for (uint32_t i = 0; i < N_LONG * LONG; i++)
            pool_drop(&p, heads[i % N_LONG][(i / N_LONG * 7 + turn) % LONG], 0);
        for (uint32_t i = 0; i < N_SHORT; i++)
            pool_drop(&p, of_short[i], 0);
        ck_assert_uint_eq(p.n_free, N);
    }
    pool_clear(&p);
}
END_TEST

START_TEST(a_pool_without_whole_runs_gives_every_page)
{
    enum { N = 6 * POOL_RUN + 1 };
    struct pool p;
    struct error e;
    uint32_t pages[N];
    bool taken[N] = {false};
    ck_assert(pool_init(&p, N, &e));
    take_pages(&p, pages, N, 1);
    for (uint32_t i = 0; i < N; i += POOL_RUN / 2)
        pool_drop(&p, i, 0);
    take_pages(&p, pages, N / (POOL_RUN / 2) + 1, POOL_RUN); /* a long head gets what there is */
    ck_assert_uint_eq(p.n_free, 0);
    for (uint32_t i = 0; i < N / (POOL_RUN / 2) + 1; i++) {
        ck_assert_uint_eq(pages[i] % (POOL_RUN / 2), 0);
        ck_assert(!taken[pages[i]]);
        taken[pages[i]] = true;
    }
    pool_clear(&p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cache");
    TCase *t = suite_case(suite, "cache", 300);
    tcase_add_loop_test(t, nobody_ever_sees_a_page_of_another, 0, 8);
    tcase_add_test(t, evicting_never_grows_the_table);
    tcase_add_test(t, long_heads_lie_in_runs_and_short_ones_share_them);
    tcase_add_test(t, a_pool_without_whole_runs_gives_every_page);
    tcase_add_test(t, a_page_is_told_once_when_its_last_holder_lets_go);
    tcase_add_test(t, a_trace_of_too_many_ranges_is_cut_and_says_so);
    tcase_add_test(t, the_audit_sees_a_slot_that_holds_another_position);
    tcase_add_test(t, the_audit_sees_a_shared_page_that_a_head_takes_for_its_own);
    tcase_add_test(t, a_page_is_copied_by_the_first_writer_only);
    return suite_run(suite);
}
