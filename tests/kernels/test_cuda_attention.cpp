/* The CUDA backend's pages, attention and scores against double precision on what the pages
 * hold: random shapes, slots in shuffled order over scattered pages, holes, windows, sinks with
 * a second query, summaries. And two promises: bits depend on a row's own slots alone, and slots
 * that a row does not see may hold anything. */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/kernels/kernels.h"
#include "cuda/kernels/page.h"

#include "cache/pages/cache.h"
#include "config/base/half.h"
#include "tests/random.h"
#include "tests/suite.h"
namespace cpu
{
extern "C" {
#include "engine/cpu/page.h"
}
} // namespace cpu

#define MUST(call)                                                                                 \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        ck_assert_msg(error_ == cudaSuccess, "%s: %s", #call, cudaGetErrorString(error_));         \
    } while (0)

static std::vector<float> normals(size_t n)
{
    std::vector<float> x(n);
    for (float &v : x)
        v = random_normal();
    return x;
}
static std::vector<uint32_t> shuffled(uint32_t n)
{
    std::vector<uint32_t> order(n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = random_below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

/* Device memory that lives as long as the scene. */
struct device_memory {
    std::vector<void *> blocks;
    ~device_memory()
    {
        for (void *p : blocks)
            cudaFree(p);
    }
    template <class T> T *put(const std::vector<T> &from)
    {
        void *p;
        MUST(cudaMalloc(&p, from.size() * sizeof(T) + 16));
        blocks.push_back(p);
        if (!from.empty())
            MUST(cudaMemcpy(p, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
        return (T *)p;
    }
};
template <class T> static std::vector<T> get(const T *from, size_t n)
{
    std::vector<T> x(n);
    MUST(cudaDeviceSynchronize());
    if (n > 0)
        MUST(cudaMemcpy(x.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
    return x;
}

/* One sequence: tokens 0 .. n_tokens - 1, of which the last n_rows are queries. */
struct sequence {
    uint32_t n_tokens, n_rows;
    uint32_t n_sinks = 0, window = UINT32_MAX, n_holes = 0, n_summary = 0;
    uint32_t score = CACHE_SCORE_NONE, first_scored = 0;
    bool sink_query = false;
};

/* What a slot holds, as the device reads it back. */
struct stored {
    int32_t position;
    std::vector<float> k, v;
};

struct scene {
    uint32_t n_heads, n_kv_heads, head_dim, storage;
    std::vector<sequence> sequences;
    device_memory memory;
    static constexpr uint32_t layer = 1, n_layers = 2;
    device_step s{};
    uint32_t n_rows = 0, max_slots = 0, max_rows_of_segment = 0;
    std::vector<float> q, q_sink, sink_logits;
    std::vector<int32_t> positions;
    std::vector<device_segment> segments;
    std::vector<device_head> heads;
    /* [sequence][kv_head] */
    std::vector<std::vector<uint32_t>> pages, slot_of; /* slot_of: of a token */
    std::vector<std::vector<float>> summaries;
    float *d_q, *d_q_sink, *d_out;
    attention_workspace w;

    uint32_t group() const
    {
        return n_heads / n_kv_heads;
    }
    size_t at(size_t sequence, uint32_t kv_head) const
    {
        return sequence * n_kv_heads + kv_head;
    }
    device_head *head(size_t sequence, uint32_t kv_head)
    {
        return &heads[(sequence * n_layers + layer) * n_kv_heads + kv_head];
    }

    /* By token: in order, or in pieces of up to 40 in random order. */
    static std::vector<uint32_t> slots_of(uint32_t n_tokens, bool in_order)
    {
        std::vector<uint32_t> ends, slots(n_tokens);
        for (uint32_t end = 0; end < n_tokens;)
            ends.push_back(end = in_order ? n_tokens
                                          : std::min(n_tokens, end + 1 + random_below(40)));
        uint32_t next = 0;
        for (uint32_t piece : shuffled((uint32_t)ends.size()))
            for (uint32_t t = piece > 0 ? ends[piece - 1] : 0; t < ends[piece]; t++)
                slots[t] = next++;
        return slots;
    }

    /* Pages, tables and each head's state; slots in random order, pages all over the pool. */
    void place(bool in_order)
    {
        page_layout layout = page_layout_of(head_dim, storage);
        uint32_t n_pages = 0, next = 0;
        for (const sequence &one : sequences)
            n_pages += n_kv_heads * (uint32_t)pages_of_slots(one.n_tokens);
        std::vector<uint32_t> order = shuffled(n_pages);
        s.page_bytes = layout.bytes;
        s.pool = memory.put(std::vector<uint8_t>((size_t)n_pages * layout.bytes, 0xff));
        heads.resize(sequences.size() * n_layers * n_kv_heads);
        for (size_t i = 0; i < sequences.size(); i++)
            for (uint32_t h = 0; h < n_kv_heads; h++) {
                const sequence &one = sequences[i];
                uint32_t n = (uint32_t)pages_of_slots(one.n_tokens);
                pages.emplace_back(order.begin() + next, order.begin() + next + n);
                next += n;
                slot_of.push_back(slots_of(one.n_tokens, in_order));
                summaries.push_back(normals(2 * head_dim));
                device_head *to = head(i, h);
                to->pages = memory.put(pages.back());
                to->n_slots = one.n_tokens;
                to->n_sinks = one.n_sinks;
                to->window = one.window;
                to->counters = memory.put(std::vector<head_counters>{{0, one.n_summary}});
                to->summary = one.n_summary ? memory.put(summaries.back()) : nullptr;
                /* Scores of earlier tokens begin with random numbers. */
                if (one.score != CACHE_SCORE_NONE)
                    to->scores = memory.put(std::vector<float>(n * PAGE_SLOTS, 9));
                if (one.score == CACHE_SCORE_HISTORY)
                    to->history =
                        memory.put(std::vector<uint32_t>(n * PAGE_SLOTS * HISTORY_WORDS, ~0u));
                max_slots = one.n_tokens > max_slots ? one.n_tokens : max_slots;
            }
    }

    /* Tokens [from, from + n) of a sequence that go into consecutive slots, as many as there
     * are. */
    uint32_t run_of(size_t i, uint32_t from) const
    {
        uint32_t n = 1;
        for (; from + n < sequences[i].n_tokens; n++)
            for (uint32_t h = 0; h < n_kv_heads; h++)
                if (slot_of[at(i, h)][from + n] != slot_of[at(i, h)][from] + n)
                    return n;
        return n;
    }

    /* All tokens through kv_write, each run as a segment of its own. */
    void write_tokens()
    {
        std::vector<device_segment> all;
        std::vector<device_head> targets;
        std::vector<int32_t> at_position;
        uint32_t most_rows = 0;
        for (size_t i = 0; i < sequences.size(); i++)
            for (uint32_t t = 0, n; t < sequences[i].n_tokens; t += n) {
                n = run_of(i, t);
                most_rows = n > most_rows ? n : most_rows;
                device_segment one{};
                one.first_row = (uint32_t)at_position.size();
                one.n_rows = n;
                all.push_back(one);
                for (uint32_t l = 0; l < n_layers; l++)
                    for (uint32_t h = 0; h < n_kv_heads; h++) {
                        targets.push_back(*head(i, h));
                        targets.back().write_slot = slot_of[at(i, h)][t];
                    }
                for (uint32_t r = 0; r < n; r++)
                    at_position.push_back((int32_t)(t + r));
            }
        device_step write = s;
        write.header = memory.put(
            std::vector<device_header>{{(uint32_t)at_position.size(), (uint32_t)all.size(), 0}});
        write.positions = memory.put(at_position);
        write.segments = memory.put(all);
        write.heads = memory.put(targets);
        const size_t n = at_position.size() * n_kv_heads * head_dim;
        const float *k = memory.put(normals(n)), *v = memory.put(normals(n));
        /* A step has one segment of a head. Segments that add to the same sum take turns here: on a
         * GPU they would race. */
        const uint32_t count = (uint32_t)all.size(),
                       together = targets[0].key_sum != NULL ? 1 : count;
        for (uint32_t first = 0; first < count; first += together)
            launch_kv_write(nullptr, &write, layer, first, together, most_rows, k, v);
        MUST(cudaDeviceSynchronize());
    }

    /* Some slots before the queries become holes, with garbage in them. */
    void make_holes()
    {
        page_layout layout = page_layout_of(head_dim, storage);
        for (size_t i = 0; i < sequences.size(); i++)
            for (uint32_t h = 0; h < n_kv_heads; h++)
                for (uint32_t j = 0; j < sequences[i].n_holes; j++) {
                    uint32_t past = sequences[i].n_tokens - sequences[i].n_rows;
                    uint32_t slot = slot_of[at(i, h)][random_below(past)];
                    uint8_t *page = s.pool + pages[at(i, h)][slot / PAGE_SLOTS] * s.page_bytes;
                    std::vector<uint8_t> garbage(layout.row_bytes, 0xff);
                    int32_t hole = HOLE;
                    uint32_t row = slot % PAGE_SLOTS;
                    MUST(cudaMemcpy(page + row * 4, &hole, 4, cudaMemcpyHostToDevice));
                    if (storage != STORAGE_F16 && storage != STORAGE_BF16)
                        continue; /* every byte is a number there */
                    for (uint32_t at : {layout.k_at, layout.v_at})
                        MUST(cudaMemcpy(page + at + row * layout.row_bytes, garbage.data(),
                                        layout.row_bytes, cudaMemcpyHostToDevice));
                }
    }

    /* The step whose rows are the queries. */
    void prepare_queries()
    {
        bool sinks = false;
        for (size_t i = 0; i < sequences.size(); i++) {
            const sequence &one = sequences[i];
            device_segment segment{};
            segment.first_row = n_rows;
            segment.n_rows = one.n_rows;
            segment.sink_query = one.sink_query;
            segment.score = one.score;
            segment.first_scored = one.first_scored;
            segments.push_back(segment);
            sinks = sinks || one.sink_query;
            for (uint32_t r = 0; r < one.n_rows; r++)
                positions.push_back((int32_t)(one.n_tokens - one.n_rows + r));
            n_rows += one.n_rows;
            max_rows_of_segment =
                one.n_rows > max_rows_of_segment ? one.n_rows : max_rows_of_segment;
        }
        const size_t n = (size_t)n_rows * n_heads * head_dim;
        q = normals(n);
        q_sink = normals(n);
        for (size_t i = 0; i < n; i++)
            q[i] *= 2; /* logits of a few units */
        d_q = memory.put(q);
        d_q_sink = sinks ? memory.put(q_sink) : nullptr;
        d_out = memory.put(std::vector<float>(n, NAN));
        s.header = memory.put(std::vector<device_header>{{n_rows, (uint32_t)segments.size(), 0}});
        s.positions = memory.put(positions);
        s.segments = memory.put(segments);
        s.heads = memory.put(heads);
        const uint32_t decode = (uint32_t)segments.size();
        uint64_t bytes = attention_workspace_bytes(&s, n_rows, decode, max_slots);
        attention_workspace_place(&w, &s, memory.put(std::vector<uint8_t>(bytes, 0xff)), n_rows,
                                  decode, max_slots);
    }

    scene(uint32_t heads_, uint32_t kv_heads, uint32_t dim, uint32_t storage_,
          const std::vector<sequence> &what, bool in_order = false)
        : n_heads(heads_), n_kv_heads(kv_heads), head_dim(dim), storage(storage_), sequences(what)
    {
        s.n_layers = n_layers;
        s.n_heads = n_heads;
        s.n_kv_heads = n_kv_heads;
        s.head_dim = head_dim;
        s.storage = storage;
        place(in_order);
        write_tokens();
        make_holes();
        prepare_queries();
    }

    /* A slot without a value for every query head: its logit is from far below the others to far
     * above. */
    void give_sinks()
    {
        for (uint32_t h = 0; h < n_heads; h++)
            sink_logits.push_back((float)random_below(2000) / 100 - 10);
        s.sink_logits = memory.put(sink_logits);
    }

    void attend(uint32_t first, uint32_t n)
    {
        launch_attention_decode(nullptr, &s, layer, first, n, d_q, d_q_sink, d_out, &w);
        launch_attention_prefill(nullptr, &s, layer, first, n, max_rows_of_segment, d_q, d_q_sink,
                                 d_out, &w);
        launch_score_prefill(nullptr, &s, layer, first, n, max_slots, d_q, &w);
        MUST(cudaDeviceSynchronize());
    }
    std::vector<float> outputs()
    {
        return get(d_out, (size_t)n_rows * n_heads * head_dim);
    }
    std::vector<float> scores(size_t sequence, uint32_t kv_head)
    {
        return get(head(sequence, kv_head)->scores, sequences[sequence].n_tokens);
    }

    std::vector<stored> read_slots(size_t sequence, uint32_t kv_head)
    {
        std::vector<stored> all(sequences[sequence].n_tokens);
        std::vector<float> zeros(head_dim);
        float *k = memory.put(zeros), *v = memory.put(zeros);
        int32_t *position = memory.put(std::vector<int32_t>(1));
        for (uint32_t i = 0; i < all.size(); i++) {
            launch_kv_read(nullptr, s.pool, s.page_bytes, storage, head_dim,
                           pages[at(sequence, kv_head)][i / PAGE_SLOTS], i % PAGE_SLOTS, k, v,
                           position);
            all[i] = {get(position, 1)[0], get(k, head_dim), get(v, head_dim)};
        }
        return all;
    }
};

/* Double precision: one query head of one row. */
struct answer {
    std::vector<double> out, weights; /* weights [n_slots]; 0 of what is not seen */
    std::vector<bool> seen;
};
static answer reference(const scene &s, size_t i, uint32_t kv_head, uint32_t row, uint32_t g,
                        const std::vector<stored> &slots)
{
    const sequence &one = s.sequences[i];
    const size_t query =
        ((size_t)(s.segments[i].first_row + row) * s.n_heads + kv_head * s.group() + g) *
        s.head_dim;
    const int64_t t = s.positions[s.segments[i].first_row + row];
    const double scale = 1 / std::sqrt((double)s.head_dim);
    answer a;
    std::vector<double> logits(slots.size() + 1, -INFINITY);
    double largest = -INFINITY, sum = 0;
    for (size_t j = 0; j < slots.size(); j++) {
        const int64_t p = slots[j].position;
        a.seen.push_back(p <= t && (p < one.n_sinks || t - p < (int64_t)one.window));
        if (!a.seen[j])
            continue;
        const float *q = (one.sink_query && p < one.n_sinks ? s.q_sink : s.q).data() + query;
        logits[j] = 0;
        for (uint32_t d = 0; d < s.head_dim; d++)
            logits[j] += (double)q[d] * slots[j].k[d] * scale;
        largest = fmax(largest, logits[j]);
    }
    const float *summary = s.summaries[s.at(i, kv_head)].data();
    if (one.n_summary > 0) {
        double dot = 0;
        for (uint32_t d = 0; d < s.head_dim; d++)
            dot += (double)s.q[query + d] * summary[d] * scale;
        logits[slots.size()] = dot + std::log((double)one.n_summary);
        largest = fmax(largest, logits[slots.size()]);
    }
    const double sink =
        s.sink_logits.empty() ? -INFINITY : (double)s.sink_logits[kv_head * s.group() + g];
    largest = fmax(largest, sink);
    a.out.assign(s.head_dim, 0);
    a.weights.assign(slots.size(), 0);
    for (double &l : logits)
        sum += l = std::exp(l - largest);
    sum += std::exp(sink - largest);
    for (uint32_t d = 0; d < s.head_dim; d++) {
        for (size_t j = 0; j < slots.size(); j++)
            if (a.seen[j])
                a.out[d] += logits[j] * slots[j].v[d] / sum;
        if (one.n_summary > 0)
            a.out[d] += logits[slots.size()] * summary[s.head_dim + d] / sum;
    }
    for (size_t j = 0; j < slots.size(); j++)
        a.weights[j] = logits[j] / sum;
    return a;
}

/* Rounding to halves is off by 2^-12 of a number at most, and numbers are bounded by about 4.
 * Weights are halves in prefill and two halves in decode, two bfloat16 where K and V are that;
 * quantised, V is rounded to halves too, and weights are halves. */
static double tolerance(const scene &s, const sequence &one)
{
    if (s.storage == STORAGE_BF16)
        return 4e-4;
    if (s.storage == STORAGE_F16)
        return one.n_rows > 1 ? 4 * 0x1p-12 : 8e-5;
    return 4 * 0x1p-11;
}

static void check_scores(scene &s, size_t i, uint32_t h,
                         const std::vector<std::vector<double>> &means,
                         const std::vector<std::vector<bool>> &seen)
{
    const sequence &one = s.sequences[i];
    const uint32_t n = one.n_tokens;
    std::vector<double> expected(n, 0);
    std::vector<uint32_t> history;
    if (one.score == CACHE_SCORE_HISTORY)
        history = get(s.head(i, h)->history, (size_t)n * HISTORY_WORDS);
    for (uint32_t r = one.first_scored; r < one.n_rows; r++) {
        const uint32_t bit = (uint32_t)s.positions[s.segments[i].first_row + r] % HISTORY_QUERIES;
        double n_seen = 0;
        for (uint32_t j = 0; j < n; j++)
            n_seen += seen[r][j];
        for (uint32_t page = 0; page < n; page += PAGE_SLOTS) {
            bool any = false;
            for (uint32_t j = page; j < n && j < page + PAGE_SLOTS; j++)
                any = any || seen[r][j];
            for (uint32_t j = page; j < n && j < page + PAGE_SLOTS; j++) {
                if (one.score == CACHE_SCORE_SUM)
                    expected[j] += means[r][j];
                else if (one.score == CACHE_SCORE_LAST && any)
                    expected[j] = means[r][j];
                else if (one.score == CACHE_SCORE_HISTORY && seen[r][j] &&
                         fabs(means[r][j] * n_seen - 1) > 1e-4)
                    ck_assert_msg((history[j * HISTORY_WORDS + bit / 32] >> bit % 32 & 1) ==
                                      (means[r][j] > 1 / n_seen),
                                  "slot %u, row %u: mean %g, even share %g, bit %u", j, r,
                                  means[r][j], 1 / n_seen, bit);
            }
        }
    }
    if (one.score == CACHE_SCORE_HISTORY)
        return;
    std::vector<float> scores = s.scores(i, h);
    /* Logits of up to about 20 whose error is a few 2^-22 of |q| |k|. */
    for (uint32_t j = 0; j < n; j++)
        ck_assert_msg(fabs(scores[j] - expected[j]) <= 2e-5 * expected[j] + 1e-9,
                      "score of slot %u of %u is %.9g, not %.9g (sequence %zu, head %u, %u rows)",
                      j, n, scores[j], expected[j], i, h, one.n_rows);
}

static void check(scene &s)
{
    s.attend(0, (uint32_t)s.segments.size());
    std::vector<float> out = s.outputs();
    for (size_t i = 0; i < s.sequences.size(); i++)
        for (uint32_t h = 0; h < s.n_kv_heads; h++) {
            const sequence &one = s.sequences[i];
            std::vector<stored> slots = s.read_slots(i, h);
            std::vector<std::vector<double>> means(one.n_rows,
                                                   std::vector<double>(slots.size(), 0));
            std::vector<std::vector<bool>> seen(one.n_rows);
            for (uint32_t r = 0; r < one.n_rows; r++)
                for (uint32_t g = 0; g < s.group(); g++) {
                    answer a = reference(s, i, h, r, g, slots);
                    const size_t at =
                        ((size_t)(s.segments[i].first_row + r) * s.n_heads + h * s.group() + g) *
                        s.head_dim;
                    for (uint32_t d = 0; d < s.head_dim; d++)
                        ck_assert_msg(
                            fabs(out[at + d] - a.out[d]) <= tolerance(s, one),
                            "sequence %zu (%u tokens, %u rows), head %u, row %u, query head %u, "
                            "dimension %u of %u: %.9g, not %.9g",
                            i, one.n_tokens, one.n_rows, h, r, g, d, s.head_dim, out[at + d],
                            a.out[d]);
                    for (size_t j = 0; j < slots.size(); j++)
                        means[r][j] += a.weights[j] / s.group();
                    seen[r] = a.seen;
                }
            if (one.score != CACHE_SCORE_NONE)
                check_scores(s, i, h, means, seen);
        }
}

static const uint32_t storages[] = {STORAGE_F16, STORAGE_BF16, STORAGE_Q8, STORAGE_Q4};
#define N_STORAGES 4

/* head_dim, KV heads, group */
static const uint32_t shapes[][3] = {{64, 2, 1},  {128, 1, 4}, {8, 2, 3},  {80, 1, 2},
                                     {256, 1, 1}, {33, 2, 5},  {96, 1, 8}, {13, 1, 16},
                                     {200, 1, 2}, {128, 1, 7}, {65, 1, 2}};
#define N_SHAPES 11

static sequence random_sequence(uint32_t n_rows)
{
    sequence s;
    s.n_rows = n_rows;
    s.n_tokens = n_rows + 1 + random_below(120);
    if (random_below(2)) {
        s.n_sinks = random_below(5);
        s.window = 1 + random_below(s.n_tokens);
        s.sink_query = random_below(2);
    }
    if (random_below(2))
        s.n_holes = 1 + random_below(10);
    if (random_below(3) == 0)
        s.n_summary = 1 + random_below(1000);
    /* Scores ignore a second query: plans that have one keep by position. */
    if (!s.sink_query)
        s.score = random_below(4);
    if (n_rows > 1 && random_below(2))
        s.first_scored = random_below(n_rows);
    return s;
}

START_TEST(attention_and_scores_agree_with_double_precision)
{
    random_state = 100 + (uint64_t)_i;
    const uint32_t *shape = shapes[_i % N_SHAPES];
    std::vector<sequence> sequences;
    for (uint32_t rows : {1u, 2 + random_below(30), 1u, 1u})
        sequences.push_back(random_sequence(rows));
    scene s(shape[1] * shape[2], shape[1], shape[0], storages[_i / N_SHAPES], sequences);
    check(s);
}
END_TEST

START_TEST(a_sink_logit_takes_its_share_and_gives_no_value)
{
    random_state = 300 + (uint64_t)_i;
    const uint32_t *shape = shapes[_i % N_SHAPES];
    std::vector<sequence> sequences;
    for (uint32_t rows : {1u, 2 + random_below(30), 1u})
        sequences.push_back(random_sequence(rows));
    sequences[2].n_tokens = 700; /* several splits */
    scene s(shape[1] * shape[2], shape[1], shape[0], storages[_i % N_STORAGES], sequences);
    s.give_sinks();
    check(s);
}
END_TEST

/* Long enough for several splits, batches of pages and warps. */
START_TEST(many_slots_are_split_and_merged)
{
    random_state = 7;
    sequence one, scored, prompt;
    one.n_tokens = 1500;
    one.n_rows = 1;
    scored = one;
    scored.n_tokens = 700;
    scored.score = CACHE_SCORE_SUM;
    prompt = scored;
    prompt.n_rows = 70;
    scene s(2, 1, 64, STORAGE_F16, {one, scored, prompt});
    check(s);
}
END_TEST

/* The most shared memory that any shape asks for. */
START_TEST(the_largest_heads_fit)
{
    random_state = 23;
    sequence one, prompt;
    one.n_tokens = 60;
    one.n_rows = 1;
    one.n_sinks = 3;
    one.window = 40;
    one.sink_query = true;
    prompt = one;
    prompt.n_rows = 9;
    scene s(16, 1, 256, storages[_i], {one, prompt});
    check(s);
}
END_TEST

START_TEST(bits_do_not_depend_on_other_sequences)
{
    random_state = 3 + (uint64_t)_i;
    std::vector<sequence> sequences;
    for (uint32_t rows : {1u, 19u, 1u, 40u}) {
        sequences.push_back(random_sequence(rows));
        sequences.back().score = CACHE_SCORE_LAST; /* overwrites everything */
        sequences.back().first_scored = 0;
    }
    scene s(6, 2, 64, storages[_i], sequences);
    s.attend(0, 4);
    std::vector<float> together = s.outputs();
    std::vector<std::vector<float>> scores;
    for (size_t i = 0; i < 4; i++)
        scores.push_back(s.scores(i, 1));
    for (uint32_t i = 4; i-- > 0;)
        s.attend(i, 1);
    std::vector<float> alone = s.outputs();
    ck_assert_msg(memcmp(together.data(), alone.data(), alone.size() * sizeof(float)) == 0,
                  "outputs of sequences alone and together differ");
    for (size_t i = 0; i < 4; i++)
        ck_assert_msg(memcmp(s.scores(i, 1).data(), scores[i].data(), scores[i].size() * 4) == 0,
                      "scores of sequence %zu alone and together differ", i);
}
END_TEST

/* A prompt as one segment, and in two of which the first sees fewer slots: the same bits for
 * every row and every slot's sum. */
START_TEST(bits_of_a_prompt_do_not_depend_on_its_chunks)
{
    const uint32_t n = 75, cut = _i == 0 ? 32 : 41;
    sequence whole;
    whole.n_tokens = whole.n_rows = n;
    whole.score = CACHE_SCORE_SUM;
    random_state = 5;
    scene a(3, 1, 64, STORAGE_F16, {whole}, true);
    a.attend(0, 1);
    random_state = 5;
    scene b(3, 1, 64, STORAGE_F16, {whole}, true);
    for (uint32_t part = 0; part < 2; part++) {
        std::vector<device_segment> segment = b.segments;
        std::vector<device_head> heads = b.heads;
        segment[0].first_row = part == 0 ? 0 : cut;
        segment[0].n_rows = part == 0 ? cut : n - cut;
        heads[scene::layer].n_slots = part == 0 ? cut : n;
        b.s.segments = b.memory.put(segment);
        b.s.heads = b.memory.put(heads);
        b.attend(0, 1);
    }
    std::vector<float> one = a.outputs(), two = b.outputs();
    for (size_t i = 0; i < one.size(); i++)
        ck_assert_msg(one[i] == two[i], "row %zu: %.9g in one piece, %.9g in two", i / (3 * 64),
                      one[i], two[i]);
    one = a.scores(0, 0);
    two = b.scores(0, 0);
    for (size_t i = 0; i < one.size(); i++)
        ck_assert_msg(one[i] == two[i], "slot %zu: score %.9g in one piece, %.9g in two", i, one[i],
                      two[i]);
}
END_TEST

/* Numbers as the CPU's pages have them, bit by bit; pads are zero; positions, scores, histories. */
START_TEST(rows_are_stored_as_on_the_cpu)
{
    const uint32_t dims[] = {1, 8, 13, 64, 100, 256}, d = dims[_i];
    random_state = 11 + (uint64_t)_i;
    page_layout layout = page_layout_of(d, STORAGE_F16);
    device_memory memory;
    std::vector<float> k = normals(d), v = normals(d);
    const float odd[] = {1e6f, -1e6f, 1e-7f, NAN, INFINITY, -INFINITY, 65520, 6e-8f};
    for (uint32_t i = 0; i < d; i++)
        if (random_below(2))
            v[i] = odd[random_below(8)];
    device_head head{};
    head.pages = memory.put(std::vector<uint32_t>{2, 0});
    head.scores = memory.put(std::vector<float>(64, 5));
    head.history = memory.put(std::vector<uint32_t>(64 * HISTORY_WORDS, 5));
    head.counters = memory.put(std::vector<head_counters>{{3, 0}});
    head.holes = memory.put(std::vector<uint32_t>{40, 50, 35});
    head.n_slots = 60;
    device_step s{};
    s.n_layers = s.n_heads = s.n_kv_heads = 1;
    s.head_dim = d;
    s.page_bytes = layout.bytes;
    s.pool = memory.put(std::vector<uint8_t>(3 * layout.bytes, 0xff));
    device_segment segment{};
    segment.n_rows = 1;
    s.header = memory.put(std::vector<device_header>{{1, 1, 0}});
    s.segments = memory.put(std::vector<device_segment>{segment});
    head.write_slot = SLOT_OF_HOLE;
    s.heads = memory.put(std::vector<device_head>{head});
    s.positions = memory.put(std::vector<int32_t>{77});
    launch_kv_write(nullptr, &s, 0, 0, 1, 1, memory.put(k), memory.put(v));
    std::vector<uint8_t> pool = get(s.pool, 3 * layout.bytes);
    const uint32_t at = 35 % PAGE_SLOTS; /* the last of the holes, in the second page: number 0 */
    for (uint32_t i = 0; i < layout.row_bytes / 2; i++) {
        uint16_t stored_k, stored_v;
        memcpy(&stored_k, &pool[layout.k_at + at * layout.row_bytes + i * 2], 2);
        memcpy(&stored_v, &pool[layout.v_at + at * layout.row_bytes + i * 2], 2);
        ck_assert_uint_eq(stored_k, i < d ? half_from_float(k[i]) : 0);
        if (i < d && std::isnan(v[i]))
            ck_assert_msg((stored_v & 0x7fff) > 0x7c00, "a NaN is stored as %x", stored_v);
        else
            ck_assert_uint_eq(stored_v, i < d ? half_from_float(v[i]) : 0);
    }
    int32_t position;
    memcpy(&position, &pool[at * 4], 4);
    ck_assert_int_eq(position, 77);
    ck_assert_uint_eq(get(head.counters, 1)[0].n_holes, 2);
    for (uint32_t i = 0; i < 64; i++) {
        ck_assert_float_eq(get(head.scores, 64)[i], i == 35 ? 0 : 5);
        for (uint32_t j = 0; j < HISTORY_WORDS; j++)
            ck_assert_uint_eq(get(head.history, 64 * HISTORY_WORDS)[i * HISTORY_WORDS + j],
                              i == 35 ? 0 : 5);
    }
}
END_TEST

/* Numbers of many kinds: equal ones, few and distant ones, zeros of both signs, NaN, numbers
 * that halves cannot hold. */
static std::vector<float> odd_numbers(uint32_t n, uint32_t kind)
{
    std::vector<float> x = normals(n);
    for (float &v : x) {
        if (kind == 1)
            v = 1.5f;
        else if (kind == 2 && random_below(8) == 0)
            v *= 50;
        else if (kind == 3)
            v = random_below(2) ? -0.0f : 0.0f;
        else if (kind == 4 && random_below(3) == 0)
            v = NAN;
        else if (kind == 5)
            v *= random_below(4) == 0 ? 1e6f : 1e-9f;
        else if (kind == 6)
            v = (float)random_below(3);
        else if (kind == 7)
            v = NAN;
    }
    return x;
}

START_TEST(quantised_rows_mean_what_they_do_on_the_cpu)
{
    const uint32_t dims[] = {1, 2, 3, 8, 33, 64, 65, 100, 128, 256}, d = dims[_i / 2];
    const enum plan_storage storage = _i % 2 ? STORAGE_Q4 : STORAGE_Q8;
    random_state = 40 + (uint64_t)_i;
    sequence one;
    one.n_tokens = 3;
    one.n_rows = 1;
    scene s(1, 1, d, storage, {one});
    const cpu::page_shape shape = cpu::page_shape_of(d, storage, 1);
    std::vector<uint8_t> page(shape.bytes);
    device_memory memory;
    float *d_k = memory.put(std::vector<float>(d)), *d_v = memory.put(std::vector<float>(d));
    int32_t *d_position = memory.put(std::vector<int32_t>(1));
    device_step write = s.s;
    device_segment segment{};
    segment.n_rows = 1;
    write.segments = memory.put(std::vector<device_segment>{segment});
    write.header = memory.put(std::vector<device_header>{{1, 1, 0}});
    write.positions = memory.put(std::vector<int32_t>{5});
    for (uint32_t kind = 0; kind < 8; kind++) {
        std::vector<float> k = odd_numbers(d, kind), v = odd_numbers(d, kind), k_cpu(d), v_cpu(d);
        const uint32_t slot = random_below(PAGE_SLOTS);
        s.head(0, 0)->write_slot = slot;
        write.heads = memory.put(s.heads);
        launch_kv_write(nullptr, &write, scene::layer, 0, 1, 1, memory.put(k), memory.put(v));
        launch_kv_read(nullptr, s.s.pool, s.s.page_bytes, storage, d, s.pages[0][0], slot, d_k, d_v,
                       d_position);
        cpu::page_write(&shape, page.data(), slot, k.data(), v.data());
        cpu::page_read(&shape, page.data(), slot, k_cpu.data(), v_cpu.data());
        std::vector<float> k_here = get(d_k, d), v_here = get(d_v, d);
        for (uint32_t i = 0; i < d; i++)
            ck_assert_msg(
                k_here[i] == k_cpu[i] && v_here[i] == v_cpu[i],
                "kind %u, dimension %u of %u: K %.9g is %.9g here and %.9g on the CPU; V %.9g is "
                "%.9g and %.9g",
                kind, i, d, k[i], k_here[i], k_cpu[i], v[i], v_here[i], v_cpu[i]);
        ck_assert_int_eq(get(d_position, 1)[0], 5);
    }
}
END_TEST

static __global__ void move_slots(device_step s, uint8_t *to, const uint8_t *from)
{
    page_move_slot(&s, to, 3, from, 17);
    page_move_slot(&s, to, 31, from, 0);
}

START_TEST(a_moved_slot_takes_everything_along)
{
    random_state = 60;
    sequence one;
    one.n_tokens = 32;
    one.n_rows = 1;
    for (uint32_t d : {13u, 72u, 128u}) {
        scene s(1, 1, d, storages[_i], {one}, true);
        std::vector<stored> before = s.read_slots(0, 0);
        uint8_t *page = s.s.pool + s.pages[0][0] * s.s.page_bytes;
        uint8_t *other = s.memory.put(std::vector<uint8_t>(s.s.page_bytes, 0xff));
        LAUNCH(move_slots, 1, 32, 0, nullptr, s.s, other, page);
        MUST(cudaDeviceSynchronize());
        MUST(cudaMemcpy(page, other, s.s.page_bytes, cudaMemcpyDeviceToDevice));
        std::vector<stored> after = s.read_slots(0, 0);
        ck_assert_msg(after[3].position == before[17].position && after[3].k == before[17].k &&
                          after[3].v == before[17].v && after[31].k == before[0].k &&
                          after[31].v == before[0].v,
                      "head_dim %u: a moved slot differs", d);
    }
}
END_TEST

START_TEST(the_sum_of_keys_is_that_of_the_stored_ones)
{
    random_state = 17;
    const uint32_t d = 40, n = 70;
    sequence one;
    one.n_tokens = n;
    one.n_rows = 1;
    scene s(1, 1, d, storages[_i], {one});
    /* The same tokens again, now with a sum that begins with something. */
    device_head *head = s.head(0, 0);
    std::vector<double> before(2 * d, 3);
    std::fill(before.begin() + d, before.end(), 1); /* what was dropped since */
    head->key_sum = s.memory.put(before);
    random_state = 18;
    s.write_tokens();
    std::vector<double> sum(d, 2), found = get(head->key_sum, d);
    std::vector<stored> slots = s.read_slots(0, 0);
    for (uint32_t t = 0; t < n; t++) {
        const std::vector<float> &k = slots[s.slot_of[0][t]].k;
        double squares = 0;
        for (float x : k)
            squares += (double)x * x;
        for (uint32_t i = 0; i < d; i++)
            sum[i] += k[i] / std::sqrt(squares);
    }
    for (uint32_t i = 0; i < d; i++)
        ck_assert_msg(fabs(found[i] - sum[i]) <= 1e-13 * n, "dimension %u: %.17g, not %.17g", i,
                      found[i], sum[i]);
}
END_TEST

START_TEST(pages_are_copied_and_tables_changed)
{
    device_memory memory;
    const uint64_t bytes = page_layout_of(13, STORAGE_F16).bytes;
    std::vector<uint8_t> pool(5 * bytes);
    for (uint8_t &b : pool)
        b = (uint8_t)random_bits();
    uint8_t *on_device = memory.put(pool);
    launch_kv_copy(nullptr, on_device, bytes, memory.put(std::vector<uint32_t>{4, 0}),
                   memory.put(std::vector<uint32_t>{1, 3}), 2);
    std::vector<uint8_t> after = get(on_device, 5 * bytes);
    const uint32_t source[5] = {0, 4, 2, 0, 4};
    for (uint32_t page = 0; page < 5; page++)
        ck_assert_msg(memcmp(&after[page * bytes], &pool[source[page] * bytes], bytes) == 0,
                      "page %u is not page %u of before", page, source[page]);
    std::vector<table_change> changes;
    uint32_t *table = memory.put(std::vector<uint32_t>(300, 7));
    for (uint32_t i = 0; i < 300; i += 2)
        changes.push_back({table + i, i * 3, 0});
    launch_table_changes(nullptr, memory.put(changes), (uint32_t)changes.size());
    std::vector<uint32_t> changed = get(table, 300);
    for (uint32_t i = 0; i < 300; i++)
        ck_assert_uint_eq(changed[i], i % 2 == 0 ? i * 3 : 7);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_attention");
    TCase *c = suite_case(suite, "attention", 300);
    tcase_add_loop_test(c, rows_are_stored_as_on_the_cpu, 0, 6);
    tcase_add_loop_test(c, quantised_rows_mean_what_they_do_on_the_cpu, 0, 20);
    tcase_add_loop_test(c, a_moved_slot_takes_everything_along, 0, N_STORAGES);
    tcase_add_loop_test(c, the_sum_of_keys_is_that_of_the_stored_ones, 0, N_STORAGES);
    tcase_add_test(c, pages_are_copied_and_tables_changed);
    tcase_add_loop_test(c, attention_and_scores_agree_with_double_precision, 0,
                        N_SHAPES * N_STORAGES);
    tcase_add_loop_test(c, a_sink_logit_takes_its_share_and_gives_no_value, 0, N_SHAPES);
    tcase_add_test(c, many_slots_are_split_and_merged);
    tcase_add_loop_test(c, the_largest_heads_fit, 0, N_STORAGES);
    tcase_add_loop_test(c, bits_do_not_depend_on_other_sequences, 0, N_STORAGES);
    tcase_add_loop_test(c, bits_of_a_prompt_do_not_depend_on_its_chunks, 0, 2);
    return suite_run(suite);
}
