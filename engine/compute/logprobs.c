/* Log probabilities: see logprobs.h. */
#include "engine/compute/logprobs.h"

#include <float.h>
#include <math.h>
#include <string.h>

bool logits_are_finite(const float *logits, uint32_t n_vocab)
{
    uint32_t not_finite = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        not_finite |= (bits & 0x7F800000u) == 0x7F800000u; /* exponent of infinities and NaN */
    }
    return !not_finite;
}

/* The n best of the logits, by insertion: almost every logit fails the first comparison. */
static uint32_t find_top(const float *logits, uint32_t n_vocab, uint32_t n, struct top_logprob *top)
{
    uint32_t used = 0;
    for (uint32_t i = 0; n > 0 && i < n_vocab; i++) {
        if (used == n && logits[i] <= top[n - 1].logprob)
            continue;
        uint32_t place = used < n ? used++ : n - 1;
        for (; place > 0 && top[place - 1].logprob < logits[i]; place--)
            top[place] = top[place - 1];
        top[place] = (struct top_logprob){.token = (int32_t)i, .logprob = logits[i]};
    }
    return used;
}

float logprobs_of(const float *logits, uint32_t n_vocab, int32_t token, uint32_t n_top,
                  struct top_logprob *top, uint32_t *n_out)
{
    float best = logits[0];
    for (uint32_t i = 1; i < n_vocab; i++)
        best = logits[i] > best ? logits[i] : best;
    double sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += exp((double)logits[i] - (double)best);
    // cppcheck-suppress invalidFunctionArg ; the best logit adds exp(0) = 1
    double base = (double)best + log(sum);

    uint32_t used = find_top(logits, n_vocab, n_top, top);
    bool listed = n_top == 0;
    for (uint32_t i = 0; i < used; i++)
        listed |= top[i].token == token;
    if (!listed)
        top[used++] = (struct top_logprob){.token = token, .logprob = logits[token]};
    for (uint32_t i = 0; i < used; i++)
        top[i].logprob = (float)fmax((double)top[i].logprob - base, (double)-FLT_MAX);
    *n_out = used;
    return (float)fmax((double)logits[token] - base, (double)-FLT_MAX);
}
