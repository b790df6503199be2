/* Attention over pages against double precision on what the pages hold, and its promises: bits
 * depend on a row's own slots alone, and unused or masked slots may hold anything. */
#include "tests/kernels/attention_scene.h"
#include "tests/suite.h"

START_TEST(matches_double_precision_with_any_mask_in_a_poisoned_pool)
{
    random_state = 21;
    for (int round = 0; round < 14; round++) {
        struct scene s;
        if (!scene_open(&s, _i, 2, random_shape(1 + random_below(MAX_SEGMENTS))))
            return;
        check_scene(&s);
        scene_close(&s);
    }
}
END_TEST

START_TEST(the_largest_head_and_a_huge_group_fit_the_scratch)
{
    static const struct shape shapes[] = {{1, 2, 512, 1, true, 0, -1},
                                          {2, 50, 64, 1, true, 0, -1},
                                          {1, 97, 510, 1, false, 0, -1},
                                          {1, 48, 512, 1, true, 0, -1}};
    random_state = 22;
    for (int i = 0; i < 4; i++) {
        struct scene s;
        if (!scene_open(&s, _i, 1, shapes[i]))
            return;
        check_scene(&s);
        scene_close(&s);
    }
}
END_TEST

START_TEST(rows_and_batch_mates_and_threads_change_no_bit)
{
    random_state = 23;
    for (int round = 0; round < 8; round++) {
        struct scene s;
        struct shape shape = random_shape(1 + random_below(MAX_SEGMENTS));
        uint64_t state = random_state;
        if (!scene_open(&s, _i, 1, shape))
            return;
        float *whole = attend_all(&s), *single = floats(out_floats(&s));
        for (uint32_t i = 0; i < s.n_sequences; i++) {
            for (uint32_t r = 0; r < s.segments[i].n_rows;) {
                struct step_segment part = s.segments[i];
                part.first_row += r;
                part.n_rows = 1 + random_below(round % 2 ? 1 : 9);
                if (part.n_rows > s.segments[i].n_rows - r)
                    part.n_rows = s.segments[i].n_rows - r;
                attend(&s, &part, 1, single);
                r += part.n_rows;
            }
        }
        assert_same_bits(whole, single, out_floats(&s));
        for (uint32_t threads = 2; threads <= 5; threads += 3) {
            struct scene other;
            random_state = state;
            ck_assert(scene_open(&other, _i, threads, shape));
            float *out = attend_all(&other);
            assert_same_bits(whole, out, out_floats(&s));
            free(out);
            scene_close(&other);
        }
        free(whole);
        free(single);
        scene_close(&s);
    }
}
END_TEST
/* ---- contexts of many spans */

START_TEST(many_spans_match_double_precision_in_every_storage)
{
    random_state = 27;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t threads = 1; threads <= 2; threads++) {
            struct scene s;
            struct memory memory;
            if (!scene_open(&s, _i, threads, long_shape(storage)))
                return;
            memory_open(&memory, &s);
            check_scene(&s);
            check_last_scores(&s, &memory, 1);
            memory_close(&memory, &s);
            scene_close(&s);
        }
}
END_TEST

/* Outputs, scores and histories are the same alone or together, in any pieces, on any number of
 * threads. The rows of each sequence are tokens that decode one by one, or a prompt. */
START_TEST(spans_chunks_and_threads_change_no_bit_of_outputs_and_scores)
{
    static const uint32_t threads[] = {1, 2, 3, 8}, chunks[] = {0, 1, 7, 256};
    random_state = 28;
    for (int storage = 0; storage < 4; storage++) {
        struct shape shape = long_shape(storage);
        uint64_t state = random_state;
        float *first = NULL;
        struct memory first_memory;
        struct scene first_scene;
        for (uint32_t run = 0; run < 16; run++) {
            struct scene s;
            struct memory memory;
            random_state = state;
            if (!scene_open(&s, _i, threads[run / 4], shape))
                return;
            memory_open(&memory, &s);
            float *out = attend_in_chunks(&s, chunks[run % 4]);
            if (first == NULL) {
                first = out;
                first_memory = memory;
                first_scene = s;
                continue;
            }
            assert_same_bits(first, out, out_floats(&s));
            assert_same_memory(&s, &first_memory, &memory);
            free(out);
            memory_close(&memory, &s);
            scene_close(&s);
        }
        free(first);
        memory_close(&first_memory, &first_scene);
        scene_close(&first_scene);
    }
}
END_TEST

/* A row must not change when later tokens of its own sequence are already written. */
START_TEST(a_chunk_written_at_once_reads_as_if_written_token_by_token)
{
    struct scene s;
    random_state = 24;
    if (!scene_open(&s, _i, 1, (struct shape){2, 3, 64, 1, false, 0, -1}))
        return;
    const uint32_t n = 70, d = s.head_dim, width = s.n_kv_heads * d;
    uint32_t pages[2][3] = {{0, 1, 2}, {3, 4, 5}};
    const struct ring sees = {.sinks = 4, .window = 40};
    struct head_state states[2] = {{.pages = pages[0]}, {.pages = pages[1]}};
    float *k = floats(n * width), *v = floats(n * width), *queries = floats(n * s.n_heads * d);
    float *at_once = floats(n * s.n_heads * d), *one_by_one = floats(n * s.n_heads * d);
    int32_t positions[70];
    fill_normal(k, n * width);
    fill_normal(v, n * width);
    fill_normal(queries, n * s.n_heads * d);
    for (uint32_t i = 0; i < n; i++)
        positions[i] = (int32_t)i;
    const struct kv_rows rows = {k, v, 2, d};
    struct attention a = {.q = queries, .n_heads = s.n_heads, .n_kv_heads = 2, .head_dim = d};
    for (int pass = 0; pass < 2; pass++) {
        poison(&s.b);
        a.out = pass == 0 ? at_once : one_by_one;
        for (uint32_t first = 0, step = pass == 0 ? n : 1; first < n; first += step) {
            struct head_slots slots[2] = {{.n_slots = first + step}, {.n_slots = first + step}};
            struct placement placed = {
                .first = first, .n = step, .slots = slots, .states = states, .rings = &sees};
            struct step_segment segment = {.placed = &placed, .first_row = first, .n_rows = step};
            struct small_step small;
            make_step(&small, &segment, 1, positions, 2);
            s.b.write(s.b.self, &small.step, 0, 0, &rows);
            s.b.attend(s.b.self, &small.step, 0, 0, &a);
        }
    }
    assert_same_bits(at_once, one_by_one, n * s.n_heads * d);
    free(k);
    free(v);
    free(queries);
    free(at_once);
    free(one_by_one);
    scene_close(&s);
}
END_TEST

/* NaN in K or V of a slot that a row may not see is harmless; in a slot that it sees it reaches
 * the output. */
START_TEST(nan_stays_behind_the_mask_and_passes_when_visible)
{
    struct scene s;
    random_state = 25;
    if (!scene_open(&s, _i, 1, (struct shape){1, 3, 48, 1, false, 0, -1}))
        return;
    const uint32_t d = s.head_dim;
    uint32_t pages[2] = {5, 2};
    struct head_state state = {.pages = pages};
    struct head_slots slots = {.n_slots = 40};
    const struct ring sees = {.sinks = 2, .window = 10};
    struct placement placed = {.n = 1, .slots = &slots, .states = &state, .rings = &sees};
    struct step_segment segment = {.placed = &placed, .n_rows = 1};
    float *k = floats(40 * d), *v = floats(40 * d), *out = floats(s.n_heads * d);
    fill_normal(k, 40 * d);
    fill_normal(v, 40 * d);
    const int32_t t = 37; /* sees 0, 1, 28 .. 37 */
    struct small_step step;
    make_step(&step, &segment, 1, &t, 1);
    const struct attention a = {
        .q = s.q, .out = out, .n_heads = s.n_heads, .n_kv_heads = 1, .head_dim = d};
    for (uint32_t nan_at = 0; nan_at < 40; nan_at++) {
        float k_was = k[nan_at * d + 3], v_was = v[nan_at * d + 5];
        for (int in_v = 0; in_v < 2; in_v++) {
            *(in_v ? &v[nan_at * d + 5] : &k[nan_at * d + 3]) = NAN;
            poison(&s.b);
            for (uint32_t i = 0; i < 40; i++) {
                const uint32_t slot = 39 - i;
                write_token(&s.b, &state, &slot, 1, d, (int32_t)i, k + i * d, v + i * d);
            }
            s.b.attend(s.b.self, &step.step, 0, 0, &a);
            bool visible = nan_at < 2 || (nan_at >= 28 && nan_at <= 37);
            for (uint32_t i = 0; i < s.n_heads * d; i++)
                ck_assert_msg(!!isnan(out[i]) == (visible && (!in_v || i % d == 5)),
                              "NaN in %s of position %u: out[%u] is %g", in_v ? "v" : "k", nan_at,
                              i, (double)out[i]);
            k[nan_at * d + 3] = k_was;
            v[nan_at * d + 5] = v_was;
        }
    }
    free(k);
    free(v);
    free(out);
    scene_close(&s);
}
END_TEST

START_TEST(slots_are_read_back_rounded_to_half_and_copied_whole)
{
    struct backend b;
    struct error e;
    random_state = 26;
    if (!open_isa(&b, _i, 1))
        return;
    for (uint32_t d = 1; d <= 100; d += 3) {
        ck_assert(b.kv_alloc(b.self, 4, d, &e));
        ck_assert_uint_eq(b.page_bytes(b.self, d) % 64, 0);
        poison(&b);
        float k[100], v[100], k_back[100], v_back[100];
        fill_normal(k, d);
        fill_normal(v, d);
        k[0] = 1e6f;
        v[d - 1] = -INFINITY;
        k[d / 2] = NAN;
        uint32_t pages[3] = {3, 0, 1}, slot = 32 + d % 32;
        struct head_state state = {.pages = pages};
        const int32_t position = 123456789;
        write_token(&b, &state, &slot, 1, d, position, k, v);
        const uint32_t from = 0, to = 2;
        b.kv_copy(b.self, &from, &to, 1);
        for (uint32_t page = 0; page <= 2; page += 2) {
            ck_assert_int_eq(b.kv_read(b.self, page, d % 32, d, k_back, v_back), position);
            for (uint32_t i = 0; i < d; i++) {
                uint8_t bytes[2];
                put_half(bytes, v[i]);
                ck_assert_double_eq(v_back[i], half_value(bytes));
                put_half(bytes, k[i]);
                ck_assert(isnan(k[i]) ? isnan(k_back[i]) : k_back[i] == half_value(bytes));
            }
            ck_assert(d == 1 || k_back[0] == 65504);
            ck_assert_float_eq(v_back[d - 1], -65504);
        }
        /* Its neighbours and the other pages still hold what they held. */
        b.kv_read(b.self, 0, (d + 1) % 32, d, k_back, v_back);
        ck_assert(isnan(k_back[0]) && isnan(v_back[d - 1]));
        for (uint32_t i = 0; i < 32; i++)
            ck_assert_int_eq(b.kv_read(b.self, 0, i, d, NULL, NULL), i == d % 32 ? position : -1);
        ck_assert_int_eq(b.kv_read(b.self, 1, d % 32, d, NULL, NULL), -1);
        b.kv_free(b.self);
    }
    ck_assert(!b.kv_alloc(b.self, 1, 513, &e));
    ck_assert(!b.kv_alloc(b.self, 0, 64, &e));
    b.close(b.self);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("attention");
    TCase *tc = suite_case(suite, "attention", 120);
    tcase_add_loop_test(tc, matches_double_precision_with_any_mask_in_a_poisoned_pool, 0, N_ISAS);
    tcase_add_loop_test(tc, the_largest_head_and_a_huge_group_fit_the_scratch, 0, N_ISAS);
    tcase_add_loop_test(tc, rows_and_batch_mates_and_threads_change_no_bit, 0, N_ISAS);
    tcase_add_loop_test(tc, many_spans_match_double_precision_in_every_storage, 0, N_ISAS);
    tcase_add_loop_test(tc, spans_chunks_and_threads_change_no_bit_of_outputs_and_scores, 0,
                        N_ISAS);
    tcase_add_loop_test(tc, a_chunk_written_at_once_reads_as_if_written_token_by_token, 0, N_ISAS);
    tcase_add_loop_test(tc, nan_stays_behind_the_mask_and_passes_when_visible, 0, N_ISAS);
    tcase_add_loop_test(tc, slots_are_read_back_rounded_to_half_and_copied_whole, 0, N_ISAS);
    return suite_run(suite);
}
