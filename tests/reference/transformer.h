/* The reference transformer: one token at a time, in double, nothing shared with engine/compute/forward.c
 * or cache/. Written to be read beside the papers and to be right; speed does not matter.
 *
 * One layer, for the token of position t (x is the residual stream, [n_embd]):
 *
 *   h = rms_norm(x) * attn_norm                  rms_norm(x)_i = x_i / sqrt(mean(x^2) + eps)
 *   q = Wq h (+ bq), k = Wk h (+ bk), v = Wv h (+ bv)          Qwen2 has the biases
 *   q = rms_norm(q) * q_norm, k = ...            per head; Qwen3 only
 *   a_r = softmax_r( R(c_q) q . R(c_r) k_r / sqrt(head_dim) ), out = sum_r a_r v_r
 *   x += Wo out (+ bo)
 *   h = rms_norm(x) * ffn_norm;  x += Wdown( silu(Wgate h) * Wup h ),  silu(z) = z / (1 + e^-z)
 *
 * and after the last layer: logits = Woutput (rms_norm(x) * output_norm).
 * Llama (arXiv 2302.13971), RMSNorm (1910.07467), grouped-query attention (2305.13245): query head
 * g uses KV head g / (n_heads / n_kv_heads).
 *
 * R(c) is the rotation of RoFormer (2104.09864): pair i is turned by the angle
 * c * base^(-2i / rope_dim); a pair is (2i, 2i + 1) in Llama files, (i, i + rope_dim / 2) in Qwen.
 *
 * Keys are kept UNROTATED with their original positions, and rotated anew for every query, so the
 * rule of StreamingLLM (2309.17453, section 3.2: positions within the cache) can be taken word by
 * word. A query at position t sees the slots
 *
 *   full:        { p : p <= t }
 *   sink(S, B):  { p : p <= t and (p < S or p > t - (B - S)) }     the sinks and the B - S newest,
 *                                                                  the query's own included
 *
 * in order of position; the slot of rank r has c_r = r, and of C slots the query has c_q = C - 1.
 * Under `full` that is the original position. */
#ifndef WINNOW_TESTS_REFERENCE_TRANSFORMER_H
#define WINNOW_TESTS_REFERENCE_TRANSFORMER_H

#include "engine/model/model.h"
#include "tests/reference/policy.h"

struct transformer;

/* What the cache does to keys and values. STORED_F16 rounds them as a cache of rotated keys in f16
 * does: k becomes R(-p) f16(R(p) k). It tells what that storage costs from what is wrong: against
 * STORED_DOUBLE the engine is off by the rounding, against STORED_F16 by its float arithmetic. */
enum transformer_storage { STORED_DOUBLE, STORED_F16 };

/* budget 0 = full; otherwise sinks < budget. Room for max_tokens tokens (evicted ones stay in
 * memory: only what a query sees changes). The model outlives it; all its matrices must be F32.
 * NULL: "invalid_model" or "out_of_memory". */
struct transformer *transformer_new(const struct model *m, uint32_t sinks, uint32_t budget,
                                    enum transformer_storage storage, uint32_t max_tokens,
                                    struct error *e);
/* The same under any plan with original positions: what a query sees is policy.h's to say. */
struct transformer *transformer_new_plan(const struct model *m, const struct plan *plan,
                                         const struct head_profile *profile,
                                         enum transformer_storage storage, uint32_t max_tokens,
                                         struct error *e);
void transformer_free(struct transformer *t);
/* Of a transformer under a plan; its owner stays the transformer. */
struct policy *transformer_policy(struct transformer *t);

/* Feeds the next token. Returns the logits [n_vocab] that follow it, valid until the next call. */
const double *transformer_step(struct transformer *t, int32_t token);

/* What the last logits were made of, after the output norm [n_embd]; valid until the next step. */
const double *transformer_hidden(const struct transformer *t);

/* The token of the largest logit (the first of equal ones); *gap, which may be NULL, is its
 * distance from the second. */
int32_t transformer_greedy(const struct transformer *t, double *gap);
/* Log of the softmax of the last logits at `token`. */
double transformer_logprob(const struct transformer *t, int32_t token);

#endif
