/* Evictions and compressions on the device against cache/policy/select.c: the same slots for the
 * same scores, nothing else in the pool changed, and scores as cache/policy/scorer.c has them. */
#include "tests/kernels/cuda_case.h"

extern "C" {
#include "cache/policy/plan.h"
#include "cache/policy/select.h"
}
#include "cuda/kernels/kernels.h"
#include "cuda/kernels/page.h"
#include "cuda/kernels/select.h"
#include "tests/suite.h"

enum { MAX_HEADS = 8 };

/* The heads of one layer of one sequence, here and on the device. Slots hold different positions
 * below n_tokens in any order, some are holes. */
struct scene {
    struct head {
        uint32_t n_slots;
        std::vector<int32_t> positions;
        std::vector<uint32_t> pages;
        std::vector<float> stored; /* [n_slots][K, V][head_dim] as attention would read them */
        device_array<uint32_t> *table, *holes, *history;
        device_array<float> *scores, *summary;
        device_array<double> *key_sum;
        device_array<head_counters> *counters;
    };
    std::vector<head> heads;
    device_array<uint8_t> *pool;
    page_layout layout;
    uint32_t n_tokens, sinks, recent, head_dim;
    plan_scorer scorer;

    uint8_t *page(const head &h, uint32_t slot) const
    {
        return pool->host.data() + (size_t)h.pages[slot / PAGE_SLOTS] * layout.bytes;
    }
    int32_t &position(const head &h, uint32_t slot) const
    {
        return ((int32_t *)page(h, slot))[slot % PAGE_SLOTS];
    }
    /* Dimension d of a slot as it was stored at first. */
    float value(const head &h, uint32_t slot, uint32_t d, bool is_key) const
    {
        return h.stored[((size_t)slot * 2 + !is_key) * head_dim + d];
    }
};

static device_step shape_of(const scene &s)
{
    device_step shape = {};
    shape.n_layers = 3;
    shape.n_heads = shape.n_kv_heads = (uint32_t)s.heads.size();
    shape.head_dim = s.head_dim;
    shape.pool = s.pool->device;
    shape.page_bytes = s.layout.bytes;
    shape.storage = s.layout.storage;
    return shape;
}

/* Every slot of a head, unused ones too, gets random numbers up to 1.5 for K and V. */
static void fill_slots(const device_step &shape, const std::vector<int32_t> &positions,
                       scene::head *head)
{
    const uint32_t n = (uint32_t)positions.size(), d = shape.head_dim;
    std::vector<float> numbers[2];
    for (std::vector<float> &x : numbers)
        for (uint32_t i = 0; i < n * d; i++)
            x.push_back(2 * random_uniform() - 1 + 0.5f * (i % d % 3 == 0));
    device_array<float> k(numbers[0]), v(numbers[1]), read(2 * d);
    device_array<int32_t> device_positions(positions), read_position(1);
    device_array<head_counters> no_holes(std::vector<head_counters>(1));
    device_segment segment = {};
    segment.n_rows = n;
    device_head target = {};
    target.pages = head->table->device;
    target.counters = no_holes.device;
    target.n_slots = n;
    device_array<device_segment> segments(std::vector<device_segment>(1, segment));
    device_array<device_head> heads(std::vector<device_head>(1, target));
    device_array<device_header> header(std::vector<device_header>(1, device_header{n, 1, 0}));
    device_step one = shape;
    one.n_layers = one.n_heads = one.n_kv_heads = 1;
    one.header = header.device;
    one.positions = device_positions.device;
    one.segments = segments.device;
    one.heads = heads.device;
    launch_kv_write(0, &one, 0, 0, 1, n, k.device, v.device);
    for (uint32_t i = 0; i < head->n_slots; i++) {
        launch_kv_read(0, shape.pool, shape.page_bytes, shape.storage, d,
                       head->pages[i / PAGE_SLOTS], i % PAGE_SLOTS, read.device, read.device + d,
                       read_position.device);
        device_wait();
        read.download();
        head->stored.insert(head->stored.end(), read.host.begin(), read.host.end());
    }
}

static float any_score(uint32_t kind)
{
    static const float special[] = {0.0f,   -0.0f, 1e-42f,   -1e-42f,   1e-30f, 3e38f,
                                    -3e38f, 1,     INFINITY, -INFINITY, NAN,    -NAN};
    switch (kind) {
    case 0:
        return random_uniform();
    case 1:
        return 0.25f;
    case 2:
        return (float)random_below(4);
    case 3:
        return special[random_below(sizeof special / sizeof *special)];
    case 4: /* tails as attention leaves them */
        return expf(-30 * random_uniform());
    default: /* different in the last bits alone */
        return 1.0f + (float)random_below(300) * 0x1p-23f;
    }
}

/* Positions of n slots, some of them holes, in order or nearly so or in none. */
static std::vector<int32_t> any_positions(uint32_t n, uint32_t n_tokens, uint32_t disorder,
                                          bool with_holes)
{
    std::vector<int32_t> positions;
    /* Every position if there are no more than slots, else a random rising choice. */
    for (uint32_t p = 0, left = n; left > 0; p++)
        if (random_below(n_tokens - p) < left) {
            positions.push_back((int32_t)p);
            left--;
        }
    if (disorder > 0)
        for (uint32_t i = 0; i + 1 < n; i++) {
            uint32_t span = disorder == 1 ? 8 : n - i;
            if (disorder == 1 && random_below(10) > 0)
                continue;
            uint32_t j = i + random_below(span < n - i ? span : n - i);
            std::swap(positions[i], positions[j]);
        }
    for (uint32_t i = 0; with_holes && i < n; i++)
        if (random_below(12) == 0)
            positions[i] = HOLE;
    return positions;
}

/* Without `same`, heads have lengths of their own up to max_slots. */
static scene make_scene(uint32_t n_heads, uint32_t max_slots, uint32_t head_dim, bool same,
                        bool with_holes, uint32_t disorder, plan_scorer scorer,
                        plan_storage storage = STORAGE_F16)
{
    scene s = {};
    s.layout = page_layout_of(head_dim, storage);
    s.head_dim = head_dim;
    s.scorer = scorer;
    s.n_tokens = max_slots + random_below(max_slots + 1);
    s.sinks = random_below(3) == 0 ? random_below(max_slots / 4 + 2) : random_below(5);
    s.recent = random_below(3) == 0 ? random_below(max_slots / 2 + 2) : random_below(5);
    std::vector<uint32_t> numbers;
    std::vector<int32_t> shared = any_positions(max_slots, s.n_tokens, disorder, with_holes);
    for (uint32_t h = 0; h < n_heads; h++) {
        scene::head head = {};
        head.n_slots = same ? max_slots : 1 + random_below(max_slots);
        head.positions =
            same ? shared : any_positions(head.n_slots, s.n_tokens, disorder, with_holes);
        head.pages.resize(pages_of_slots(head.n_slots));
        for (uint32_t &page : head.pages) {
            page = (uint32_t)numbers.size();
            numbers.push_back(page);
        }
        s.heads.push_back(head);
    }
    for (uint32_t i = 0; i < numbers.size(); i++)
        std::swap(numbers[i], numbers[i + random_below((uint32_t)numbers.size() - i)]);
    s.pool = new device_array<uint8_t>(numbers.size() * s.layout.bytes);
    const device_step shape = shape_of(s);
    uint32_t kind = random_below(6);
    for (scene::head &head : s.heads) {
        const uint32_t whole = (uint32_t)head.pages.size() * PAGE_SLOTS;
        for (uint32_t &page : head.pages)
            page = numbers[page];
        head.table = new device_array<uint32_t>(head.pages);
        head.scores = new device_array<float>(whole);
        head.history = new device_array<uint32_t>((size_t)whole * HISTORY_WORDS);
        head.holes = new device_array<uint32_t>(std::vector<uint32_t>(2 * head.n_slots + 1, 77));
        head.summary = new device_array<float>(2 * head_dim);
        head.key_sum = new device_array<double>(2 * head_dim);
        head.counters = new device_array<head_counters>(1);
        for (uint32_t i = 0; i < whole; i++) {
            head.scores->host[i] = any_score(kind);
            for (uint32_t w = 0; w < HISTORY_WORDS; w++)
                head.history->host[(size_t)i * HISTORY_WORDS + w] =
                    random_bits() & random_bits() & random_bits();
        }
        /* Positions beyond the used slots look like those of used ones. */
        std::vector<int32_t> positions = head.positions;
        positions.resize(whole, (int32_t)(s.n_tokens / 2));
        fill_slots(shape, positions, &head);
        uint32_t n_holes = 0;
        for (uint32_t i = 0; i < head.n_slots; i++)
            if (head.positions[i] == HOLE)
                head.holes->host[n_holes++] = i;
        head.counters->host[0] = {n_holes, random_below(3) * 17};
        for (float &x : head.summary->host)
            x = head.counters->host[0].n_summary ? random_uniform() : 0;
        for (double &x : head.key_sum->host)
            x = random_uniform() - 0.3;
        head.scores->upload();
        head.history->upload();
        head.holes->upload();
        head.summary->upload();
        head.key_sum->upload();
        head.counters->upload();
    }
    s.pool->download();
    return s;
}

static void free_scene(scene *s)
{
    for (scene::head &h : s->heads) {
        delete h.table;
        delete h.holes;
        delete h.history;
        delete h.scores;
        delete h.summary;
        delete h.key_sum;
        delete h.counters;
    }
    delete s->pool;
}

static device_head head_of(const scene::head &h)
{
    device_head out = {};
    out.pages = h.table->device;
    out.scores = h.scores->device;
    out.history = h.history->device;
    out.key_sum = h.key_sum->device;
    out.summary = h.summary->device;
    out.holes = h.holes->device;
    out.counters = h.counters->device;
    out.n_slots = h.n_slots;
    out.window = UINT32_MAX;
    return out;
}

/* ---- scores, plainly */

struct valuation {
    plan_scorer scorer;
    plan_share share;
    plan_pooling pooling;
    uint32_t layer, vote_queries, kernel;
    int64_t seed;
    std::vector<uint32_t> votes; /* [heads] */
};

/* Dot products with the mean direction and squares of keys, in double. */
static void plain_keys(const scene &s, const scene::head &head, std::vector<float> *dots,
                       std::vector<float> *squares)
{
    double length = 0;
    for (uint32_t d = 0; d < s.head_dim; d++)
        length += head.key_sum->host[d] * head.key_sum->host[d];
    for (uint32_t i = 0; i < head.n_slots; i++) {
        double square = 0, dot = 0;
        for (uint32_t d = 0; d < s.head_dim; d++) {
            double k = s.value(head, i, d, true);
            square += k * k;
            dot += k * head.key_sum->host[d];
        }
        squares->push_back((float)square);
        dots->push_back((float)(dot / sqrt(length)));
    }
}

/* One head's values by the table of scorers, which is what the CPU computes. */
static std::vector<float> plain_score(const scene &s, const valuation &v, uint32_t h)
{
    const scene::head &head = s.heads[h];
    const scorer *row = scorer_at(v.scorer);
    std::vector<int32_t> positions = head.positions;
    std::vector<float> scores(head.pages.size() * PAGE_SLOTS), dots, squares;
    positions.resize(scores.size(), 0);
    plan plan = {};
    plan.vote_queries = v.vote_queries;
    plan.seed = v.seed;
    score_view view = {};
    view.plan = &plan;
    view.layer = v.layer;
    view.kv_head = h;
    view.n_tokens = s.n_tokens;
    view.n_slots = head.n_slots;
    view.positions = positions.data();
    view.sums = head.scores->host.data();
    view.history = head.history->host.data();
    if (scorer_reads_keys(row))
        plain_keys(s, head, &dots, &squares);
    view.dots = dots.data();
    view.squares = squares.data();
    row->value(&view, scores.data());
    scores.resize(head.n_slots);
    return scores;
}

/* scores[h][slot] of all heads, pooled and shared as engine/cpu/policy.c does. */
static std::vector<std::vector<float>> plain_scores(const scene &s, const valuation &v)
{
    std::vector<std::vector<float>> out;
    for (uint32_t h = 0; h < s.heads.size(); h++) {
        const scene::head &head = s.heads[h];
        std::vector<float> scores = plain_score(s, v, h);
        if (v.scorer == SCORER_WINDOW_ATTENTION) {
            std::vector<float> pooled(head.n_slots);
            std::vector<uint32_t> order(head.n_slots);
            select_view view = {
                head.positions.data(), scores.data(), head.n_slots, s.n_tokens, s.sinks, s.recent};
            select_pool(&view, v.pooling, v.kernel,
                        s.n_tokens > v.vote_queries ? s.n_tokens - v.vote_queries : 0,
                        pooled.data(), order.data());
            scores = pooled;
        }
        out.push_back(scores);
    }
    if (v.share != SHARE_LAYER)
        return out;
    uint32_t n_voters = 0;
    for (uint32_t vote : v.votes)
        n_voters += vote;
    for (uint32_t i = 0; i < s.heads[0].n_slots; i++) {
        float sum = 0;
        for (uint32_t h = 0; h < s.heads.size(); h++)
            sum += v.votes[h] || n_voters == 0 ? out[h][i] : 0;
        for (std::vector<float> &scores : out)
            scores[i] = sum / (float)(n_voters ? n_voters : s.heads.size());
    }
    return out;
}

static valuation any_valuation(const scene &s, bool share)
{
    valuation v = {s.scorer,
                   share ? SHARE_LAYER : SHARE_HEAD,
                   (plan_pooling)random_below(3),
                   random_below(3),
                   1 + random_below(40),
                   random_below(4) == 0 ? 63 : random_below(17),
                   (int64_t)random_bits() - (1 << 30),
                   {}};
    bool silent = random_below(3) == 0;
    for (size_t h = 0; h < s.heads.size(); h++)
        v.votes.push_back(silent ? 0 : random_below(2));
    return v;
}

static bool of_keys(plan_scorer scorer)
{
    return scorer_reads_keys(scorer_at(scorer));
}

/* Every row of the table but the first, one after the other. */
static plan_scorer nth_scorer(uint32_t n)
{
    return (plan_scorer)(SCORER_NONE + 1 + n % (N_SCORERS - 1));
}

/* Scores of keys: 256 products and sums in single precision, in four sums that are added, and one
 * square root and division: at most 80 roundings of 2^-24 of something as large as the norm, which
 * is at most 24 here. Fetched scores then stand for the plain ones: ties are not at stake. */
static void take_key_scores(const scene &s, const valuation &v, const select_scratch &scratch,
                            uint32_t h, std::vector<float> *scores)
{
    std::vector<float> got(s.heads[h].n_slots);
    cudaMemcpy(got.data(), scratch.scores, got.size() * sizeof(float), cudaMemcpyDeviceToHost);
    const float tolerance =
        80 * 0x1p-24f * (scorer_at(v.scorer)->reads == SCORER_READS_KEYS ? 24 : 1);
    for (uint32_t i = 0; i < got.size(); i++)
        ck_assert_msg(fabsf(got[i] - (*scores)[i]) <= tolerance, "head %u slot %u: %.9g, not %.9g",
                      h, i, (double)got[i], (double)(*scores)[i]);
    *scores = got;
}

static step_choice choice_of(const scene &s, const valuation &v, bool remnant,
                             plan_allocation allocation)
{
    step_choice c = {};
    c.scorer = v.scorer;
    c.allocation = allocation;
    c.share = v.share;
    c.pooling = v.pooling;
    c.remnant = remnant ? REMNANT_MEAN : REMNANT_NONE;
    c.vote_queries = v.vote_queries;
    c.kernel = v.kernel;
    c.n_tokens = s.n_tokens;
    c.sinks = s.sinks;
    c.recent = s.recent;
    c.seed = v.seed;
    return c;
}

/* sum [head_dim] of k / |k| over `slots`. Double sums of numbers that are one rounding of a float
 * apart where the device fuses least + scale * q. */
static void check_key_sum(const scene &s, const scene::head &head, const double *sum,
                          const std::vector<uint32_t> &slots)
{
    std::vector<double> wanted(s.head_dim);
    for (uint32_t slot : slots) {
        double squares = 0;
        for (uint32_t d = 0; d < s.head_dim; d++)
            squares += (double)s.value(head, slot, d, true) * s.value(head, slot, d, true);
        for (uint32_t d = 0; d < s.head_dim && squares > 0; d++)
            wanted[d] += s.value(head, slot, d, true) / sqrt(squares);
    }
    for (uint32_t d = 0; d < s.head_dim; d++)
        ck_assert_msg(fabs(sum[d] - wanted[d]) <= 1e-6 * (1 + (double)slots.size()),
                      "%zu keys, dimension %u: %.9g, not %.9g", slots.size(), d, sum[d], wanted[d]);
}

/* ---- evict */

/* Drops n_drop[h] slots of each head in one segment of a step. */
static void check_evict(scene *s, const valuation &v, bool remnant, std::vector<uint32_t> n_drop)
{
    const uint32_t n_heads = (uint32_t)s->heads.size(), n_layers = 3, at = 1;
    uint32_t max_slots = 0;
    /* Segment 1 of the bucket's 3; segment 0 does not evict, 2 does not exist. */
    std::vector<device_head> heads(3 * n_layers * n_heads);
    for (uint32_t h = 0; h < n_heads; h++) {
        device_head head = head_of(s->heads[h]);
        head.n_drop = n_drop[h];
        head.votes = v.votes[h];
        for (uint32_t segment = 0; segment < 3; segment++)
            heads[(segment * n_layers + v.layer) * n_heads + h] = head;
        max_slots = head.n_slots > max_slots ? head.n_slots : max_slots;
    }
    device_segment segment = {};
    segment.evicts = 1;
    segment.choice = choice_of(*s, v, remnant, ALLOCATION_UNIFORM);
    std::vector<device_segment> segments(3, segment);
    segments[0].evicts = 0;
    device_array<device_segment> device_segments(segments);
    device_array<device_head> device_heads(heads);
    device_array<device_header> header(std::vector<device_header>(1, device_header{2, 2, 0}));
    device_step step = shape_of(*s);
    step.header = header.device;
    step.segments = device_segments.device;
    step.heads = device_heads.device;
    device_array<uint8_t> scratch(
        std::vector<uint8_t>(select_scratch_bytes(&step, 3, max_slots), 0xff));
    launch_evict(0, &step, v.layer, 0, 3, max_slots, scratch.device);
    device_wait();

    std::vector<std::vector<float>> scores = plain_scores(*s, v);
    for (uint32_t h = 0; h < n_heads; h++) {
        scene::head &head = s->heads[h];
        head_counters *counters = head.counters->host.data();
        if (of_keys(v.scorer) && n_drop[h] > 0)
            take_key_scores(*s, v,
                            select_scratch_of(scratch.device, 3 * n_heads, select_stride(max_slots),
                                              at * n_heads + h),
                            h, &scores[h]);
        select_view view = {head.positions.data(), scores[h].data(), head.n_slots,
                            s->n_tokens,           s->sinks,         s->recent};
        uint32_t *victims = head.holes->host.data() + counters->n_holes;
        uint32_t n = select_victims(&view, n_drop[h], victims);
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t d = 0; remnant && d < 2 * s->head_dim; d++) {
                float &mean = head.summary->host[d];
                mean += (s->value(head, victims[i], d % s->head_dim, d < s->head_dim) - mean) /
                        (float)(counters->n_summary + i + 1);
            }
            s->position(head, victims[i]) = HOLE;
        }
        counters->n_holes += n;
        counters->n_summary += remnant ? n : 0;
        std::vector<uint32_t> holes = head.holes->host;
        std::vector<float> summary = head.summary->host;
        std::vector<double> key_sum = head.key_sum->host;
        head_counters expected = *counters;
        /* Others may read the sum meanwhile: what leaves it is noted behind it. */
        head.key_sum->download();
        for (uint32_t d = 0; d < s->head_dim; d++)
            ck_assert_msg(key_sum[d] == head.key_sum->host[d], "head %u: another sum of keys", h);
        if (n > 0)
            check_key_sum(*s, head, &head.key_sum->host[s->head_dim],
                          std::vector<uint32_t>(victims, victims + n));
        head.holes->download();
        head.summary->download();
        head.counters->download();
        ck_assert_msg(expected.n_holes == counters->n_holes &&
                          expected.n_summary == counters->n_summary,
                      "head %u: %u holes and %u in the summary, not %u and %u", h,
                      counters->n_holes, counters->n_summary, expected.n_holes, expected.n_summary);
        for (uint32_t i = 0; i < holes.size(); i++)
            ck_assert_msg(holes[i] == head.holes->host[i],
                          "scorer %d, %u of %u slots: hole %u is %u, not %u", v.scorer, n_drop[h],
                          head.n_slots, i, head.holes->host[i], holes[i]);
        /* The same operations, but for q4, where the device may fuse least + scale * q: a rounding
         * of values below 1.5 a victim. */
        const float tolerance = s->layout.storage == STORAGE_Q4 ? 1.5f * 0x1p-24f * n : 0;
        for (uint32_t d = 0; d < summary.size(); d++)
            ck_assert_msg(fabsf(summary[d] - head.summary->host[d]) <= tolerance,
                          "head %u, summary %u: %.9g, not %.9g", h, d,
                          (double)head.summary->host[d], (double)summary[d]);
    }
    std::vector<uint8_t> expected = s->pool->host;
    s->pool->download();
    ck_assert_msg(expected == s->pool->host, "the pool differs in more than holes");
}

/* How many slots the heads of a layer may drop in one step: under `share` all the same. */
static std::vector<uint32_t> any_drops(const scene &s, bool share)
{
    std::vector<uint32_t> n_drop;
    for (const scene::head &head : s.heads) {
        uint32_t n = random_below(4);
        n_drop.push_back(n == 0   ? 0
                         : n == 1 ? 1
                         : n == 2 ? 2 + random_below(8)
                                  : random_below(head.n_slots + 1));
    }
    if (share)
        n_drop.assign(n_drop.size(), n_drop[0]);
    return n_drop;
}

START_TEST(victims_are_those_of_select_victims)
{
    for (uint32_t trial = 0; trial < 24; trial++) {
        bool share = random_below(3) == 0;
        plan_scorer scorer = scorer_at(nth_scorer(trial))->after_prompt;
        uint32_t max_slots = trial % 6 == 0 ? 1 + random_below(6) : 1 + random_below(400);
        scene s = make_scene(1 + random_below(3), max_slots, 1 + random_below(70), share, true,
                             random_below(3), scorer, (plan_storage)(trial % 4));
        check_evict(&s, any_valuation(s, share), random_below(2), any_drops(s, share));
        free_scene(&s);
    }
}
END_TEST

START_TEST(thousands_of_slots_drop_any_number)
{
    for (uint32_t trial = 0; trial < 6; trial++) {
        scene s = make_scene(1, trial == 0 ? 5000 : 1 + random_below(5000), 3, true, true,
                             random_below(3), SCORER_ATTENTION_SUM);
        std::vector<uint32_t> n_drop(1, trial == 0 ? s.heads[0].n_slots : any_drops(s, false)[0]);
        check_evict(&s, any_valuation(s, false), trial % 2, n_drop);
        free_scene(&s);
    }
}
END_TEST

START_TEST(a_summary_is_the_mean_of_what_was_dropped)
{
    /* From nothing, 300 victims of 500: 300 roundings of values below 1.5. */
    scene s = make_scene(1, 500, 16, true, false, 2, SCORER_RANDOM);
    s.sinks = s.recent = 0;
    s.heads[0].counters->host[0].n_summary = 0;
    s.heads[0].counters->upload();
    s.heads[0].summary->host.assign(32, 0);
    s.heads[0].summary->upload();
    check_evict(&s, any_valuation(s, false), true, {300});
    for (uint32_t d = 0; d < 32; d++) {
        double sum = 0;
        for (uint32_t i = 0; i < 500; i++)
            sum += s.position(s.heads[0], i) == HOLE ? s.value(s.heads[0], i, d % 16, d < 16) : 0;
        ck_assert_float_eq_tol(s.heads[0].summary->host[d], (float)(sum / 300),
                               300 * 0x1p-24f * 1.5f);
    }
    free_scene(&s);
}
END_TEST

/* ---- compress */

struct budgets {
    std::vector<uint32_t> of_head; /* UINT32_MAX: stays as it is */
    plan_allocation allocation;
    bool remnant, forget;
};

/* Moves a slot's row, score and history, on the host. */
static void move_slot(scene *s, scene::head *head, uint32_t to, uint32_t from)
{
    const page_layout &l = s->layout;
    uint8_t *a = s->page(*head, to), *b = s->page(*head, from);
    const auto copy = [=](uint32_t at, uint32_t bytes) {
        memcpy(a + at + to % PAGE_SLOTS * bytes, b + at + from % PAGE_SLOTS * bytes, bytes);
    };
    copy(l.k_at, l.row_bytes);
    copy(l.v_at, l.row_bytes);
    copy(l.k_scales_at, l.k_scale_bytes);
    copy(l.v_scales_at, l.v_scale_bytes);
    copy(l.fifths_at, l.fifth_bytes);
    copy(l.places_at, l.place_bytes);
    s->position(*head, to) = s->position(*head, from);
    head->scores->host[to] = head->scores->host[from];
    memcpy(&head->history->host[(size_t)to * HISTORY_WORDS],
           &head->history->host[(size_t)from * HISTORY_WORDS], HISTORY_WORDS * sizeof(uint32_t));
}

/* The state of a head after it kept `keep`; its summary is checked against a mean in double. */
static void check_survivors(scene *s, uint32_t h, const bool *keep, uint32_t n_kept,
                            const budgets &b)
{
    scene::head &head = s->heads[h];
    const head_counters before = head.counters->host[0];
    uint32_t n_dropped = 0;
    std::vector<double> mean(2 * s->head_dim);
    for (uint32_t d = 0; d < mean.size(); d++)
        mean[d] = (double)head.summary->host[d] * before.n_summary;
    for (uint32_t i = 0; i < head.n_slots; i++) {
        if (keep[i] || head.positions[i] == HOLE)
            continue;
        n_dropped++;
        for (uint32_t d = 0; d < mean.size(); d++)
            mean[d] += s->value(head, i, d % s->head_dim, d < s->head_dim);
    }
    head.counters->download();
    head.summary->download();
    uint32_t n = before.n_summary + (b.remnant ? n_dropped : 0);
    ck_assert_uint_eq(head.counters->host[0].n_summary, n);
    ck_assert_uint_eq(head.counters->host[0].n_holes, 0);
    /* 32 values below 1.5 in single precision, everything else in double, one rounding at the end.
     */
    for (uint32_t d = 0; b.remnant && n_dropped > 0 && d < mean.size(); d++)
        ck_assert_float_eq_tol(head.summary->host[d], (float)(mean[d] / n), 34 * 0x1p-24f * 1.5f);
    std::vector<uint32_t> kept;
    for (uint32_t i = 0; i < head.n_slots; i++)
        if (keep[i])
            kept.push_back(i);
    head.key_sum->download();
    check_key_sum(*s, head, head.key_sum->host.data(), kept);
    for (uint32_t to = 0, from = n_kept; from < head.n_slots; from++) {
        if (!keep[from])
            continue;
        while (keep[to])
            to++;
        move_slot(s, &head, to++, from);
    }
}

static void check_head_memory(scene *s, uint32_t h, uint32_t n_kept, const budgets &b)
{
    scene::head &head = s->heads[h];
    for (uint32_t i = 0; b.forget && i < n_kept; i++)
        head.scores->host[i] = 0;
    std::vector<float> scores = head.scores->host;
    std::vector<uint32_t> history = head.history->host;
    head.scores->download();
    head.history->download();
    ck_assert_msg(memcmp(scores.data(), head.scores->host.data(), scores.size() * sizeof(float)) ==
                      0,
                  "head %u: other scores", h);
    ck_assert_msg(history == head.history->host, "head %u: another history", h);
}

static void check_compress(scene *s, const valuation &v, const budgets &b)
{
    const uint32_t n_heads = (uint32_t)s->heads.size();
    uint32_t max_slots = 0;
    std::vector<device_job> jobs(n_heads);
    for (uint32_t h = 0; h < n_heads; h++) {
        device_job job = {};
        job.head = head_of(s->heads[h]);
        job.head.votes = v.votes[h];
        job.choice = choice_of(*s, v, b.remnant, b.allocation);
        job.layer = v.layer;
        job.kv_head = h;
        job.budget = b.of_head[h];
        job.forgets = b.forget;
        jobs[h] = job;
        max_slots = s->heads[h].n_slots > max_slots ? s->heads[h].n_slots : max_slots;
    }
    device_step shape = shape_of(*s);
    device_array<device_job> device_jobs(jobs);
    device_array<uint32_t> n_kept(std::vector<uint32_t>(n_heads, 77));
    device_array<uint8_t> scratch(
        std::vector<uint8_t>(select_scratch_bytes(&shape, 1, max_slots), 0xff));
    /* Scores of keys are read before the rest reuses their memory. */
    launch_score(0, &shape, device_jobs.device, n_heads, max_slots, scratch.device);
    device_wait();
    std::vector<std::vector<float>> scores = plain_scores(*s, v);
    std::vector<select_view> views;
    size_t total = 0;
    for (uint32_t h = 0; h < n_heads; h++) {
        const scene::head &head = s->heads[h];
        if (of_keys(v.scorer) && b.of_head[h] != UINT32_MAX)
            take_key_scores(*s, v,
                            select_scratch_of(scratch.device, n_heads, select_stride(max_slots), h),
                            h, &scores[h]);
        views.push_back({head.positions.data(), scores[h].data(), head.n_slots, s->n_tokens,
                         s->sinks, s->recent});
        total += head.n_slots;
    }
    launch_compress(0, &shape, device_jobs.device, n_heads, max_slots, n_kept.device,
                    scratch.device);
    device_wait();
    n_kept.download();

    bool *keep = (bool *)calloc(total, sizeof *keep);
    std::vector<uint64_t> keys(total);
    std::vector<uint32_t> expected(n_heads);
    const bool compete = b.allocation != ALLOCATION_UNIFORM;
    if (compete)
        ck_assert(select_adaptive(views.data(), n_heads, b.allocation, b.of_head[0], keep,
                                  keys.data(), expected.data()));
    size_t at = 0;
    for (uint32_t h = 0; h < n_heads; at += views[h++].n) {
        scene::head &head = s->heads[h];
        bool whole = b.of_head[h] == UINT32_MAX;
        if (whole)
            expected[h] = head.n_slots - head.counters->host[0].n_holes;
        else if (!compete)
            expected[h] = select_survivors(&views[h], b.of_head[h], keep + at, keys.data());
        ck_assert_msg(n_kept.host[h] == expected[h],
                      "scorer %d, head %u of %u with %u slots: %u kept, not %u", v.scorer, h,
                      n_heads, head.n_slots, n_kept.host[h], expected[h]);
        if (!whole)
            check_survivors(s, h, keep + at, expected[h], b);
        check_head_memory(s, h, whole ? head.n_slots : expected[h], b);
    }
    free(keep);
    std::vector<uint8_t> pool = s->pool->host;
    s->pool->download();
    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t i = 0; i < expected[h] && b.of_head[h] != UINT32_MAX; i++) {
            int32_t want;
            memcpy(&want,
                   pool.data() + (size_t)s->heads[h].pages[i / PAGE_SLOTS] * s->layout.bytes +
                       i % PAGE_SLOTS * 4,
                   4);
            ck_assert_msg(s->position(s->heads[h], i) == want,
                          "scorer %d, head %u: slot %u of %u holds position %d, not %d", v.scorer,
                          h, i, expected[h], s->position(s->heads[h], i), want);
        }
    ck_assert_msg(pool == s->pool->host, "the pool differs in more than moves");
}

/* From 0 slots to more than there are. */
static uint32_t any_budget(const scene &s)
{
    uint32_t most = s.heads[0].n_slots;
    return random_below(4) == 0 ? random_below(4) : random_below(most + most / 4 + 2);
}

START_TEST(survivors_are_those_of_select_survivors)
{
    for (uint32_t trial = 0; trial < 27; trial++) {
        bool share = random_below(3) == 0;
        uint32_t max_slots = trial % 6 == 0 ? 1 + random_below(6) : 1 + random_below(400);
        scene s = make_scene(1 + random_below(3), max_slots, 1 + random_below(140), share,
                             random_below(2), random_below(3), nth_scorer(trial),
                             (plan_storage)(trial % 4));
        budgets b = {{}, ALLOCATION_UNIFORM, random_below(2) == 0, random_below(2) == 0};
        for (uint32_t h = 0; h < s.heads.size(); h++)
            b.of_head.push_back(!share && random_below(5) == 0 ? UINT32_MAX : any_budget(s));
        check_compress(&s, any_valuation(s, share), b);
        free_scene(&s);
    }
}
END_TEST

START_TEST(thousands_of_slots_are_compacted)
{
    for (uint32_t trial = 0; trial < 4; trial++) {
        scene s = make_scene(1 + trial % 2, 3000 + random_below(2000), 4, false, trial % 2,
                             random_below(3), SCORER_ATTENTION_MEAN);
        budgets b = {std::vector<uint32_t>(s.heads.size(), any_budget(s)), ALLOCATION_UNIFORM,
                     trial < 2, false};
        check_compress(&s, any_valuation(s, false), b);
        free_scene(&s);
    }
}
END_TEST

START_TEST(pooling_follows_positions_in_any_order_of_slots)
{
    for (uint32_t trial = 0; trial < 18; trial++) {
        scene s = make_scene(1, 1 + random_below(trial % 6 == 0 ? 2500 : 200), 2, true, trial % 2,
                             trial % 3, SCORER_WINDOW_ATTENTION);
        valuation v = any_valuation(s, false);
        v.pooling = trial % 2 ? POOLING_AVG : POOLING_MAX;
        v.kernel = 1 + random_below(63);
        budgets b = {{any_budget(s)}, ALLOCATION_UNIFORM, false, true};
        check_compress(&s, v, b);
        free_scene(&s);
    }
}
END_TEST

START_TEST(heads_compete_as_in_select_adaptive)
{
    for (uint32_t trial = 0; trial < 48; trial++) {
        uint32_t n_heads = 1 + trial / 2 % MAX_HEADS;
        /* Heads that hold the same tokens tie in position too. */
        scene s = make_scene(n_heads, 1 + random_below(trial % 5 == 0 ? 1200 : 150), 2,
                             trial / 4 % 2, random_below(2), random_below(3),
                             trial % 3 == 0 ? SCORER_WINDOW_ATTENTION : SCORER_ATTENTION_SUM);
        if (trial % 8 == 1 || trial % 8 == 4)
            for (scene::head &head : s.heads) {
                head.scores->host.assign(head.scores->host.size(), 0.5f);
                head.scores->upload();
            }
        s.sinks = s.sinks < 4 ? s.sinks : 4;
        budgets b = {std::vector<uint32_t>(n_heads, any_budget(s)),
                     trial % 2 ? ALLOCATION_ADAPTIVE : ALLOCATION_ADAPTIVE_FLOOR, trial % 3 == 0,
                     false};
        check_compress(&s, any_valuation(s, false), b);
        free_scene(&s);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_select");
    TCase *tests = suite_case(suite, "select", 240);
    tcase_add_test(tests, victims_are_those_of_select_victims);
    tcase_add_test(tests, thousands_of_slots_drop_any_number);
    tcase_add_test(tests, a_summary_is_the_mean_of_what_was_dropped);
    tcase_add_test(tests, survivors_are_those_of_select_survivors);
    tcase_add_test(tests, thousands_of_slots_are_compacted);
    tcase_add_test(tests, pooling_follows_positions_in_any_order_of_slots);
    tcase_add_test(tests, heads_compete_as_in_select_adaptive);
    return suite_run(suite);
}
