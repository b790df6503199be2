/* Any bytes as the body of a chat, of a completion and as a cache policy. Must never crash,
 * overflow or leak. Seeds: `corpus/request`. */
#include <stdlib.h>
#include <string.h>

#include "server/api/plan_json.h"
#include "server/api/request.h"

enum { N_VOCAB = 512 };

/* What the parser lets through must be in range. */
static void expect_sane(const struct api_request *r)
{
    bool sane = r->n >= 1 && r->n <= MAX_CHOICES && r->n_stops <= MAX_STOPS &&
                r->n_prompts <= MAX_PROMPTS && r->sampling.temperature >= 0 &&
                r->sampling.temperature <= 2 && r->sampling.top_p >= 0 && r->sampling.top_p <= 1 &&
                r->n_logprobs >= -1 && r->n_logprobs <= 20 && r->max_tokens >= -1;
    for (uint32_t i = 0; i < r->n_stop_tokens; i++)
        sane = sane && r->stop_tokens[i] >= 0 && r->stop_tokens[i] < N_VOCAB;
    for (uint32_t i = 0; i < r->sampling.n_bias; i++)
        sane = sane && r->sampling.bias[i].token >= 0 && r->sampling.bias[i].token < N_VOCAB;
    if (!sane)
        abort();
    if (r->has_policy) {
        struct plan_limits limits = {.n_ctx_train = 512, .storage = STORAGE_F16};
        struct error e;
        const struct plan *plan = plan_resolve(&r->policy, 100, &limits, &e);
        if (plan && plan->has_budget && (plan->budget < 1 || plan->budget > 16777216))
            abort();
        plan_release(plan);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct api_request r;
    struct error e;
    struct plan_asked asked;
    for (int kind = API_REQUEST_CHAT; kind <= API_REQUEST_COMPLETION; kind++) {
        char *copy = malloc(size + 1);
        if (!copy)
            return 0;
        memcpy(copy, data, size);
        copy[size] = 0;
        bool ok = api_request_parse(&r, kind, copy, size, N_VOCAB, &e);
        free(copy); /* nothing may point into the text */
        if (ok) {
            expect_sane(&r);
            api_request_clear(&r);
        }
    }
    if (size <= 2048) {
        plan_parse_text((const char *)data, size, "X-KV-Policy", &asked, &e);
        plan_parse_suffix((const char *)data, size, "model", &asked, &e);
    }
    return 0;
}
