/* What attention can read beside whole tables: lists of slots, and a slot without a value for
 * every query head. Against double precision, in every storage, for decoding rows and prompts. */
#include "tests/kernels/attention_scene.h"
#include "tests/suite.h"

/* ---- sinks without a value */

/* Logits from far below every other to far above, one per query head. */
static float *random_sinks(const struct scene *s)
{
    float *logits = floats(s->n_heads);
    for (uint32_t h = 0; h < s->n_heads; h++)
        logits[h] = (float)random_below(3000) / 100 - 15;
    return logits;
}

START_TEST(a_sink_logit_takes_its_share_and_gives_no_value)
{
    random_state = 31;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t round = 0; round < 3; round++) { /* of one page, of one span, of many */
            struct scene s;
            struct memory memory;
            struct shape shape = round < 2 ? random_shape(3) : long_shape(storage);
            shape.storage = storage;
            if (!scene_open(&s, _i, 1 + round % 2, shape))
                return;
            float *logits = random_sinks(&s);
            memory_open(&memory, &s);
            float *without = attend_all(&s);
            memory_close(&memory, &s);
            memory_open(&memory, &s);
            s.sink_logits = logits;
            check_scene(&s);
            check_last_scores(&s, &memory, 1);
            /* A logit far below all others changes no bit; one far above takes all the weight. */
            for (uint32_t h = 0; h < s.n_heads; h++)
                logits[h] = h % 2 ? -INFINITY : 1e6f;
            float *out = attend_all(&s);
            for (size_t i = 0; i < out_floats(&s); i++)
                if (i / s.head_dim % s.n_heads % 2 ? out[i] != without[i] : fabsf(out[i]) > 1e-30f)
                    ck_abort_msg("head %zu: %g, %g without a sink", i / s.head_dim % s.n_heads,
                                 (double)out[i], (double)without[i]);
            free(out);
            free(without);
            free(logits);
            memory_close(&memory, &s);
            scene_close(&s);
        }
}
END_TEST

/* ---- lists of slots */

struct lists {
    struct step_list of[MAX_SEGMENTS][8];
    uint32_t places[MAX_SEGMENTS][8][64], slots[MAX_SEGMENTS][8][64];
};

/* All pages with all used slots, or some pages with some of their slots; the newest slot of every
 * head, and the page after it, are among them, so that every row sees something. */
static void make_lists(struct lists *l, struct scene *s, bool all)
{
    memset(l, 0, sizeof *l);
    ck_assert_uint_le(s->n_kv_heads, 8);
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        const struct sequence *q = &s->sequences[i];
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            struct step_list *list = &l->of[i][h];
            list->places = l->places[i][h];
            list->slots = l->slots[i][h];
            for (uint32_t first = 0; first < q->n_slots; first += PAGE_SLOTS) {
                const uint32_t rest = q->n_slots - first;
                uint32_t used = rest < PAGE_SLOTS ? (UINT32_C(1) << rest) - 1 : UINT32_MAX,
                         rows = 0;
                for (uint32_t r = 0; r < q->n_rows; r++) { /* their own slots */
                    uint32_t slot =
                        q->slot_of[(size_t)(q->n_slots - 1 - r) * s->n_kv_heads + h] - first;
                    rows |= slot < PAGE_SLOTS ? UINT32_C(1) << slot : 0;
                }
                if (!all && random_below(2) && rows == 0)
                    continue;
                ck_assert_uint_lt(list->n, 64);
                l->places[i][h][list->n] = first / PAGE_SLOTS;
                l->slots[i][h][list->n++] = all ? used : (used & ((uint32_t)random_bits() | rows));
            }
        }
        s->segments[i].lists = l->of[i];
    }
}

START_TEST(a_list_of_all_pages_changes_no_bit_of_outputs_and_scores)
{
    random_state = 32;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t threads = 1; threads <= 2; threads++) {
            struct scene s;
            struct memory whole, listed;
            static struct lists lists;
            if (!scene_open(&s, _i, threads, long_shape(storage)))
                return;
            memory_open(&whole, &s);
            float *a = attend_all(&s);
            memory_open(&listed, &s);
            make_lists(&lists, &s, true);
            float *b = attend_all(&s);
            assert_same_bits(a, b, out_floats(&s));
            assert_same_memory(&s, &whole, &listed);
            free(a);
            free(b);
            memory_close(&whole, &s);
            memory_close(&listed, &s);
            scene_close(&s);
        }
}
END_TEST

/* Nothing but the list's slots is read, and only they are scored. */
START_TEST(a_list_is_what_attention_reads_and_scores)
{
    random_state = 33;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t round = 0; round < 4; round++) {
            struct scene s;
            struct memory memory;
            static struct lists lists;
            struct shape shape = round < 2 ? random_shape(3) : long_shape(storage);
            shape.storage = storage;
            if (!scene_open(&s, _i, 1 + round % 2, shape))
                return;
            memory_open(&memory, &s);
            make_lists(&lists, &s, false);
            check_scene(&s);
            check_last_scores(&s, &memory, 1);
            for (uint32_t h = 0; h < s.n_kv_heads; h++)
                for (uint32_t i = 0; i < s.sequences[1].n_slots; i++)
                    if (!is_listed(&s.segments[1], h, i))
                        ck_assert(memory.states[1][h].scores[i] == 0);
            memory_close(&memory, &s);
            scene_close(&s);
        }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("attention_lists");
    TCase *tc = suite_case(suite, "attention_lists", 120);
    tcase_add_loop_test(tc, a_sink_logit_takes_its_share_and_gives_no_value, 0, N_ISAS);
    tcase_add_loop_test(tc, a_list_of_all_pages_changes_no_bit_of_outputs_and_scores, 0, N_ISAS);
    tcase_add_loop_test(tc, a_list_is_what_attention_reads_and_scores, 0, N_ISAS);
    return suite_run(suite);
}
